"""`evaluate.load("anisotropy")`."""

from __future__ import annotations

import evaluate

# In full, not relative: evaluate copies this file into its modules cache when it is loaded by its path.
from hf_repgeo.evaluation.base import GeometryMeasurement, measurement_info
from hf_repgeo.evaluation.streams import FoldedMoments

DESCRIPTION = """\
Anisotropy is the share of the variance of representations that lies along one direction: the largest eigenvalue of
their covariance over the sum of all. It lies between 1 / min(n - 1, d), no direction preferred, and 1, all on a line
through their mean. n rows of an isotropic Gaussian in d dimensions give about (1 + sqrt(d / n))^2 / d by chance.
A handful of rows with a huge norm is enough to bring it close to 1.
"""

CITATION = """\
@inproceedings{razzhigaev-etal-2024-shape,
  title = {The Shape of Learning: Anisotropy and Intrinsic Dimensions in Transformer-Based Models},
  author = {Razzhigaev, Anton and Mikhalchuk, Matvey and Goncharova, Elizaveta and Oseledets, Ivan and
            Dimitrov, Denis and Kuznetsov, Andrey},
  booktitle = {Findings of the Association for Computational Linguistics: EACL 2024},
  year = {2024},
  url = {https://arxiv.org/abs/2311.05928}
}
"""

INPUTS = """
Returns:
    anisotropy: value in (0, 1], or None with `anisotropy_reason`.
    anisotropy_standard_error: jackknife over 20 groups of rows; None for rows that came by `add_batch`, which are
        folded into moments.
    anisotropy_n: number of rows.

Examples:
    >>> import evaluate, hf_repgeo
    >>> anisotropy = evaluate.load("anisotropy")
    >>> X = [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    >>> round(anisotropy.compute(representations=X)["anisotropy"], 6)
    0.9
"""


class Anisotropy(GeometryMeasurement):
    """Share of the variance that lies along one direction, as an `evaluate.Measurement`.

    Example:
        >>> import evaluate, hf_repgeo
        >>> anisotropy = evaluate.load("anisotropy")
        >>> for batch in ([[3.0, 0.0], [-3.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]):
        ...     anisotropy.add_batch(representations=batch)
        >>> round(anisotropy.compute()["anisotropy"], 6)
        0.9
    """

    measure = "anisotropy"
    stream = FoldedMoments

    def _info(self) -> evaluate.MeasurementInfo:
        return measurement_info(DESCRIPTION, CITATION, INPUTS, "https://arxiv.org/abs/2311.05928")
