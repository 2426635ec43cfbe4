"""`evaluate.load("intrinsic_dimension")`."""

from __future__ import annotations

import evaluate

# In full, not relative: evaluate copies this file into its modules cache when it is loaded by its path.
from hf_repgeo.evaluation.base import GeometryMeasurement, measurement_info

DESCRIPTION = """\
Intrinsic dimension is the number of directions in which representations spread locally, estimated by TwoNN from the
ratio of each row's distances to its second and first nearest neighbour. Neighbours are exact, and each distinct row
counts once. Boundaries and curvature lower it, by a tenth at dimension 10 and a third at 50 for some thousand rows:
report it as "TwoNN at n rows", and compare only clouds of equal n.
"""

CITATION = """\
@article{facco-etal-2017-twonn,
  title = {Estimating the intrinsic dimension of datasets by a minimal neighborhood information},
  author = {Facco, Elena and d'Errico, Maria and Rodriguez, Alex and Laio, Alessandro},
  journal = {Scientific Reports},
  volume = {7},
  number = {12140},
  year = {2017},
  doi = {10.1038/s41598-017-11873-y}
}
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
    intrinsic_dimension: value > 0 by a line through the smallest 90 % of the ratios (Facco et al.), or None with
        `intrinsic_dimension_reason`: fewer than 20 distinct rows, all rows equal, or a grid.
    intrinsic_dimension_razzhigaev: by the line through the smallest fifth, as the code of "The Shape of Learning".
    intrinsic_dimension_mle: by maximum likelihood, the largest 10 % censored; the least noisy.
    intrinsic_dimension_ball: the k whose uniform ball of as many rows gives the value of `..._mle`: less bias.
    ..._standard_error: of each.
    intrinsic_dimension_n, intrinsic_dimension_n_distinct: number of rows, and of distinct ones.

Examples:
    >>> import evaluate, hf_repgeo, torch
    >>> intrinsic_dimension = evaluate.load("intrinsic_dimension")
    >>> plane = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5).triu()
    >>> round(intrinsic_dimension.compute(representations=plane)["intrinsic_dimension"], 1)
    2.0
"""


class IntrinsicDimension(GeometryMeasurement):
    """How many directions rows spread in locally (TwoNN), as an `evaluate.Measurement`.

    Example:
        >>> import evaluate, hf_repgeo, torch
        >>> line = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(3)
        >>> result = evaluate.load("intrinsic_dimension").compute(representations=line)
        >>> round(result["intrinsic_dimension"]), result["intrinsic_dimension_n_distinct"]
        (1, 500)
    """

    measure = "intrinsic_dimension"

    def _info(self) -> evaluate.MeasurementInfo:
        return measurement_info(DESCRIPTION, CITATION, INPUTS, "https://doi.org/10.1038/s41598-017-11873-y")
