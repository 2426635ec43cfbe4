"""`hf-repgeo blm generate`: data sets from our own lexicons, written as a folder or pushed to the Hub."""

from __future__ import annotations

import argparse

from ..blm.alternation import DIRECTIONS
from ..blm.chunks import NEGATIVES
from ..blm.export import TASKS, data_card, generate, push_dataset, save_dataset
from ..blm.lexicon import LANGUAGES
from ..blm.matrices import TYPES


def add(commands) -> None:
    """Adds `blm` to the commands of the parser."""
    blm = commands.add_parser("blm", help="Blackbird Language Matrices and chunk-pattern sentences")
    command = blm.add_subparsers(required=True, metavar="command").add_parser(
        "generate", help="write a data set as Parquet files with a card"
    )
    command.add_argument("task", choices=TASKS)
    command.add_argument("--language", choices=LANGUAGES, default="en")
    command.add_argument("--type", choices=TYPES, default="I", help="type of matrix: lexical variation, from I to III")
    command.add_argument("--direction", choices=DIRECTIONS, default="ALT-ATL", help="of the alternation")
    command.add_argument("--split", choices=("pairs", "seeds", "patterns", "answers"), help="default: the paper's")
    command.add_argument("--negatives", choices=NEGATIVES, default="random", help="of the chunk task")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--output", required=True, help="folder to write")
    command.add_argument("--push-to-hub", metavar="USER/NAME", help="also push it")
    command.set_defaults(run=run_generate)


def run_generate(args: argparse.Namespace) -> int:
    """Generate, write, and say what was written."""
    choices = {key: getattr(args, key) for key in ("type", "direction", "split", "negatives", "seed")}
    data = generate(args.task, args.language, **choices)
    split = args.split or {"chunks": "pairs"}.get(args.task, "answers")
    title = " ".join(
        [f"BLM {args.task}", *([] if args.task == "chunks" else [f"type {args.type}"]), f"({args.language})"]
    )
    card = data_card(data, title, language=args.language, split=split, seed=args.seed)
    print(save_dataset(data, args.output, card))
    print(", ".join(f"{name}: {part.num_rows}" for name, part in data.items()))
    if args.push_to_hub:
        print(push_dataset(data, args.push_to_hub, card))
    return 0
