"""`hf-repgeo downstream`: what geometry says about downstream scores, one verb per step of the study."""

from __future__ import annotations

import argparse
from typing import Any

from ..report_text import short_name
from ..writing import write_whole
from .options import add_flags, given
from .output import save_figure

ROOM = "hf_repgeo.downstream"
SAMPLE, PERTURB = f"{ROOM}.sequences.sample_sequences", f"{ROOM}.perturbation.perturb"
SAMPLING = ("n", "min_words", "max_words", "seed")
PERTURBING = ("seed", "how", "layers", "kinds")
PREDICT, PREDICTING = f"{ROOM}.expectation.expect_score", ("score", "measure", "architecture")
SELECT, SELECTING = f"{ROOM}.selection.select_encoder", ("measure", "rows", "seed")
SETTINGS = f"{ROOM}.studies.StudySettings"
SETTING = ("tasks", "alphas", "runs", "how", "measures", "data", "corpora", "sequences", "batch_size", "seed", "bf16")
TUNE = f"{ROOM}.finetune.FinetuneSettings"
TUNING = ("learning_rate", "epochs", "steps", "max_length", "device_batch_size", "train_rows", "dev_rows")
REGRESS = f"{ROOM}.regression.regress"
REGRESSING = ("measures", "baselines", "architecture", "dose", "headline", "seed")


def add(commands) -> None:
    """Adds `downstream` to the commands of the parser."""
    about = "What a model's geometry says about its downstream scores: samples, perturbed models, studies, regressions."
    parser = commands.add_parser("downstream", help="geometry and downstream scores", description=about)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for add_verb in (_add_sample, _add_perturb, _add_study, _add_regress, _add_predict, _add_select):
        add_verb(verbs)


def _add_sample(verbs) -> None:
    about = "Draw distinct short lines, every file equally often, and say how far they are from the files' frequencies."
    parser = verbs.add_parser("sample", help="sequences from several corpora", description=about)
    parser.set_defaults(run=sample)
    corpora = "text files with one sequence per line, or data sets NAME:CONFIG:SPLIT (default: the packaged sentences)"
    parser.add_argument("corpora", nargs="*", metavar="FILE", help=corpora)
    add_flags(parser, SAMPLE, *SAMPLING)
    parser.add_argument("--out", required=True, metavar="DIR", help="sequences.txt, frequencies.txt, frequencies.png")


def sample(options: argparse.Namespace) -> None:
    """Writes the sequences, prints their distances from the corpora."""
    from ..downstream import frequency_report, plot_frequencies, sample_sequences
    from ..rows.options import made_folder

    out = made_folder("--out", options.out)
    drawn = sample_sequences(options.corpora or None, **given(options, *SAMPLING))
    report = frequency_report(drawn)
    write_whole(out / "sequences.txt", "\n".join(drawn.sequences) + "\n")
    write_whole(out / "frequencies.txt", f"{report}\n")
    save_figure(plot_frequencies(report), out / "frequencies.png")
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
    from ..rows.options import as_folder

    as_folder("--out", options.out)
    choices = given(options, *PERTURBING)
    choices |= {name: tuple(choices[name]) for name in ("layers", "kinds") if name in choices}
    recipe = Perturbation(options.alpha, **choices)
    loaded = load_model(options.model)
    print(save_perturbed(loaded.model, options.out, recipe, loaded.tokenizer))


STUDY = """\
Perturb models in doses, measure the geometry of each and its score on each task, and write one table.

TASK is geometry; cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli or glue for all nine, fine-tuned; tuned_chunks and
tuned_frames, fine-tuned on sentences of our own; frozen_qnli and others, chunks and frames: a linear classifier on the
frozen model.

An interrupted study resumes when the same command is given again. On several GPUs:
  torchrun --nproc-per-node 8 -m hf_repgeo downstream study MODEL --tasks geometry,glue --data GLUE --out DIR
"""


def _add_study(verbs) -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("study", help="models x doses x runs x tasks", description=STUDY, formatter_class=form)
    going_on = {"interrupted": lambda options: f"the same command resumes from {options.out}"}
    parser.set_defaults(run=study, shared="jobs", **going_on)
    parser.add_argument("models", nargs="+", metavar="[NAME=]MODEL", help="Hub ids, folders or pip:PACKAGE")
    lists = {"tasks": "TASK,...", "alphas": "A,...", "measures": "NAME,...", "corpora": "FILE,..."}
    add_flags(parser, SETTINGS, *SETTING, data="DIR", **lists)
    add_flags(parser.add_argument_group("fine-tuning (defaults: the paper's)"), TUNE, *TUNING)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--out", required=True, metavar="DIR", help="table.csv, tidy.csv, and what is needed to go on")


