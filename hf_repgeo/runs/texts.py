"""A model on texts: windows are drawn and run, and every layer's rows are measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..report import GeometryReport
from ..rows.corpus import Corpus
from ..rows.forward import stacks_of, text_reader
from ..rows.identity import windows_fingerprint
from ..rows.models import Loaded
from ..rows.processes import current_team
from ..rows.random_weights import states_on_tokens
from ..rows.representations import Representations, pooled_representations, token_representations, windows_for
from ..rows.sentences import check_sentence_transformer, sentence_facts, sentence_representations
from ..rows.shared_findings import found_once
from ..rows.text_stream import TextStream
from ..rows.windows import Windows, check_vocabulary, draw_windows, make_windows, resolve_window, window_limit
from .job import Job
from .kept_rows import KeptRows
from .provenance import machine, versions
from .request import answered, request_of
from .run_file import Run, open_run

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextInput:
    """What a model reads and which rows are taken; the attributes are keywords of `hf_repgeo.profile`."""

    corpus: Corpus | TextStream
    tokenizer: Any
    policies: list[str]
    pooling: str
    window: int | None
    pack: str
    oversample: int
    points: list[str] | None
    batch_size: int

    def facts(self) -> dict:
        """What decides the numbers, without the tokenizer."""
        options = ("policies", "pooling", "window", "pack", "oversample", "points")
        return {"text": self.corpus.provenance(), **{name: getattr(self, name) for name in options}}


def profile_texts(job: Job, given: TextInput) -> GeometryReport:
    """See `hf_repgeo.profile`: what it does with texts."""
    request = request_of(job, given.facts(), given.tokenizer)
    if (report := answered(job, request)) is not None:
        return report
    reading = TextReading.of(job, given)
    team = current_team()
    with open_run(job.out, reading.provenance(), request) as run:
        if not team.from_first(run.finished):
            _measure_places(run, reading)
    return team.from_first(run.report)


@dataclass(frozen=True)
class TextReading:
    """A loaded model with the windows of text that it is to read.

    Attributes:
        job, given: what was asked for.
        loaded: the model, its tokenizer, where it comes from.
        around: the SentenceTransformer whose modules make one row of a text; `None` for other poolings.
        window: tokens per window.
        windows: all of them.
    """

    job: Job
    given: TextInput
    loaded: Loaded
    around: SentenceTransformer | None
    window: int
    windows: Windows

    @classmethod
    def of(cls, job: Job, given: TextInput) -> TextReading:
        around = check_sentence_transformer(job.model) if given.pooling == "sentence" else None
        loaded = job.load(given.tokenizer, states_on_tokens)
        window = resolve_window(given.window, window_limit(loaded.model, loaded.tokenizer))
        windows = _windows(given, loaded.tokenizer, window)
        check_vocabulary(loaded.model, windows)
        return cls(job, given, replace(loaded, model=text_reader(loaded.model, windows)), around, window, windows)

    @property
    def by_token(self) -> bool:
        """Whether a row is a token."""
        return self.given.pooling == "tokens"

    @cached_property
    def drawn(self) -> Windows:
        """The windows that are run."""
        rows, seed = int(self.job.batch_means.rows), self.job.batch_means.seed
        if not self.by_token:
            return draw_windows(self.windows, seed, count=rows)
        policies, oversample = self.given.policies, self.given.oversample
        return windows_for(self.windows, self.loaded.tokenizer, policies, rows, oversample, seed)

    def provenance(self) -> dict:
        """Everything that decides the numbers."""
        given = self.given
        return {
            **self.job.identity(self.loaded, self.around),
            "text": given.corpus.provenance(),
            "windows": windows_fingerprint(self.drawn),
            "layers": self.job.layers,
            "tokens": given.policies if self.by_token else [given.pooling],
            "window": self.window,
            "pack": given.pack,
            "oversample": given.oversample,
            "final_norm": self.job.final_norm,
            **({} if given.points is None else {"points": given.points}),
            "stacks": {stack.name: stack.facts() for stack in stacks_of(self.loaded.model, self.windows)},
            **(sentence_facts(self.around) if self.around is not None else {}),
            **self.job.batch_means.provenance(),
            **versions(),
        }

    def collect(self) -> Representations:
        """The rows of every layer: the forward pass."""
        given, model, tokenizer = self.given, self.loaded.model, self.loaded.tokenizer
        draw: dict[str, Any] = {"rows": self.job.batch_means.rows, "seed": self.job.batch_means.seed}
        forward: dict[str, Any] = {"layers": self.job.layers, "final_norm": self.job.final_norm}
        forward |= {"batch_size": given.batch_size, "progress": self.job.bar("forward")}
        if self.around is not None:
            texts = list(given.corpus.texts(tokenizer))
            return sentence_representations(self.around, model, texts, self.windows, **draw, **forward)
        forward |= {} if given.points is None else {"points": given.points}
        if not self.by_token:
            return pooled_representations(model, self.drawn, given.pooling, **forward)
        return token_representations(model, tokenizer, self.drawn, policies=given.policies, **draw, **forward)


def _windows(given: TextInput, tokenizer: PreTrainedTokenizerBase, window: int) -> Windows:
    """The windows of the corpus; models with the same tokenizer share them."""
    corpus, pack = given.corpus, given.pack
    return found_once(
        "windows",
        lambda: (tokenizer, str(corpus.provenance()), window, pack),
        lambda: make_windows(tokenizer, corpus.texts(tokenizer), window, pack, corpus.separator),
    )


def _measure_places(run: Run, reading: TextReading) -> None:
    """Fills the report place by place; what an earlier run measured is left alone, the rows it kept are used.

    Several processes measure one place each at a time, and the first puts the rows into the report.
    """
    team, kept, job = current_team(), KeptRows(run), reading.job
    found = kept.read() or kept.write(reading.collect)
    run.report.provenance |= {"pool": found.facts} | machine()
    places = found.places
    done = team.from_first({place for place in places if run.has(place)})
    for start in job.bar("geometry")(iter(range(0, len(places), team.size)), -(-len(places) // team.size)):
        own = [place for place in team.share(places[start : start + team.size]) if place not in done]
        measured = [(place, job.measured(place, found, run.report.provenance)) for place in own]
        for place, rows in chain(*team.gather(measured, to=0) or ()):
            run.add(place, rows)
    run.finish()
    kept.delete()
