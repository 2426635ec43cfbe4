"""A study: models x doses x runs x tasks into one table; finished jobs are not repeated, failed ones are recorded."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput, UnknownName
from ..report_text import short_name
from ..rows.models import Loaded, load_model
from .finetune import FinetuneSettings, finetune, need_trainer
from .geometry import CHEAP, TokenizedTexts, drift, geometry_of, last_layer, text_means
from .glue_files import Rows, Task, load_task, task_of
from .perturbation import How, Perturbation, perturb
from .probes import OWN, PROBES, ProbeTask, own_task, probe_score, probe_task
from .results import FINETUNED, Result, ResultStore
from .sequences import SequenceSample, sample_sequences

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedModel

# The paper's doses, thinned: dense where BERT-like models lose their skills.
ALPHAS = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.4, 1.0)


@dataclass(frozen=True)
class StudySettings:
    """The perturbations of each model, and what is measured.

    Attributes:
        alphas: doses, 0 to 1; default: 13 of them, dense where BERT-like models lose their skills.
        runs: repeats of each dose, each with its own noise.
        how: noise, scaled_noise, reinitialize or shuffle_embeddings; see `Perturbation`.
        tasks: geometry, GLUE tasks, tuned_chunks and tuned_frames (fine-tuned), probing tasks; default: geometry,
            chunks and frames.
        measures: names, or NAME@QUANTIZER, as in `geometry_of`; default: those that cost little.
        sequences: number of sequences on which geometry is measured.
        corpora: text files or data sets that the sequences come from; default: the packaged sample of Wikipedia.
        data: folder in GLUE's layout; default: the Hub.
        finetuning: of the tasks that are fine-tuned.
        batch_size: sequences per forward pass of geometry and probes.
        bf16: matrix products of geometry and probes in bfloat16.
        seed: of noise, sample and quantizers.
    """

    alphas: tuple[float, ...] = ALPHAS
    runs: int = 3
    how: How = "noise"
    tasks: tuple[str, ...] = ("geometry", "chunks", "frames")
    measures: tuple[str, ...] = CHEAP
    sequences: int = 400
    corpora: tuple[str, ...] | None = None
    data: str | None = None
    finetuning: FinetuneSettings = FinetuneSettings()
    batch_size: int = 64
    bf16: bool = False
    seed: int = 0

    def __post_init__(self):
        known = ("geometry", *FINETUNED, *PROBES)
        for task in self.tasks:
            if task not in known:
                raise UnknownName("task", task, known)
        if not self.tasks or not self.alphas or self.runs < 1:
            came = f"{len(self.tasks)} tasks, {len(self.alphas)} doses, {self.runs} runs"
            raise BadInput("tasks", came=came, wanted="at least one of each")
        for alpha in self.alphas:
            Perturbation(alpha, how=self.how)

    def recipes(self) -> Iterator[tuple[int, Perturbation]]:
        """`(run, perturbation)`, run by run; every dose and run has a seed of its own, so that repeats are independent.

        Without noise only fine-tuning differs from run to run; where nothing is fine-tuned, dose 0 has one run.
        """
        finetuned = any(task in FINETUNED for task in self.tasks)
        for run in range(self.runs):
            for alpha in self.alphas:
                if alpha == 0 and run and not finetuned:
                    continue
                digest = hashlib.sha256(f"{self.seed}/{alpha:.6g}/{run}".encode()).digest()
                yield run, Perturbation(alpha, int.from_bytes(digest[:4], "big") >> 1, self.how)


def study(
    models: Mapping[str, str] | Sequence[str],
    out: str | Path,
    settings: StudySettings | None = None,
    *,
    architectures: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Path:
    """Perturbs models in doses, measures the geometry of each and its score on each task, and writes one table.

    Tokenized sample, sentences and base weights are kept between doses. A job is a (model, dose, run, task); finished
    jobs are in `out`, and the same call runs the others. A job that fails is recorded with its error, and the study
    continues; the next call tries it again. Under `torchrun` or `accelerate launch` every process takes its share of
    the (model, dose, run)s, each on its own GPU.

    Args:
        models: Hub ids, folders or `pip:PACKAGE`; or a mapping from the names to use in the table.
        out: folder of the results: `tidy.csv`, `table.csv`, and what is needed to resume.
        settings: see `StudySettings`.
        architectures: name -> family, for regressions; default: the model's own type and width.
        progress: show a bar over the whole with the time left.

    Returns:
        The path of `table.csv`.

    Raises:
        BadInput: no such data or model, or `out` holds another study. All data and models are read before any job.
        MissingExtra: a package for fine-tuning is missing.
    """
    settings = settings or StudySettings()
    named = dict(models) if isinstance(models, Mapping) else {short_name(place): place for place in models}
    rank, world = _share_of_launch()
    store = ResultStore(out, {**asdict(settings), "models": named}, rank)
    inputs = StudyInputs.of(settings)
    recipes = list(settings.recipes())
    by_run = sorted(((name, *pair) for name in named for pair in recipes), key=lambda job: job[1])
    done = store.done()
    todo = [  # run by run over all models, so that an interrupted study is a complete one with fewer runs
        (name, run, recipe, missing)
        for name, run, recipe in by_run[rank::world]
        if (missing := [t for t in settings.tasks if (name, recipe.how, recipe.alpha, run, t) not in done])
    ]
    under_study: ModelUnderStudy | None = None
    with _bar(progress and rank == 0, sum(len(missing) for *_, missing in todo)) as bar:
        for name, run, recipe, missing in todo:
            if under_study is None or under_study.name != name:
                under_study = ModelUnderStudy.of(name, named[name], inputs, (architectures or {}).get(name))
            for result in under_study.results(run, recipe, missing):
                store.append(result)
                bar.set_postfix_str(f"{name} {recipe.alpha:g} {result.task}", refresh=False)
                bar.update()
    return store.write_tables()[1]


def _bar(show: bool, total: int) -> tqdm:
    """A progress bar over the jobs that are not finished."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="study", disable=not show, smoothing=0.05)


