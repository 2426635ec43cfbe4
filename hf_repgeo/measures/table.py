"""The table of all measures: what each needs, its range, what leaves it unchanged, its source. Tests use it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import cells, diagnostics, dimension, direction, hubs, reconstruction, scales, spectral_shape, spectrum
from .conventions import (
    AGRAWAL,
    AGRAWAL_CODE,
    AMSALEG,
    BIT_EQUAL,
    CENTRED,
    DENTI,
    EIGENVALUES,
    GARRIDO,
    IDENTITY,
    MARBUT,
    MARBUT_CODE,
    MU,
    NORM_OVER_5_MEDIANS,
    OFF_DIAGONAL,
    RADOVANOVIC,
    RAZZHIGAEV,
    ROY_VETTERLI,
    RUDMAN,
    VARIANCE,
    VON_NEUMANN,
    WANG,
)
from .estimate import Estimate
from .kernels.quantizers import CellOptions

CELLS = 64  # of the default quantizer; each needs a row, and one of them a second where rows of a cell are compared
CELL_OPTIONS = tuple(CellOptions.__annotations__)
RIGID = frozenset({"shift", "scale", "rotation", "columns"})


# Names that others use for these measures; error messages answer with ours.
SYNONYMS = {
    "twonn": "intrinsic_dimension",
    "two_nn": "intrinsic_dimension",
    "id": "intrinsic_dimension",
    "lid": "intrinsic_dimension",
    "facco": "intrinsic_dimension:facco",
    "mle": "intrinsic_dimension:mle",
    "ball": "intrinsic_dimension:ball",
    "razzhigaev": "intrinsic_dimension:razzhigaev",
    "marbut": "patchiness:marbut",
    "lloyd": "patchiness:lloyd",
    "mackay": "levina_bickel:mackay",
    "pr": "participation_ratio",
    "isoscore": "iso_score",
    "rankme": "rank_me",
    "erank": "effective_rank",
    "eee": "early_enrichment",
    "vrm": "vasicek_mse",
    "alpha": "power_law_exponent",
    "alpha_req": "power_law_exponent",
    "cosine": "mean_cosine",
    "point_patchiness": "patchiness:marbut",
    "pp": "patchiness:marbut",
    "duplicates": "duplicate_share",
    "hubs": "hubness",
    "antihubs": "antihub_share",
}


@dataclass(frozen=True, kw_only=True)
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
        minimum_rows: fewest distinct rows for which it answers by default.
        cost: arithmetic for n rows of d columns.
        source: publication and equation.
        takes: options of its function.
        default: whether `measure` and `profile` include it unless told otherwise.
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
    default: bool = False

    @property
    def batched(self) -> bool:
        """Whether the paper's protocol averages it over batches; cells and counts are taken over all rows at once."""
        return self.needs not in ("cells", "counts")

    @property
    def null(self) -> str:
        """The kind of surrogate that suits the measure; see `nulls`."""
        return {"spectrum": "isotropic", "neighbors": "gaussian", "cells": "gaussian"}.get(self.needs, "shuffled")


def _spectral(*, minimum_rows: int = 2, default: bool = False, **row: Any) -> Measure:
    """A measure of the covariance's eigenvalues alone."""
    return Measure(
        needs="spectrum",
        invariances=RIGID | {"copies"},
        minimum_rows=minimum_rows,
        cost="O(n d^2 + d^3), shared by all spectral measures",
        default=default,
        **row,
    )


def _of_cells(
    *,
    conventions: tuple[str, ...] = (MARBUT,),
    invariances: tuple[str, ...] = ("shift", "scale", "copies"),
    minimum_rows: int = CELLS,
    **row: Any,
) -> Measure:
    """One of Marbut et al.'s measures of a quantizer's cells."""
    return Measure(
        conventions=conventions,
        needs="cells",
        invariances=frozenset(invariances),
        minimum_rows=minimum_rows,
        cost="that of patchiness, shared with it",
        takes=CELL_OPTIONS,
        **row,
    )


