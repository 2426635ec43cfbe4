"""`hf-repgeo blm generate`: data sets from our own lexicons, written as a folder or pushed to the Hub."""

from __future__ import annotations

import argparse

from ..blm.export import TASKS, generate, generated_card, push_dataset, save_dataset
from .options import add_flags, given

GENERATE = "hf_repgeo.blm.export.generate"
KEYWORDS = ("language", "type", "direction", "split", "negatives", "seed")


def add(commands) -> None:
    """Adds `blm` to the commands of the parser."""
    blm = commands.add_parser("blm", help="Blackbird Language Matrices and chunk-pattern sentences")
    command = blm.add_subparsers(required=True, metavar="command").add_parser(
        "generate", help="write a data set as Parquet files with a card"
    )
    command.add_argument("task", choices=TASKS)
    add_flags(command, GENERATE, *KEYWORDS)
    command.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    command.add_argument("--push-to-hub", metavar="USER/NAME", help="also push it")
    command.set_defaults(run=run_generate)


def run_generate(args: argparse.Namespace) -> int:
    """Generate, write, and say what was written."""
    from ..rows.options import made_folder

    made_folder("--output", args.output)
    data = generate(args.task, **given(args, *KEYWORDS))
    card = generated_card(data, args.task, **given(args, "language", "type", "split", "seed"))
    print(save_dataset(data, args.output, card))
    print(", ".join(f"{name}: {part.num_rows}" for name, part in data.items()))
    if args.push_to_hub:
        print(push_dataset(data, args.push_to_hub, card))
    return 0