def study(options: argparse.Namespace) -> None:
    """Runs what is left of the study, and prints the table's path and how many jobs failed."""
    from ..downstream import FinetuneSettings, StudySettings, study
    from ..downstream.glue_files import TASKS
    from ..downstream.results import ResultStore

    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given(options, *SETTING).items()
    }
    if "tasks" in chosen:
        chosen["tasks"] = tuple(t for task in chosen["tasks"] for t in (TASKS if task == "glue" else [task]))
    finetuning = FinetuneSettings(**given(options, *TUNING, "bf16"))
    models = dict(_named(entry) for entry in options.models)
    path = study(models, options.out, StudySettings(**chosen, finetuning=finetuning), progress=not options.quiet)
    failed = [result for result in ResultStore(options.out).read() if result.error is not None]
    print(path)
    if failed:
        print(f"{len(failed)} jobs failed, the first with {failed[0].error}; the same command tries them again")


def _named(entry: str) -> tuple[str, str]:
    name, _, place = entry.rpartition("=")
    return name or short_name(place), place


def _add_regress(verbs) -> None:
    about = "Regress a score on measures of geometry, with the checks against the dose, by family and by permutation."
    parser = verbs.add_parser("regress", help="scores on geometry, as a report", description=about)
    parser.set_defaults(run=regress)
    parser.add_argument("table", metavar="TABLE", help="CSV, TSV or Parquet, wide or long")
    parser.add_argument("--score", required=True, metavar="COLUMN", help="what is to be explained")
    columns = {name: "COLUMN" for name in ("architecture", "dose", "headline")}
    add_flags(parser, REGRESS, *REGRESSING, measures="COLUMN,...", baselines="COLUMN,...", **columns)
    parser.add_argument("--out", required=True, metavar="DIR", help="report.html, report.md, report.json, figures/")


def regress(options: argparse.Namespace) -> None:
    """Writes the report and prints what it says in short."""
    from ..downstream import regress, write_report
    from ..downstream.report import sections
    from ..rows.options import made_folder

    out = made_folder("--out", options.out)
    result = regress(options.table, options.score, **given(options, *REGRESSING))
    page = write_report(result, out, f"Geometry and {options.score}")
    print("\n".join(sections(result)[0].text))
    print(page)


def _add_predict(verbs) -> None:
    about = "The score to expect of a model from its geometry, with an interval; nothing is fine-tuned."
    parser = verbs.add_parser("predict", help="a score without fine-tuning", description=about)
    parser.set_defaults(run=predict)
    parser.add_argument("model", metavar="MODEL", help="Hub id, folder or pip:PACKAGE")
    parser.add_argument("--fit", metavar="TABLE", help="table.csv of a study (default: the shipped one)")
    columns = {"score": "COLUMN", "measure": "COLUMN", "architecture": "NAME"}
    add_flags(parser, PREDICT, *PREDICTING, **columns)


def predict(options: argparse.Namespace) -> None:
    """Prints the expected score, its interval, and warnings."""
    from ..downstream import expect_score

    print(expect_score(options.model, options.fit, **given(options, *PREDICTING)))


def _add_select(verbs) -> None:
    about = "Rank encoders for labelled data by a cheap probe and by geometry; does geometry add anything to the probe?"
    parser = verbs.add_parser("select", help="an encoder for one's own data", description=about)
    parser.set_defaults(run=select)
    parser.add_argument("models", nargs="+", metavar="[NAME=]MODEL", help="Hub ids, folders or pip:PACKAGE")
    data = "CSV or TSV with the columns text (text2) and label, or FOLDER:qnli, a task in GLUE's layout"
    parser.add_argument("--task", required=True, metavar="DATA", help=data)
    scores = "CSV with the columns model and score: the scores after fine-tuning, of eight encoders or more"
    parser.add_argument("--outcomes", metavar="FILE", help=scores)
    add_flags(parser, SELECT, *SELECTING, measure="NAME")


def select(options: argparse.Namespace) -> None:
    """Prints the ranking and the verdict."""
    from ..downstream import select_encoder

    outcomes = _outcomes(options.outcomes) if options.outcomes else None
    models = dict(_named(entry) for entry in options.models)
    print(select_encoder(models, options.task, outcomes=outcomes, **given(options, *SELECTING)))


def _outcomes(path: str) -> dict[str, float]:
    from ..downstream.tables import read_scores

    table = read_scores(path, "score", measures=["score"])
    return dict(zip(table.frame["model"].astype(str), table.score.tolist()))
