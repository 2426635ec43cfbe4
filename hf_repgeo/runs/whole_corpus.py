"""A model on every token of a corpus of any length, in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import torch

from ..errors import BadInput
from ..measures import evaluate_all, with_chance
from ..measures.averages import columns_of
from ..report import GeometryReport
from ..rows.capture import Place
from ..rows.forward import forward_windows, places_of, runs_unpadded, stacks_of, text_reader
from ..rows.models import Loaded
from ..rows.processes import current_team
from ..rows.random_weights import states_on_tokens
from ..rows.representations import Representations
from ..rows.streams import RowStream, drawn
from ..rows.windows import Windows, check_vocabulary, resolve_window, window_limit, window_stream
from .job import Job, warnings_of
from .provenance import machine, versions
from .request import answered, request_of
from .run_file import Run, open_run
from .texts import TextInput

POLICIES = ("all", "no_special")  # the others need the norms of all tokens, or all types, before the first row


def profile_corpus(job: Job, given: TextInput) -> GeometryReport:
    """See `hf_repgeo.profile`: what it does with `rows="all"`."""
    _check(given)
    request = request_of(job, {"whole": True, **given.facts()}, given.tokenizer)
    if (report := answered(job, request)) is not None:
        return report
    loaded = job.load(given.tokenizer, states_on_tokens)
    window = resolve_window(given.window, window_limit(loaded.model, loaded.tokenizer))
    texts = given.corpus.texts(loaded.tokenizer)
    chunks = window_stream(loaded.tokenizer, texts, window, given.pack, given.corpus.separator)
    first = next(chunks, None)
    if first is None:
        raise BadInput("texts", came="texts that hold no token for this tokenizer", wanted="at least one token")
    check_vocabulary(loaded.model, first)
    loaded, team = replace(loaded, model=text_reader(loaded.model, first)), current_team()
    with open_run(job.out, _provenance(job, given, loaded, window, first), request) as run:
        if not team.from_first(run.finished):
            pool = _Pool(job, given, loaded)
            pool.read(chain([first], chunks))
            _measure(run, pool, runs_unpadded(loaded.model, first))
    return team.from_first(run.report)


def _check(given: TextInput) -> None:
    wrong = [policy for policy in given.policies if policy not in POLICIES]
    if wrong or given.pooling != "tokens":
        came = f"{wrong[0]!r}" if wrong else f"pooling {given.pooling!r}"
        wanted = "'all' or 'no_special' with rows='all': tokens that are known without the whole corpus"
        raise BadInput("tokens" if wrong else "pooling", came=came, wanted=wanted)


def _provenance(job: Job, given: TextInput, loaded: Loaded, window: int, first: Windows) -> dict:
    return {
        **job.identity(loaded),
        "text": given.corpus.provenance(),
        "layers": job.layers,
        "tokens": given.policies,
        "window": window,
        "pack": given.pack,
        "final_norm": job.final_norm,
        **({} if given.points is None else {"points": given.points}),
        "stacks": {stack.name: stack.facts() for stack in stacks_of(loaded.model, first)},
        **job.batch_means.provenance(),
        **versions(),
    }


@dataclass
class _Pool:
    """What is kept of the tokens of the corpus: moments and a draw of rows, of each place and policy."""

    job: Job
    given: TextInput
    loaded: Loaded
    streams: dict[tuple[Place, str], RowStream] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"n_windows": 0, "n_tokens": 0, "n_documents": 0})

    def read(self, chunks: Iterator[Windows]) -> None:
        """Runs the model; each of several processes takes its share of the chunks."""
        team = current_team()
        for number, windows in enumerate(self.job.bar("forward")(chunks, None)):
            if number == 0:
                self._open(windows)
            check_vocabulary(self.loaded.model, windows)
            if number % team.size == team.rank:
                with torch.no_grad():
                    self._run(windows, self.counts["n_tokens"])
            self.counts["n_windows"] += len(windows)
            self.counts["n_tokens"] += sum(map(len, windows.ids))
            self.counts["n_documents"] = windows.documents[-1][-1] + 1

    def _open(self, windows: Windows) -> None:
        taps = places_of(self.loaded.model, windows, self.job.layers, self.job.final_norm, self.given.points)
        self.places = [tap.place for tap in taps]
        size, seed = self.job.batch_means.batch_rows, self.job.batch_means.seed
        self.streams = {(p, policy): RowStream(size, seed) for p in self.places for policy in self.given.policies}

    def _run(self, windows: Windows, before: int) -> None:
        """Takes the rows of some windows, after `before` tokens of others."""
        model, job = self.loaded.model, self.job
        ids, documents = (torch.tensor(list(chain(*part))) for part in (windows.ids, windows.documents))
        specials = set(self.loaded.tokenizer.all_special_ids) - {self.loaded.tokenizer.unk_token_id}
        special = torch.isin(ids, torch.tensor(sorted(specials), dtype=ids.dtype))
        options = (windows, job.layers, job.final_norm, self.given.batch_size, None)
        for positions, found in forward_windows(model, *options, points=self.given.points):
            for policy in self.given.policies:
                kept = positions[~special[positions]] if policy == "no_special" else positions
                own = torch.isin(positions, kept)
                for place, states in found.items():
                    rows = states[own.to(states.device)]
                    self.streams[place, policy].take(rows, (kept + before).numpy(), documents[kept].numpy())

    def joined(self, place: Place, policy: str, owner: int) -> RowStream | None:
        """The stream of all processes, in the process `owner`."""
        parts = current_team().gather(self.streams[place, policy], to=owner)
        return None if parts is None else parts[0].joined(parts[1:])


def _measure(run: Run, pool: _Pool, unpadded: bool) -> None:
    """Place by place; each of several processes measures its share of the places."""
    team, facts = current_team(), {**pool.counts, "padding_leaks": unpadded}
    run.report.provenance |= {"pool": facts} | machine()
    done = team.from_first({place for place in pool.places if run.has(place)})
    seen = Representations({}, torch.empty(0), {}, facts)
    own = {}
    for number, place in enumerate(place for place in pool.places if place not in done):
        joined = {policy: pool.joined(place, policy, number % team.size) for policy in pool.given.policies}
        if number % team.size == team.rank:
            own[place] = {policy: stream for policy, stream in joined.items() if stream is not None}
    for place in pool.job.bar("geometry")(iter(pool.places), len(pool.places)):
        rows = _rows(pool.job, own[place]) if place in own else None
        for found in team.gather(rows, to=0) or ():
            if found is not None:
                warnings = warnings_of(place, seen, run.report.provenance)
                run.add(place, [row | {"warnings": [*row["warnings"], *warnings]} for row in found])
    run.finish()


def _rows(job: Job, streams: dict[str, RowStream]) -> list[dict]:
    """The rows of the report for one place."""
    rows, means = [], job.batch_means
    for policy, stream in streams.items():
        cloud = stream.cloud()
        with torch.no_grad():
            estimates = evaluate_all(cloud, means.pairs, **means.options)
            estimates = with_chance(cloud, estimates, means.null, **means.options) if means.null else estimates
        for estimate in estimates:
            n = estimate.n or cloud.n
            n_distinct = cloud.n_distinct if n == cloud.n else None
            rows.append(
                columns_of(drawn(estimate, cloud))
                | {"tokens": policy, "n": n, "n_distinct": n_distinct, "n_per_batch": n}
            )
    return rows
