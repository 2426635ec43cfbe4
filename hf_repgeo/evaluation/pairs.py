"""The base of the comparisons: takes two sets of rows of the same samples, and compares them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import datasets
import evaluate
import torch

from ..errors import BadInput
from .streams import checked_rows


class GeometryComparison(evaluate.Comparison, ABC):
    """A comparison of two clouds of rows. Abstract, so that evaluate's loader skips it.

    A subclass says what it means (`_info`) and compares (`compare`).
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._rows: list[tuple[torch.Tensor, torch.Tensor]] = []

    @abstractmethod
    def _info(self) -> evaluate.ComparisonInfo:
        """Description, citation and features."""

    @abstractmethod
    def compare(self, X: torch.Tensor, Y: torch.Tensor, **options) -> dict:
        """Plain numbers about two clouds, `(n, d_1)` and `(n, d_2)`."""

    def add_batch(self, *, representations1, representations2) -> None:
        """Adds rows of both, `(n, d_1)` and `(n, d_2)`.

        Raises:
            BadInput: not matrices of finite numbers, or of different numbers of rows.
        """
        one, other = checked_rows(representations1), checked_rows(representations2)
        if len(one) != len(other):
            raise BadInput("representations2", came=f"{len(other)} rows", wanted=f"{len(one)}, as representations1 has")
        self._rows.append((one.clone(), other.clone()))

    def add(self, *, representations1, representations2) -> None:
        """Adds one row of both."""
        self.add_batch(representations1=[representations1], representations2=[representations2])

    def compute(self, *, representations1=None, representations2=None, **options) -> dict:
        """Compares the rows given here, or those added before, or both together.

        Returns:
            dict of plain numbers; keywords of other modules in an `evaluate.combine` are ignored.

        Raises:
            BadInput: no rows, or rows that do not belong together.
        """
        if representations1 is not None or representations2 is not None:
            self.add_batch(representations1=representations1, representations2=representations2)
        parts, self._rows = self._rows, []
        if not parts:
            wanted = "rows: compute(representations1=X, representations2=Y), or add_batch before"
            raise BadInput("representations1", came="nothing", wanted=wanted)
        X, Y = (torch.cat(column) for column in zip(*parts, strict=True))
        return self.compare(X, Y, **options)

    def _compute(self, representations1, representations2, **options):
        return self.compute(representations1=representations1, representations2=representations2, **options)


def comparison_info(description: str, citation: str, inputs: str, homepage: str) -> evaluate.ComparisonInfo:
    """The description of a comparison; a row is a vector of float32 of any length."""
    row = datasets.Sequence(datasets.Value("float32"))
    return evaluate.ComparisonInfo(
        module_type="comparison",
        description=description,
        citation=citation,
        inputs_description=inputs,
        features=datasets.Features({"representations1": row, "representations2": row}),
        reference_urls=[homepage],
        license="Apache-2.0",
    )
