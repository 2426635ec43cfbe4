"""Pure mathematics on torch tensors: the table of all measures, and the functions behind it.

Each measure is a function `PointCloud -> Estimate`. `MEASURES` says of each what it needs, its range, what leaves it
unchanged, and its source; tests walk the same table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UnknownName
from .cells import patchiness
from .cloud import PointCloud
from .diagnostics import duplicate_share, massive_share, top_coordinate_share
from .dimension import intrinsic_dimension
from .direction import mean_cosine
from .estimate import Estimate, missing
from .moments import Moments
from .spectrum import anisotropy, effective_rank, iso_score, participation_ratio

__all__ = [
    "Estimate",
    "MEASURES",
    "Measure",
    "Moments",
    "PointCloud",
    "anisotropy",
    "check_options",
    "duplicate_share",
    "effective_rank",
    "evaluate_all",
    "intrinsic_dimension",
    "iso_score",
    "massive_share",
    "mean_cosine",
    "missing",
    "participation_ratio",
    "patchiness",
    "resolve",
    "top_coordinate_share",
]


@dataclass(frozen=True)
class Measure:
    """A row of the table of measures.

    Attributes:
        function: `PointCloud -> Estimate`; takes `convention=` when there are several.
        conventions: published variants, the default one first.
        needs: what it uses of the cloud: `"spectrum"`, `"rows"`, `"neighbors"`, `"cells"` or `"counts"`.
        unit: what the number counts, for axis labels.
        range: lowest and highest possible value; `None` where it depends on n or d or is unbounded.
        direction: what a larger value means.
        invariances: transformations that leave it unchanged, of `"shift"`, `"scale"`, `"rotation"`, `"columns"`
            (permuted columns) and `"copies"` (every row twice).
        minimum_rows: fewest distinct rows for which it answers.
        cost: arithmetic for n rows of d columns.
        source: publication and equation.
    """

    function: Callable[..., Estimate]
    conventions: tuple[str, ...]
    needs: str
    unit: str
    range: tuple[float | None, float | None]
    direction: str
    invariances: frozenset[str]
    minimum_rows: int
    cost: str
    source: str
    takes: tuple[str, ...] = ()

    @property
    def batched(self) -> bool:
        """Whether the paper's protocol averages it over batches; cells and counts are taken over all rows at once."""
        return self.needs not in ("cells", "counts")


RIGID = frozenset({"shift", "scale", "rotation", "columns"})

