"""`hf-repgeo downstream`: what geometry says about downstream scores, one verb a step of the study."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import add_flags, given

ROOM = "hf_repgeo.downstream"
SAMPLE, PERTURB = f"{ROOM}.sequences.sample_sequences", f"{ROOM}.perturbation.perturb"
SAMPLING = ("n", "min_words", "max_words", "seed")
PERTURBING = ("seed", "how", "layers", "kinds")


def add(commands) -> None:
    """Adds `downstream` to the commands of the parser."""
    about = "What a model's geometry says about its downstream scores: samples, perturbed models, studies, regressions."
    parser = commands.add_parser("downstream", help="geometry and downstream scores", description=about)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for add_verb in (_add_sample, _add_perturb):
        add_verb(verbs)


def _add_sample(verbs) -> None:
    about = "Draw distinct short lines, every file equally often, and say how far they are from the files' frequencies."
    parser = verbs.add_parser("sample", help="sequences from several corpora", description=about)
    parser.set_defaults(run=sample)
    corpora = "text files, one sequence a line, or data sets NAME:CONFIG:SPLIT (default: the packaged text's sentences)"
    parser.add_argument("corpora", nargs="*", metavar="FILE", help=corpora)
    add_flags(parser, SAMPLE, *SAMPLING)
    parser.add_argument("--out", required=True, metavar="DIR", help="sequences.txt, frequencies.txt, frequencies.png")


def sample(options: argparse.Namespace) -> None:
    """Writes the sequences, prints their distances from the corpora."""
    from ..downstream import frequency_report, plot_frequencies, sample_sequences

    drawn = sample_sequences(options.corpora or None, **given(options, *SAMPLING))
    report = frequency_report(drawn)
    out = _folder(options.out)
    (out / "sequences.txt").write_text("\n".join(drawn.sequences) + "\n", encoding="utf-8")
    (out / "frequencies.txt").write_text(f"{report}\n", encoding="utf-8")
    plot_frequencies(report).savefig(out / "frequencies.png", dpi=150)
    print(f"{len(drawn)} sequences: {out / 'sequences.txt'}\n{report}")


def _add_perturb(verbs) -> None:
    about = "Save a perturbed copy of a model: W' = (1 - A) W + A E on the weights of its blocks."
    parser = verbs.add_parser("perturb", help="a model with noise in it", description=about)
    parser.set_defaults(run=perturb)
    parser.add_argument("model", metavar="MODEL", help="Hub id, folder or pip:PACKAGE")
    parser.add_argument("--alpha", type=float, required=True, metavar="A", help="dose, 0 to 1")
    add_flags(parser, PERTURB, *PERTURBING, layers="L,...", kinds="KIND,...")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write, readable by from_pretrained")


def perturb(options: argparse.Namespace) -> None:
    """Writes the perturbed model and its tokenizer, and prints the folder."""
    from ..downstream import Perturbation, save_perturbed
    from ..rows.models import load_model

    choices = given(options, *PERTURBING)
    choices |= {name: tuple(choices[name]) for name in ("layers", "kinds") if name in choices}
    recipe = Perturbation(options.alpha, **choices)
    loaded = load_model(options.model)
    print(save_perturbed(loaded.model, options.out, recipe, loaded.tokenizer))


def _folder(path: str) -> Path:
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
