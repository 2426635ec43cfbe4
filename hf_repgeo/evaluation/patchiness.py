"""`evaluate.load("patchiness")`."""

from __future__ import annotations

import evaluate

# In full, not relative: evaluate copies this file into its modules cache when it is loaded by its path.
from hf_repgeo.evaluation.base import GeometryMeasurement, measurement_info

DESCRIPTION = """\
Patchiness says how clumped representations are: Lloyd's mean crowding over mean density, counted in the cells of a
quantizer fitted to the rows. 1: rows fall into the cells as by chance; above 1: clumped; below 1: more even than
chance. The cells adapt to the rows and the value depends strongly on the quantizer and on n: compare only
representations of equal n, width and quantizer, with at least 39 rows per cell (2496 for the default 64 cells).
"""

CITATION = """\
@article{lloyd-1967-mean,
  title = {Mean crowding},
  author = {Lloyd, Monte},
  journal = {Journal of Animal Ecology},
  volume = {36},
  number = {1},
  year = {1967}
}
@article{marbut-etal-2024-exploring,
  title = {Exploring the Impact of a Transformer's Latent Space Geometry on Downstream Task Performance},
  author = {Marbut, Anna C. and Chandler, John W. and Wheeler, Travis J.},
  year = {2024},
  url = {https://arxiv.org/abs/2406.12159}
}
"""

INPUTS = """
    quantizer: "product" (default), "residual", "additive" (the paper's "point patchiness"), or faiss's that
        the paper ran: "faiss-pq", "faiss-lsq".
    codebooks: number of codebooks; default 4, for "product" fewer on fewer than 32 columns.
    bits: a codebook has 2 ** bits cells; default 6, for "additive" and faiss's 8.
    quantizer_seeds: quantizers to fit from different starts; the value is their mean.

Returns:
    patchiness: Lloyd's, in [0, 2 ** bits], or None with `patchiness_reason`: fewer rows than cells, or all equal.
    patchiness_marbut: on the scale of Marbut et al.
    ..._standard_error: of each; jackknife over 20 groups of rows with the codebooks held fixed.
    patchiness_n, patchiness_n_distinct: number of rows, and of distinct ones.

Examples:
    >>> import evaluate, hf_repgeo
    >>> patchiness = evaluate.load("patchiness")
    >>> clumps = [[0, 0]] * 40 + [[1, 1]] * 8 + [[2, 4]] * 8 + [[3, 9]] * 8
    >>> round(patchiness.compute(representations=clumps, codebooks=2, bits=2)["patchiness"], 4)
    1.6875
"""


class Patchiness(GeometryMeasurement):
    """How clumped rows are, counted in the cells of a quantizer, as an `evaluate.Measurement`.

    Example:
        >>> import evaluate, hf_repgeo
        >>> clumps = [[0, 0]] * 40 + [[1, 1]] * 8 + [[2, 4]] * 8 + [[3, 9]] * 8
        >>> result = evaluate.load("patchiness").compute(representations=clumps, codebooks=2, bits=2)
        >>> round(result["patchiness"], 4), result["patchiness_n"]    # 4 (40 * 39 + 3 * 8 * 7) / 64^2
        (1.6875, 64)
    """

    measure = "patchiness"

    def _info(self) -> evaluate.MeasurementInfo:
        return measurement_info(DESCRIPTION, CITATION, INPUTS, "https://arxiv.org/abs/2406.12159")