MEASURES: dict[str, Measure] = {
    "anisotropy": Measure(
        function=anisotropy,
        conventions=("razzhigaev",),
        needs="spectrum",
        unit="share of variance",
        range=(0, 1),
        direction="larger: more of the variance along one direction",
        invariances=RIGID | {"copies"},
        minimum_rows=2,
        cost="O(n d) alone, O(n d^2) with other spectral measures",
        source="Razzhigaev et al. 2024, The Shape of Learning, section 3.1",
    ),
    "effective_rank": Measure(
        function=effective_rank,
        conventions=("roy_vetterli",),
        needs="spectrum",
        unit="directions",
        range=(1, None),
        direction="larger: more directions in use",
        invariances=RIGID | {"copies"},
        minimum_rows=2,
        cost="O(n d^2 + d^3)",
        source="Roy & Vetterli 2007, The effective rank, definition 1",
    ),
    "participation_ratio": Measure(
        function=participation_ratio,
        conventions=("eigenvalues",),
        needs="spectrum",
        unit="directions",
        range=(1, None),
        direction="larger: variance shared by more directions",
        invariances=RIGID | {"copies"},
        minimum_rows=2,
        cost="O(n d^2 + d^3)",
        source="Gao et al. 2017, A theory of multineuronal dimensionality, equation 5",
    ),
    "iso_score": Measure(
        function=iso_score,
        conventions=("rudman",),
        needs="spectrum",
        unit="score",
        range=(0, 1),
        direction="larger: variance spread more evenly",
        invariances=RIGID | {"copies"},
        minimum_rows=2,
        cost="O(n d^2 + d^3)",
        source="Rudman et al. 2022, IsoScore, algorithm 1",
    ),
    "mean_cosine": Measure(
        function=mean_cosine,
        conventions=("off_diagonal",),
        needs="rows",
        unit="cosine",
        range=(-1, 1),
        direction="larger: rows point more the same way from the origin",
        invariances=frozenset({"scale", "rotation", "columns"}),
        minimum_rows=2,
        cost="O(n d)",
        source="Ethayarajh 2019, How contextual are contextualized word representations?, section 3.3",
    ),
    "intrinsic_dimension": Measure(
        function=intrinsic_dimension,
        conventions=("facco", "razzhigaev", "mle"),
        needs="neighbors",
        unit="dimensions",
        range=(0, None),
        direction="larger: more local degrees of freedom",
        invariances=RIGID | {"copies"},
        minimum_rows=20,
        cost="O(n^2 d)",
        source="Facco et al. 2017, Estimating the intrinsic dimension of datasets by a minimal neighborhood information",
    ),
    "patchiness": Measure(
        function=patchiness,
        conventions=("lloyd", "marbut"),
        needs="cells",
        unit="mean crowding / mean",
        range=(0, None),
        direction="1: as even as chance; larger: rows crowd in few cells",
        invariances=frozenset({"shift", "scale"}),
        minimum_rows=256,
        cost="O(n d cells) per k-means iteration",
        source="Lloyd 1967, Mean crowding; Marbut et al. 2024, point patchiness",
        takes=("quantizer", "codebooks", "bits", "quantizer_seeds"),
    ),
    "massive_share": Measure(
        function=massive_share,
        conventions=("norm_over_5_medians",),
        needs="counts",
        unit="share of rows",
        range=(0, 0.5),
        direction="larger: more rows far longer than usual",
        invariances=frozenset({"scale", "rotation", "columns", "copies"}),
        minimum_rows=2,
        cost="O(n d)",
        source="Sun et al. 2024, Massive activations in large language models",
    ),
    "top_coordinate_share": Measure(
        function=top_coordinate_share,
        conventions=("variance",),
        needs="counts",
        unit="share of variance",
        range=(0, 1),
        direction="larger: one coordinate dominates",
        invariances=frozenset({"shift", "scale", "columns", "copies"}),
        minimum_rows=2,
        cost="O(n d)",
        source="Timkey & van Schijndel 2021, All bark and no bite",
    ),
    "duplicate_share": Measure(
        function=duplicate_share,
        conventions=("bit_equal",),
        needs="counts",
        unit="share of rows",
        range=(0, 1),
        direction="larger: more rows are exact copies",
        invariances=RIGID,
        minimum_rows=2,
        cost="O(n d)",
        source="a count",
    ),
}

DEFAULT_MEASURES = tuple(MEASURES)


def resolve(measures: list[str] | tuple[str, ...] | str | None) -> list[tuple[str, str]]:
    """`(name, convention)` pairs from names such as `"anisotropy"` or `"intrinsic_dimension:mle"`.

    A bare name stands for all of its conventions, the default one first; `None` for every measure.

    Raises:
        UnknownName: a measure or convention that does not exist; the message lists those that do.
    """
    if measures is None:
        measures = DEFAULT_MEASURES
    pairs: list[tuple[str, str]] = []
    for asked in [measures] if isinstance(measures, str) else measures:
        name, _, convention = str(asked).partition(":")
        if name not in MEASURES:
            raise UnknownName("measure", name, MEASURES)
        known = MEASURES[name].conventions
        if convention and convention not in known:
            raise UnknownName(f"convention of {name}", convention, known)
        pairs += [(name, c) for c in ([convention] if convention else known)]
    return list(dict.fromkeys(pairs))


def check_options(options: dict) -> None:
    """Every option must belong to some measure.

    Raises:
        UnknownName: it belongs to none.
    """
    known = sorted({option for measure in MEASURES.values() for option in measure.takes})
    for option in options:
        if option not in known:
            raise UnknownName("option", option, known)


def evaluate_all(cloud: PointCloud, pairs: list[tuple[str, str]], **options) -> list[Estimate]:
    """The estimates of `(name, convention)` pairs on one cloud, in the order asked; shared work is done once.

    Args:
        cloud: the rows.
        pairs: from `resolve`.
        options: passed to the measures that take them.
    """
    if sum(MEASURES[name].needs == "spectrum" for name, _ in pairs) > 1:
        cloud.spectrum  # noqa: B018  one decomposition then serves all, where anisotropy alone would not need it
    return [_evaluate(cloud, name, convention, options) for name, convention in pairs]


def _evaluate(cloud: PointCloud, name: str, convention: str, options: dict) -> Estimate:
    measure = MEASURES[name]
    arguments = {option: value for option, value in options.items() if option in measure.takes}
    if len(measure.conventions) > 1:
        arguments["convention"] = convention
    return measure.function(cloud, **arguments)
