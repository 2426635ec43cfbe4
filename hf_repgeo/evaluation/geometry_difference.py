"""`evaluate.load("geometry_difference", module_type="comparison")`."""

from __future__ import annotations

import evaluate

# In full, not relative: evaluate copies this file into its modules cache when it is loaded by its path.
from hf_repgeo.evaluation.base import flat
from hf_repgeo.evaluation.pairs import GeometryComparison, comparison_info
from hf_repgeo.measures import PointCloud, evaluate_all, resolve
from hf_repgeo.measures.pairs import paired_differences, scatter_of_cells

DESCRIPTION = """\
Whether a measure of shape, such as anisotropy or intrinsic dimension, differs between two sets of representations of
the same samples: the second value minus the first, with a standard error and an interval that leave groups of samples
out of both sets at once, and the p of a sign-flip permutation test. The paired error is far below those of the values.
"""

CITATION = """\
@article{nichols-holmes-2002-nonparametric,
  title = {Nonparametric permutation tests for functional neuroimaging: a primer with examples},
  author = {Nichols, Thomas E. and Holmes, Andrew P.},
  journal = {Human Brain Mapping},
  volume = {15},
  year = {2002}
}
"""

INPUTS = """
Args:
    representations1: rows `(n_samples, hidden_size)`: a torch tensor, a numpy array or lists of numbers.
    representations2: rows of the same samples, of any width.
    measures: names such as `"anisotropy"` or `"intrinsic_dimension:facco"`; default: anisotropy, effective rank, mean
        cosine and intrinsic dimension.
    groups: `(n_samples,)` integers, rows that belong together, such as tokens of one document.

Returns:
    For each measure NAME: NAME_difference, NAME_difference_standard_error, NAME_difference_low and _high (95 %
    interval), NAME_difference_p; NAME_difference_first and _second, the two values. Without a value,
    NAME_difference_reason.

Examples:
    >>> import evaluate, hf_repgeo, torch
    >>> difference = evaluate.load("geometry_difference", module_type="comparison")
    >>> X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    >>> Y = X * torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    >>> found = difference.compute(representations1=X, representations2=Y, measures="anisotropy")
    >>> found["anisotropy_difference"] > 0.3, found["anisotropy_difference_p"] < 0.01
    (True, True)
"""

MEASURES = ["anisotropy", "effective_rank", "mean_cosine", "intrinsic_dimension:facco"]
SHOWN = ("first", "second", "low", "high", "p")


class GeometryDifference(GeometryComparison):
    """Paired differences of measures between two sets of representations, as an `evaluate.Comparison`.

    Example:
        >>> import evaluate, hf_repgeo, torch
        >>> difference = evaluate.load("geometry_difference", module_type="comparison")
        >>> X = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
        >>> difference.compute(representations1=X, representations2=X, measures="mean_cosine")["mean_cosine_difference"]
        0.0
    """

    def _info(self) -> evaluate.ComparisonInfo:
        return comparison_info(DESCRIPTION, CITATION, INPUTS, "https://doi.org/10.1002/hbm.1058")

    def compare(self, X, Y, *, measures=None, groups=None, seed: int = 0, **others) -> dict:
        """The difference of every measure as a flat dict."""
        pairs = resolve(MEASURES if measures is None else measures)
        clouds = [PointCloud(rows, groups=groups, seed=seed) for rows in (X, Y)]
        first, second = (evaluate_all(cloud, pairs) for cloud in clouds)
        scatter = scatter_of_cells(clouds[0], first, clouds[1], second, evaluate_all, seed)
        result: dict = {}
        for one, other, redrawn in zip(first, second, scatter, strict=True):
            [found] = paired_differences([one], [other], scatter=[redrawn], seed=seed)
            key = f"{found.measure}_difference"
            key = f"{found.measure}_{found.convention}_difference" if key in result else key
            result |= flat(key, [found])
            result |= {f"{key}_{name}": found.details[name] for name in SHOWN if name in found.details}
        return result
