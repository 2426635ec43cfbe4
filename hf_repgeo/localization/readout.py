"""Which column tells a property: tests latents, units of the convolution or single dimensions one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from ..errors import BadInput
from .probing import _sklearn


@dataclass(frozen=True)
class Readout:
    """How well one column tells a property.

    Args:
        column: its number.
        label: the value of the property that it tells best from the others.
        distance: Kolmogorov-Smirnov distance between its values where the label holds and elsewhere, 0 to 1.
        p_value: of that distance, corrected by Holm for all columns and labels.
        mutual_information: between the column and the property, in bits, by nearest neighbours (Ross, PLoS ONE 9,
            2014); 0 to the entropy of the labels.
    """

    column: int
    label: str
    distance: float
    p_value: float
    mutual_information: float

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


def read_columns(columns: torch.Tensor, labels: Sequence[str], seed: int = 0) -> list[Readout]:
    """How well each column tells a property, with the correction that thousands of tests need.

    Args:
        columns: `(n, k)`: latents (`latents_of`), units (`unit_activations`), or dimensions of the embedding.
        labels: n values of the property.
        seed: for the tiny noise with which the neighbour estimate breaks ties.

    Returns:
        One `Readout` per column, in their order. The tests assume independent sentences; those of one lexicon row are
        not, so p-values of a few percent are not significant.

    Raises:
        BadInput: another number of labels than rows, fewer than two labels, or a label with fewer than two rows.
        MissingExtra: scikit-learn is not installed.

    Cost: O(k n log n) for each label.

    Example:
        >>> noise = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        >>> labels = ["p" if value > 0 else "s" for value in noise[:, 1]]
        >>> found = read_columns(noise, labels)
        >>> [round(one.distance, 2) for one in found], [one.p_value < 0.05 for one in found]
        ([0.12, 1.0, 0.08], [False, True, False])
    """
    labels = [str(label) for label in labels]
    names = sorted(set(labels))
    _check(columns, labels, names)
    _sklearn("Reading columns")
    from scipy.stats import ks_2samp
    from sklearn.feature_selection import mutual_info_classif

    x = columns.detach().double().cpu().numpy()
    member = {name: torch.tensor([label == name for label in labels]).numpy() for name in names[: _sides(names)]}
    tests = [
        (column, name, *_distance(ks_2samp, x[:, column], at))
        for column in range(x.shape[1])
        for name, at in member.items()
    ]
    corrected = holm([p for *_, p in tests])
    shared = mutual_info_classif(x, labels, random_state=seed) / torch.tensor(2.0).log().item()
    best: dict[int, Readout] = {}
    for (column, name, distance, _), p_value in zip(tests, corrected, strict=True):
        if column not in best or distance > best[column].distance:
            best[column] = Readout(column, name, distance, p_value, float(shared[column]))
    return [best[column] for column in range(x.shape[1])]


def _check(columns: torch.Tensor, labels: list[str], names: list[str]) -> None:
    if columns.dim() != 2 or len(columns) != len(labels):
        came = f"{len(labels)} labels for columns of shape {tuple(columns.shape)}"
        raise BadInput("labels", came=came, wanted="one label for each row of (n, k)")
    if len(names) < 2:
        raise BadInput("labels", came=f"{len(names)} different label(s)", wanted="at least two")
    rare = next((name for name in names if labels.count(name) < 2), None)
    if rare is not None:
        raise BadInput("labels", came=f"one row of {rare!r}", wanted="at least two rows of every label")


def _sides(names: list[str]) -> int:
    """How many labels to test: of two, one is enough, since both have the same distance from each other."""
    return 1 if len(names) == 2 else len(names)


def _distance(test, values, at) -> tuple[float, float]:
    found = test(values[at], values[~at])
    return float(found.statistic), float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in their order.

    Example:
        >>> holm([0.01, 0.04, 0.02])
        [0.03, 0.04, 0.04]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = floor
    return corrected
