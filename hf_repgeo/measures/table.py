"""The table of all measures: what each needs, its range, what leaves it unchanged, its source. Tests walk it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import cells, diagnostics, dimension, direction, reconstruction, scales, spectral_shape, spectrum
from .estimate import Estimate

RIGID = frozenset({"shift", "scale", "rotation", "columns"})


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
        """The kind of chance level that says something of it; see `nulls`."""
        return {"spectrum": "isotropic", "neighbors": "gaussian", "cells": "gaussian"}.get(self.needs, "shuffled")


def _spectral(function, convention, unit, span, meaning, source, minimum_rows=2, default=False) -> Measure:
    cost = "O(n d^2 + d^3), shared by all spectral measures"
    return Measure(
        function,
        (convention,),
        "spectrum",
        unit,
        span,
        meaning,
        RIGID | {"copies"},
        minimum_rows,
        cost,
        source,
        default=default,
    )


def _of_cells(function, unit, span, meaning, source, invariances=("shift", "scale")) -> Measure:
    cost, options = "that of patchiness, shared with it", ("quantizer", "codebooks", "bits")
    return Measure(
        function, ("marbut",), "cells", unit, span, meaning, frozenset(invariances), 256, cost, source, options
    )


MEASURES: dict[str, Measure] = {
    "anisotropy": _spectral(
        spectrum.anisotropy,
        "razzhigaev",
        "share of variance",
        (0, 1),
        "larger: more of the variance along one direction",
        "Razzhigaev et al. 2024, The Shape of Learning, section 3.1",
        default=True,
    ),
    "effective_rank": _spectral(
        spectrum.effective_rank,
        "roy_vetterli",
        "directions",
        (1, None),
        "larger: more directions in use",
        "Roy & Vetterli 2007, The effective rank, definition 1",
        default=True,
    ),
    "participation_ratio": _spectral(
        spectrum.participation_ratio,
        "eigenvalues",
        "directions",
        (1, None),
        "larger: variance shared by more directions",
        "Gao et al. 2017, A theory of multineuronal dimensionality, equation 5",
        default=True,
    ),
    "iso_score": _spectral(
        spectrum.iso_score,
        "rudman",
        "score",
        (0, 1),
        "larger: variance spread more evenly",
        "Rudman et al. 2022, IsoScore, algorithm 1",
        default=True,
    ),
    "mean_cosine": Measure(
        direction.mean_cosine,
        ("off_diagonal",),
        "rows",
        "cosine",
        (-1, 1),
        "larger: rows point more the same way from the origin",
        frozenset({"scale", "rotation", "columns"}),
        2,
        "O(n d)",
        "Ethayarajh 2019, How contextual are contextualized word representations?, section 3.3",
        default=True,
    ),
    "intrinsic_dimension": Measure(
        dimension.intrinsic_dimension,
        ("facco", "razzhigaev", "mle"),
        "neighbors",
        "dimensions",
        (0, None),
        "larger: more local degrees of freedom",
        RIGID | {"copies"},
        20,
        "O(n^2 d), one search for all conventions",
        "Facco et al. 2017, Estimating the intrinsic dimension by a minimal neighborhood information",
        default=True,
    ),
    "patchiness": Measure(
        cells.patchiness,
        ("lloyd", "marbut"),
        "cells",
        "mean crowding / mean",
        (0, None),
        "1: as even as chance; larger: rows crowd in few cells",
        frozenset({"shift", "scale"}),
        256,
        "O(n d cells) a round of k-means, some ten rounds",
        "Lloyd 1967, Mean crowding; Marbut et al. 2024, point patchiness",
        ("quantizer", "codebooks", "bits", "quantizer_seeds"),
        default=True,
    ),
    "massive_share": Measure(
        diagnostics.massive_share,
        ("norm_over_5_medians",),
        "counts",
        "share of rows",
        (0, 0.5),
        "larger: more rows far longer than usual",
        frozenset({"scale", "rotation", "columns", "copies"}),
        2,
        "O(n d)",
        "Sun et al. 2024, Massive activations in large language models",
        default=True,
    ),
    "top_coordinate_share": Measure(
        diagnostics.top_coordinate_share,
        ("variance",),
        "counts",
        "share of variance",
        (0, 1),
        "larger: one coordinate dominates",
        frozenset({"shift", "scale", "columns", "copies"}),
        2,
        "O(n d)",
        "Timkey & van Schijndel 2021, All bark and no bite, section 3",
        default=True,
    ),
    "duplicate_share": Measure(
        diagnostics.duplicate_share,
        ("bit_equal",),
        "counts",
        "share of rows",
        (0, 1),
        "larger: more rows are exact copies",
        RIGID,
        2,
        "O(n d)",
        "a count",
        default=True,
    ),
    # --- on request ---------------------------------------------------------------------------------------------------
    "early_enrichment": _spectral(
        spectral_shape.early_enrichment,
        "marbut",
        "score",
        (0, 1),
        "larger: the variance is used up by fewer directions",
        "Marbut et al. 2023, Reliable measures of spread, EEE",
    ),
    "stable_rank": _spectral(
        spectral_shape.stable_rank,
        "centred",
        "directions",
        (1, None),
        "larger: the leading direction matters less",
        "Rudelson & Vershynin 2007, Sampling from large matrices",
    ),
    "spectral_entropy": _spectral(
        spectral_shape.spectral_entropy,
        "von_neumann",
        "nats",
        (0, None),
        "larger: variance spread more evenly",
        "von Neumann's entropy of the trace-normalised covariance",
    ),
    "power_law_exponent": _spectral(
        spectral_shape.power_law_exponent,
        "agrawal",
        "exponent",
        (0, None),
        "larger: eigenvalues fall faster",
        "Agrawal et al. 2022, alpha-ReQ, section 3",
        minimum_rows=51,
    ),
    "iso_score_star": _spectral(
        spectral_shape.iso_score_star,
        "identity",
        "score",
        (0, 1),
        "larger: variance spread more evenly",
        "Rudman & Eickhoff 2024, Stable anisotropic regularization, definition 4.1",
    ),
    "rank_me": Measure(
        spectral_shape.rank_me,
        ("garrido",),
        "spectrum",
        "directions",
        (1, None),
        "larger: more directions in use, the mean being one",
        frozenset({"scale", "rotation", "columns", "copies"}),
        2,
        "O(n d^2 + d^3)",
        "Garrido et al. 2023, RankMe, equation 1",
    ),
    "vasicek_mse": Measure(
        spectral_shape.vasicek_mse,
        ("marbut",),
        "spectrum",
        "squared deviation",
        (0, None),
        "larger: further from a standard normal along the principal axes",
        RIGID,
        11,
        "O(n d^2 + d n log n)",
        "Marbut et al. 2023, Reliable measures of spread, VRM",
    ),
    "partition_function": Measure(
        direction.partition_function,
        ("mu",),
        "rows",
        "ratio",
        (0, 1),
        "larger: all directions look more alike to a softmax",
        frozenset({"rotation", "columns", "copies"}),
        2,
        "O(n d^2 + d^3)",
        "Mu & Viswanath 2018, All-but-the-top, equation 2",
    ),
    "uniformity": Measure(
        direction.uniformity,
        ("wang",),
        "rows",
        "log kernel mean",
        (-8, 0),
        "larger: directions cover the sphere less evenly",
        frozenset({"scale", "rotation", "columns"}),
        2,
        "O(n^2 d)",
        "Wang & Isola 2020, equation 2, t = 2",
    ),
    "levina_bickel": Measure(
        scales.levina_bickel,
        ("mackay", "levina"),
        "neighbors",
        "dimensions",
        (0, None),
        "larger: more local degrees of freedom",
        RIGID | {"copies"},
        21,
        "O(n^2 d)",
        "Levina & Bickel 2004, equation 8; MacKay & Ghahramani 2005",
        ("k",),
    ),
    "gride": Measure(
        scales.gride,
        ("denti",),
        "neighbors",
        "dimensions",
        (0, None),
        "larger: more local degrees of freedom",
        RIGID | {"copies"},
        20,
        "O(n^2 d)",
        "Denti et al. 2022, Scientific Reports 12:20005",
        ("n1", "n2"),
    ),
    "reconstruction_error": _of_cells(
        reconstruction.reconstruction_error,
        "share of the squared norm",
        (0, None),
        "larger: the cells describe the rows less well",
        "Marbut et al. 2024, reconstruction error",
        invariances=("scale",),
    ),
    "reconstruction_error_range": _of_cells(
        reconstruction.reconstruction_error_range,
        "share of the largest error",
        (0, 1),
        "larger: rows differ more in how well they are described",
        "Marbut et al. 2024, reconstruction error IQR",
    ),
    "reconstruction_error_skewness": _of_cells(
        reconstruction.reconstruction_error_skewness,
        "skewness",
        (None, None),
        "larger: a few rows are described far worse",
        "Marbut et al. 2024, reconstruction error skew",
    ),
    "cell_density_variance": _of_cells(
        reconstruction.cell_density_variance,
        "squared share",
        (0, 0.25),
        "larger: codewords lie more unevenly",
        "Marbut et al. 2024, cell density variance",
    ),
    "cell_count_variance": _of_cells(
        cells.cell_count_variance,
        "squared odds",
        (0, None),
        "larger: cells hold more unequal numbers of rows",
        "Marbut et al. 2024, cell count variance",
    ),
    "cell_count_divergence": _of_cells(
        cells.cell_count_divergence,
        "nats",
        (0, None),
        "larger: cells hold more unequal numbers of rows",
        "Marbut et al. 2024, cell count KL",
    ),
    "within_cell_enrichment": _of_cells(
        reconstruction.within_cell_enrichment,
        "score",
        (0, 1),
        "larger: rows within a cell lie along fewer directions",
        "Marbut et al. 2024, within-cell EEE",
    ),
}