def _share_of_launch() -> tuple[int, int]:
    """This process's number and how many there are, under a launcher of distributed programs.

    The jobs are independent and each fits on one device, so processes share jobs, not gradients. The launcher's
    variables are removed from the environment: otherwise Trainer would wait for the other processes.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    return rank, world


# --- inputs of all models --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyInputs:
    """Everything that is read before the first job, so that a missing file does not end a study half way."""

    settings: StudySettings
    sample: SequenceSample
    probes: dict[str, ProbeTask]
    finetuned: dict[str, tuple[Task, dict[str, Rows]]]

    @classmethod
    def of(cls, settings: StudySettings) -> StudyInputs:
        finetuned = [task for task in settings.tasks if task in FINETUNED]
        if finetuned:
            need_trainer()
        sample = sample_sequences(settings.corpora, settings.sequences, seed=settings.seed)
        limits = {"train_rows": settings.finetuning.train_rows, "dev_rows": settings.finetuning.dev_rows}
        probes = {name: probe_task(name, settings.data, **limits) for name in settings.tasks if name in PROBES}
        return cls(settings, sample, probes, {name: _finetuned_task(name, settings.data) for name in finetuned})


def _finetuned_task(name: str, data: str | None) -> tuple[Task, dict[str, Rows]]:
    return own_task(name) if name in OWN else (task_of(name), load_task(name, data))


class ModelUnderStudy:
    """A base model with its tokenized inputs; `results` perturbs it and runs the tasks."""

    def __init__(self, name: str, place: str, architecture: str, loaded: Loaded, inputs: StudyInputs):
        self.name, self.place, self.architecture, self.inputs = name, place, architecture, inputs
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.base: torch.Tensor | None = None
        self.sample = self._tokenized(inputs.sample.sequences)
        self.sentences = {task: self._tokenized(probe.texts) for task, probe in inputs.probes.items()}

    @classmethod
    def of(cls, name: str, place: str, inputs: StudyInputs, architecture: str | None = None) -> ModelUnderStudy:
        """Loads a model in float32, because a small dose is lost in half precision."""
        loaded = load_model(place, dtype="float32")
        return cls(name, place, architecture or architecture_of(loaded.model), loaded, inputs)

    def results(self, run: int, recipe: Perturbation, tasks: list[str]) -> Iterator[Result]:
        """One result per task, in order; an exception becomes a result with its text."""
        if "geometry" in tasks:
            self._unperturbed()
        head = Result(self.name, self.architecture, recipe.how, recipe.alpha, run, recipe.seed, "")
        with _recording(head, tasks) as failed:
            with perturb(self.model, recipe.alpha, recipe.seed, how=recipe.how):
                for task in tasks:
                    yield self._result(replace(head, task=task), recipe)
        yield from failed

    def _result(self, result: Result, recipe: Perturbation) -> Result:
        start = time.perf_counter()
        try:
            if result.task == "geometry":
                values = self._geometry()
            elif result.task in self.sentences:
                values = self._probe(result.task)
            else:
                values = self._finetune(result.task, recipe, result.run)
            found = replace(result, values=_finite(values))
        except Exception as error:  # whatever a task raises, the study continues
            found = replace(result, error=f"{type(error).__name__}: {error}"[:500])
        return replace(found, seconds=round(time.perf_counter() - start, 3))

    def _tokenized(self, texts: list[str]) -> TokenizedTexts:
        return TokenizedTexts.of(texts, self.tokenizer, self.model)

    def _rows(self, texts: TokenizedTexts) -> torch.Tensor:
        settings = self.inputs.settings
        return last_layer(self.model, texts, batch_size=settings.batch_size, bf16=settings.bf16)

    def _unperturbed(self) -> torch.Tensor:
        """The base model's rows, made before it is perturbed for the first time."""
        if self.base is None:
            self.base = self._rows(self.sample)
        return self.base

    def _geometry(self) -> dict:
        rows = self._rows(self.sample)
        values = geometry_of(rows, self.inputs.settings.measures, seed=self.inputs.settings.seed)
        return values | {"drift": drift(rows, self._unperturbed())}

    def _probe(self, task: str) -> dict:
        texts = self.sentences[task]
        return probe_score(text_means(self._rows(texts), texts), self.inputs.probes[task])

    def _finetune(self, task: str, recipe: Perturbation, run: int) -> dict:
        settings = self.inputs.settings.finetuning
        place = str(getattr(self.model.config, "_name_or_path", "") or self.place)
        return finetune(place, *self.inputs.finetuned[task], settings, self.tokenizer, recipe=recipe, run=run)


@contextmanager
def _recording(head: Result, tasks: list[str]) -> Iterator[list[Result]]:
    """A list that gets one failed result per task if the model itself cannot be perturbed."""
    failed: list[Result] = []
    try:
        yield failed
    except (RuntimeError, ValueError) as error:
        failed += [replace(head, task=task, error=f"{type(error).__name__}: {error}"[:500]) for task in tasks]


def _finite(values: dict) -> dict:
    return {name: value if value is not None and abs(value) < float("inf") else None for name, value in values.items()}


def architecture_of(model: PreTrainedModel) -> str:
    """The family by which regressions tell models apart: type, depth and width, such as `bert-6x384`."""
    config = model.config
    return f"{config.model_type}-{config.num_hidden_layers}x{config.hidden_size}"
