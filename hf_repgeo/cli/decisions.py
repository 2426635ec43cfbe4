"""The commands that answer a question: floor, layer, finetune, quant, dims, index, dedup, checkpoint."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib import import_module

from ..errors import BadInput
from .options import add_flags, given

ROOM = "hf_repgeo.decisions"
ROWS = "a matrix (.npy, .safetensors, .parquet), or a model: Hub id, folder, pip:PACKAGE"
MODEL = "Hub id, folder or pip:PACKAGE"
SHARED = ("layer", "pooling", "tokenizer", "batch_size", "seed")


@dataclass(frozen=True)
class Question:
    """One command.

    Attributes:
        command: its name.
        about: what it answers.
        function: in `hf_repgeo.decisions`, as `module.name`.
        arguments: positional ones: keyword -> help.
        flags: keywords of the function that are options.
        required: those of the flags that must be given.
    """

    command: str
    about: str
    function: str
    arguments: dict[str, str]
    flags: tuple[str, ...]
    required: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Full name of the function."""
        return f"{ROOM}.{self.function}"


QUESTIONS = (
    Question(
        "floor", "Which cosine means related?", "floor.cosine_floor", {"model": ROWS}, ("texts", "pairs", *SHARED)
    ),
    Question(
        "layer",
        "Which layer and pooling give the best embeddings?",
        "layer.choose_layer",
        {"model": MODEL},
        ("pairs", "layers", "tokenizer", "batch_size", "seed"),
        ("pairs",),
    ),
    Question(
        "finetune",
        "Did a fine-tune collapse?",
        "finetune.check_finetune",
        {"base": f"the model before: {MODEL}", "tuned": "the model after"},
        ("texts", "labels", "heldout", "pairs", *SHARED),
        ("texts",),
    ),
    Question(
        "quant",
        "Did quantization hurt?",
        "quantization.check_quantization",
        {"original": MODEL, "quantized": "its quantized, converted or served copy"},
        ("texts", "pooling", "pooling_quantized", "tokenizer", "tokenizer_quantized", "batch_size", "seed"),
    ),
    Question(
        "dims",
        "How far can embeddings be truncated?",
        "dimensions.choose_dimensions",
        {"data": ROWS},
        ("texts", "pairs", "kept", "column", *SHARED),
    ),
    Question(
        "index",
        "Is a binary or 8-bit index safe?",
        "index.check_index",
        {"data": ROWS},
        ("texts", "pairs", "column", *SHARED),
    ),
    Question(
        "dedup",
        "Which cosine marks a duplicate?",
        "dedup.dedup_threshold",
        {"data": ROWS},
        ("texts", "groups", "false_share", "column", *SHARED),
    ),
    Question(
        "checkpoint",
        "Which checkpoint of a training?",
        "checkpoint.choose_checkpoint",
        {"folder": "of a run, with a model in each subfolder"},
        ("pairs", *SHARED),
        ("pairs",),
    ),
)


def add(commands) -> None:
    """Adds the eight commands to the parser."""
    for question in QUESTIONS:
        about = f"{question.about} A verdict with its evidence, as a table and a picture; see the page on decisions."
        parser = commands.add_parser(question.command, help=question.about.rstrip("?").lower(), description=about)
        parser.set_defaults(run=_runner(question))
        for name, said in question.arguments.items():
            parser.add_argument(name, metavar=name.upper(), help=said)
        files = {name: "FILE" for name in ("texts", "pairs", "heldout", "groups", "labels")}
        add_flags(parser, question.name, *question.flags, **files, layers="L,...")
        parser.add_argument("--out", metavar="DIR", help="also write decision.json and decision.png")
        parser.add_argument("--json", action="store_true", help="print JSON")


def _runner(question: Question):
    def run(options: argparse.Namespace) -> None:
        """Answers the question, writes the files if asked to, and prints the decision."""
        from ..rows.options import made_folder

        for name in question.required:
            if not hasattr(options, name):
                raise BadInput(f"--{name}", came="nothing", wanted="a file: this command reads it")
        out = made_folder("--out", options.out) if options.out else None
        module, _, name = question.name.rpartition(".")
        chosen = given(options, *question.flags)
        if "groups" in chosen:
            chosen["groups"] = import_module(f"{ROOM}.inputs").read_lines(chosen["groups"], "groups")
        positional = {argument: getattr(options, argument) for argument in question.arguments}
        decision = getattr(import_module(module), name)(**positional, **chosen)
        if out:
            decision.save(out)
        print(json.dumps(decision.as_dict(), indent=1, default=str) if options.json else decision)

    return run
