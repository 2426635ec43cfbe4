"""Means over batches of the rows of one layer: token policies -> batches -> measures -> rows of the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch

from ..errors import BadInput
from . import MEASURES, Estimate, PointCloud, evaluate_all, missing, with_chance
from .averages import average, columns_of
from .cloud import deal_groups

SHARED_SEARCH = 1.25  # policies share a neighbour search if their union is at most this many times the largest of them

FEW_SHARE = 7 / 8  # of a batch: with fewer rows, a policy is compared with `all` on as many


UNEVEN = "uneven_batches: no standard error, since a batch lacks whole folds of the documents; use fewer batches"


@dataclass(frozen=True)
class BatchMeans:
    """What is measured, on how many rows at a time.

    Attributes:
        pairs: `(measure, convention)`, from `measures.resolve`.
        options: of the measures.
        rows: rows wanted of each policy; `"all"` where no batches are made.
        batch_rows: least rows per batch; fewer rows than that are one batch.
        seed: of the quantizers, the jackknife's folds and the random subsets.
        null: whether the value that chance gives goes into the details.
    """

    pairs: list[tuple[str, str]]
    options: dict
    rows: int | str
    batch_rows: int
    seed: int
    null: bool | str = False

    def provenance(self) -> dict:
        measures = [f"{name}:{convention}" for name, convention in self.pairs]
        return {
            "measures": measures,
            "options": self.options,
            "rows": self.rows,
            "batch_rows": self.batch_rows,
            "seed": self.seed,
            "null": self.null,
        }

    def measure(self, states: torch.Tensor, documents: torch.Tensor, policies: dict[str, torch.Tensor]) -> list[dict]:
        """Rows of the report for one layer, without its name.

        Args:
            states: `(n_kept, hidden_size)` kept rows of the layer.
            documents: `(n_kept,)` document of each.
            policies: policy -> positions of its rows among the kept ones, in shuffled order.
        """
        everything = self._cases(policies)
        twins = _twins(everything)
        cases = {case: positions for case, positions in everything.items() if case not in twins}
        batches = {
            case: positions.tensor_split(max(1, len(positions) // self.batch_rows)) for case, positions in cases.items()
        }
        over_batches: dict[str, list[list[Estimate]]] = {case: [] for case in cases}
        clouds: dict[str, PointCloud | BadInput] = {}
        for number in range(max(len(split) for split in batches.values())):
            parts = {case: split[number] for case, split in batches.items() if number < len(split)}
            for case, cloud in self._clouds(states, documents, parts):
                if len(batches[case]) > 1 and isinstance(cloud, PointCloud):
                    self._deal_over_batches(cloud, documents[cases[case]], documents[parts[case]])
                over_batches[case].append(self._evaluate(cloud, batched=True))
                if len(batches[case]) == 1:
                    clouds[case] = cloud
        rows = []
        for case, positions in cases.items():
            cloud = clouds.get(case) or self._cloud(states, documents, positions)
            rows += self._rows(case, cloud, over_batches[case], len(positions), len(batches[case][-1]))
        rows += [row | {"tokens": case} for case, twin in twins.items() for row in rows if row["tokens"] == twin]
        order = list(everything)
        return sorted(rows, key=lambda row: order.index(row["tokens"]))

    def _cases(self, policies: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rows of each policy; and for each policy that lacks many of a batch's rows, as many random rows of `all`."""
        cases = {policy: positions for policy, positions in policies.items() if len(positions) > 1}
        whole = policies.get("all", torch.empty(0))
        for policy, positions in list(cases.items()):
            if len(positions) < FEW_SHARE * min(self.batch_rows, len(whole)):
                order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(self.seed))
                cases[f"all_as_{policy}"] = whole[order[: len(positions)]]
        return cases

    def _clouds(
        self, states: torch.Tensor, documents: torch.Tensor, parts: dict[str, torch.Tensor]
    ) -> Iterator[tuple[str, PointCloud | BadInput]]:
        """The clouds of the parts; parts that nearly coincide are cut from one cloud and share its neighbour search."""
        for group in _groups_that_overlap(parts):
            union = torch.unique(torch.cat([parts[case] for case in group]))
            whole = self._cloud(states, documents, union) if len(group) > 1 else None
            for case in group:
                if not isinstance(whole, PointCloud):
                    yield case, self._cloud(states, documents, parts[case])
                    continue
                self._compute_shared(whole)
                yield case, whole.subset(torch.searchsorted(union, parts[case]).to(whole.rows.device))

    def _compute_shared(self, cloud: PointCloud) -> None:
        """Computes what the subsets of this cloud will take from it instead of computing it themselves."""
        needs = [MEASURES[name].needs for name, _ in self.pairs]
        with suppress(BadInput):  # which every measure that needs it will meet again, and tell
            if "neighbors" in needs:
                cloud.neighbors  # noqa: B018
            if needs.count("spectrum") > 1 and cloud.n > cloud.d:  # with fewer rows, no measure takes the scatter
                cloud.moments  # noqa: B018

    def _cloud(self, states: torch.Tensor, documents: torch.Tensor, positions: torch.Tensor) -> PointCloud | BadInput:
        try:
            rows = states[positions.to(states.device)]
            return PointCloud(rows, groups=documents[positions], seed=self.seed, argument="rows")
        except BadInput as error:
            return error

    def _deal_over_batches(self, cloud: PointCloud, every_document: torch.Tensor, own: torch.Tensor) -> None:
        """Gives a batch's cloud the jackknife folds that its documents have in all batches of the case.

        Args:
            cloud: the batch.
            every_document: `(n,)` document of each row of all batches.
            own: `(n_batch,)` document of each row of this batch.
        """
        known, group = torch.unique(every_document, return_inverse=True)
        folds = deal_groups(group, self.seed)
        fold_of = torch.empty(len(known), dtype=torch.int64).index_put_((group,), folds)
        cloud.folds = fold_of[torch.searchsorted(known, own)].to(cloud.rows.device)
        cloud.rows_stand_alone = len(known) == len(every_document)
        cloud.jackknife = len(cloud.folds.unique()) == int(folds.max()) + 1  # a fold without rows has no value

    def _evaluate(self, cloud: PointCloud | BadInput, batched: bool) -> list[Estimate]:
        pairs = [pair for pair in self.pairs if MEASURES[pair[0]].batched is batched]
        if isinstance(cloud, BadInput):
            return [missing(name, convention, f"{cloud.code}: {cloud}") for name, convention in pairs]
        estimates = evaluate_all(cloud, pairs, **self.options)
        estimates = estimates if cloud.jackknife else [estimate.warned(UNEVEN) for estimate in estimates]
        return with_chance(cloud, estimates, self.null, **self.options) if self.null else estimates

    def _rows(
        self,
        case: str,
        cloud: PointCloud | BadInput,
        over_batches: list[list[Estimate]],
        n: int,
        n_per_batch: int,
    ) -> list[dict]:
        n_distinct = cloud.n_distinct if isinstance(cloud, PointCloud) else None
        common = {"tokens": case, "n": n, "n_distinct": n_distinct}
        rows = [average(estimates) | {"n_per_batch": n_per_batch} for estimates in zip(*over_batches)]
        rows += [columns_of(estimate) | {"n_per_batch": n} for estimate in self._evaluate(cloud, batched=False)]
        if not isinstance(self.rows, str) and n < min(self.rows, self.batch_rows):
            for row in rows:
                row["warnings"] = (*row["warnings"], f"fewer_rows: {n} rows, where {self.rows} were wanted")
        order = {pair: place for place, pair in enumerate(self.pairs)}
        return sorted((common | row for row in rows), key=lambda row: order[row["measure"], row["convention"]])


def _twins(cases: dict[str, torch.Tensor]) -> dict[str, str]:
    """Cases with exactly the rows of an earlier one, as `sink_robust` and `no_special` in many encoders."""
    twins: dict[str, str] = {}
    names = list(cases)
    for place, case in enumerate(names):
        for other in names[:place]:
            if case not in twins and other not in twins and torch.equal(cases[case], cases[other]):
                twins[case] = other
    return twins


def _groups_that_overlap(parts: dict[str, torch.Tensor]) -> list[list[str]]:
    """Groups of cases whose union is hardly larger than the largest of them; greedy, the largest first."""
    groups: list[list[str]] = []
    for case in sorted(parts, key=lambda case: -len(parts[case])):
        for group in groups:
            union = torch.unique(torch.cat([parts[case], *(parts[other] for other in group)]))
            if len(union) <= SHARED_SEARCH * len(parts[group[0]]):
                group.append(case)
                break
        else:
            groups.append([case])
    return groups