MEASURES: dict[str, Measure] = {
    "anisotropy": _spectral(
        function=spectrum.anisotropy,
        conventions=(RAZZHIGAEV,),
        unit="share of variance",
        range=(0, 1),
        direction="larger: more of the variance along one direction",
        source="Razzhigaev et al. 2024, The Shape of Learning, section 3.1",
        default=True,
    ),
    "effective_rank": _spectral(
        function=spectrum.effective_rank,
        conventions=(ROY_VETTERLI,),
        unit="directions",
        range=(1, None),
        direction="larger: more directions in use",
        source="Roy & Vetterli 2007, The effective rank, definition 1",
        default=True,
    ),
    "participation_ratio": _spectral(
        function=spectrum.participation_ratio,
        conventions=(EIGENVALUES,),
        unit="directions",
        range=(1, None),
        direction="larger: variance shared by more directions",
        source="Gao et al. 2017, A theory of multineuronal dimensionality, equation 5",
        default=True,
    ),
    "iso_score": _spectral(
        function=spectrum.iso_score,
        conventions=(RUDMAN,),
        unit="score",
        range=(0, 1),
        direction="larger: variance spread more evenly",
        source="Rudman et al. 2022, IsoScore, algorithm 1",
        default=True,
    ),
    "mean_cosine": Measure(
        function=direction.mean_cosine,
        conventions=(OFF_DIAGONAL,),
        needs="rows",
        unit="cosine",
        range=(-1, 1),
        direction="larger: rows point more the same way from the origin",
        invariances=frozenset({"scale", "rotation", "columns"}),
        minimum_rows=2,
        cost="O(n d)",
        source="Ethayarajh 2019, How contextual are contextualized word representations?, section 3.3",
        default=True,
    ),
    "intrinsic_dimension": Measure(
        function=dimension.intrinsic_dimension,
        conventions=tuple(dimension.CONVENTIONS),
        needs="neighbors",
        unit="dimensions",
        range=(0, None),
        direction="larger: more local degrees of freedom",
        invariances=RIGID | {"copies"},
        minimum_rows=20,
        cost="O(n^2 d), one search for all conventions",
        source="Facco et al. 2017, Estimating the intrinsic dimension by a minimal neighborhood information",
        default=True,
    ),
    "patchiness": Measure(
        function=cells.patchiness,
        conventions=tuple(cells.CONVENTIONS),
        needs="cells",
        unit="mean crowding / mean",
        range=(0, None),
        direction="1: as even as chance; larger: rows crowd in few cells",
        invariances=frozenset({"shift", "scale"}),
        minimum_rows=CELLS,
        cost="O(n d cells) per round of k-means, some ten rounds",
        source="Lloyd 1967, Mean crowding; Marbut et al. 2024, point patchiness",
        takes=(*CELL_OPTIONS, "quantizer_seeds"),
        default=True,
    ),
    "massive_share": Measure(
        function=diagnostics.massive_share,
        conventions=(NORM_OVER_5_MEDIANS,),
        needs="counts",
        unit="share of rows",
        range=(0, 0.5),
        direction="larger: more rows far longer than usual",
        invariances=frozenset({"scale", "rotation", "columns", "copies"}),
        minimum_rows=2,
        cost="O(n d)",
        source="Sun et al. 2024, Massive activations in large language models",
        default=True,
    ),
    "top_coordinate_share": Measure(
        function=diagnostics.top_coordinate_share,
        conventions=(VARIANCE,),
        needs="counts",
        unit="share of variance",
        range=(0, 1),
        direction="larger: one coordinate dominates",
        invariances=frozenset({"shift", "scale", "columns", "copies"}),
        minimum_rows=2,
        cost="O(n d)",
        source="Timkey & van Schijndel 2021, All bark and no bite, section 3",
        default=True,
    ),
    "duplicate_share": Measure(
        function=diagnostics.duplicate_share,
        conventions=(BIT_EQUAL,),
        needs="counts",
        unit="share of rows",
        range=(0, 1),
        direction="larger: more rows are exact copies",
        invariances=RIGID,
        minimum_rows=2,
        cost="O(n d)",
        source="a count",
        default=True,
    ),
    # --- on request ---------------------------------------------------------------------------------------------------
    "early_enrichment": _spectral(
        function=spectral_shape.early_enrichment,
        conventions=(MARBUT,),
        unit="score",
        range=(0, 1),
        direction="larger: the variance is used up by fewer directions",
        source="Marbut et al. 2023, Reliable measures of spread, EEE",
    ),
    "stable_rank": _spectral(
        function=spectral_shape.stable_rank,
        conventions=(CENTRED,),
        unit="directions",
        range=(1, None),
        direction="larger: the leading direction matters less",
        source="Rudelson & Vershynin 2007, Sampling from large matrices",
    ),
    "spectral_entropy": _spectral(
        function=spectral_shape.spectral_entropy,
        conventions=(VON_NEUMANN,),
        unit="nats",
        range=(0, None),
        direction="larger: variance spread more evenly",
        source="von Neumann's entropy of the trace-normalised covariance",
    ),
    "power_law_exponent": _spectral(
        function=spectral_shape.power_law_exponent,
        conventions=(AGRAWAL, AGRAWAL_CODE),
        unit="exponent",
        range=(0, None),
        direction="larger: eigenvalues fall faster",
        source="Agrawal et al. 2022, alpha-ReQ, section 3",
        minimum_rows=51,
    ),
    "iso_score_star": _spectral(
        function=spectral_shape.iso_score_star,
        conventions=(IDENTITY,),
        unit="score",
        range=(0, 1),
        direction="larger: variance spread more evenly",
        source="Rudman & Eickhoff 2024, Stable anisotropic regularization, definition 4.1",
    ),
    "rank_me": Measure(
        function=spectral_shape.rank_me,
        conventions=(GARRIDO,),
        needs="spectrum",
        unit="directions",
        range=(1, None),
        direction="larger: more directions in use, the mean being one",
        invariances=frozenset({"scale", "rotation", "columns", "copies"}),
        minimum_rows=2,
        cost="O(n d^2 + d^3)",
        source="Garrido et al. 2023, RankMe, equation 1",
    ),
    "vasicek_mse": Measure(
        function=spectral_shape.vasicek_mse,
        conventions=(MARBUT, MARBUT_CODE),
        needs="spectrum",
        unit="squared deviation",
        range=(0, None),
        direction="larger: further from a standard normal along the principal axes",
        invariances=RIGID,
        minimum_rows=11,
        cost="O(n d^2 + d n log n)",
        source="Marbut et al. 2023, Reliable measures of spread, VRM",
    ),
    "partition_function": Measure(
        function=direction.partition_function,
        conventions=(MU,),
        needs="rows",
        unit="ratio",
        range=(0, 1),
        direction="larger: all directions look more alike to a softmax",
        invariances=frozenset({"rotation", "columns", "copies"}),
        minimum_rows=2,
        cost="O(n d^2 + d^3)",
        source="Mu & Viswanath 2018, All-but-the-top, equation 2",
    ),
    "uniformity": Measure(
        function=direction.uniformity,
        conventions=(WANG,),
        needs="rows",
        unit="log kernel mean",
        range=(-8, 0),
        direction="larger: directions cover the sphere less evenly",
        invariances=frozenset({"scale", "rotation", "columns"}),
        minimum_rows=2,
        cost="O(n^2 d)",
        source="Wang & Isola 2020, equation 2, t = 2",
    ),
    "levina_bickel": Measure(
        function=scales.levina_bickel,
        conventions=scales.CONVENTIONS,
        needs="neighbors",
        unit="dimensions",
        range=(0, None),
        direction="larger: more local degrees of freedom",
        invariances=RIGID | {"copies"},
        minimum_rows=21,
        cost="O(n^2 d)",
        source="Levina & Bickel 2004, equation 8; MacKay & Ghahramani 2005",
        takes=("k",),
    ),
    "gride": Measure(
        function=scales.gride,
        conventions=(DENTI,),
        needs="neighbors",
        unit="dimensions",
        range=(0, None),
        direction="larger: more local degrees of freedom",
        invariances=RIGID | {"copies"},
        minimum_rows=20,
        cost="O(n^2 d)",
        source="Denti et al. 2022, Scientific Reports 12:20005",
        takes=("n1", "n2"),
    ),
    "local_dimension": Measure(
        function=hubs.local_dimension,
        conventions=(AMSALEG,),
        needs="neighbors",
        unit="dimensions",
        range=(0, None),
        direction="larger: more local degrees of freedom around a typical row",
        invariances=RIGID | {"copies"},
        minimum_rows=21,
        cost="O(n^2 d)",
        source="Amsaleg et al. 2015, Estimating local intrinsic dimensionality",
        takes=("k",),
    ),
    "hubness": Measure(
        function=hubs.hubness,
        conventions=(RADOVANOVIC,),
        needs="neighbors",
        unit="skewness",
        range=(None, None),
        direction="larger: a few rows are near neighbours of very many",
        invariances=RIGID | {"copies"},
        minimum_rows=20,
        cost="O(n^2 d), shared with antihub_share",
        source="Radovanović et al. 2010, Hubs in space",
        takes=("k",),
    ),
    "antihub_share": Measure(
        function=hubs.antihub_share,
        conventions=(RADOVANOVIC,),
        needs="neighbors",
        unit="share of rows",
        range=(0, 1),
        direction="larger: more rows are near neighbours of none",
        invariances=RIGID | {"copies"},
        minimum_rows=20,
        cost="that of hubness, shared with it",
        source="Radovanović et al. 2010, Hubs in space",
        takes=("k",),
    ),
    "reconstruction_error": _of_cells(
        function=reconstruction.reconstruction_error,
        unit="share of the squared norm",
        range=(0, None),
        direction="larger: the cells describe the rows less well",
        source="Marbut et al. 2024, reconstruction error",
        invariances=("scale", "copies"),
    ),
    "reconstruction_error_range": _of_cells(
        function=reconstruction.reconstruction_error_range,
        unit="share of the largest error",
        range=(0, 1),
        direction="larger: rows differ more in how well they are described",
        minimum_rows=CELLS + 1,
        source="Marbut et al. 2024, reconstruction error IQR",
    ),
    "reconstruction_error_skewness": _of_cells(
        function=reconstruction.reconstruction_error_skewness,
        unit="skewness",
        range=(None, None),
        direction="larger: a few rows are described far worse",
        minimum_rows=CELLS + 1,
        source="Marbut et al. 2024, reconstruction error skew",
    ),
    "cell_density_variance": _of_cells(
        function=reconstruction.cell_density_variance,
        unit="squared share",
        range=(0, 0.25),
        direction="larger: codewords lie more unevenly",
        source="Marbut et al. 2024, cell density variance",
    ),
    "cell_count_variance": _of_cells(
        function=cells.cell_count_variance,
        unit="squared odds",
        range=(0, None),
        direction="larger: cells hold more unequal numbers of rows",
        source="Marbut et al. 2024, cell count variance",
    ),
    "cell_count_divergence": _of_cells(
        function=cells.cell_count_divergence,
        conventions=tuple(cells.DIVERGENCES),
        unit="nats",
        range=(0, None),
        direction="larger: cells hold more unequal numbers of rows",
        source="Marbut et al. 2024, cell count KL",
    ),
    "within_cell_enrichment": _of_cells(
        function=reconstruction.within_cell_enrichment,
        unit="score",
        range=(0, 1),
        direction="larger: rows within a cell lie along fewer directions",
        minimum_rows=CELLS + 1,
        source="Marbut et al. 2024, within-cell EEE",
        invariances=("shift", "scale"),
    ),
}

OPTIONS = sorted({option for measure in MEASURES.values() for option in measure.takes})
