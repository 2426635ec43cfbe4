"""`evaluate.load("linear_cka", module_type="comparison")`."""

from __future__ import annotations

import evaluate

# In full, not relative: evaluate copies this file into its modules cache when it is loaded by its path.
from hf_repgeo.evaluation.base import flat
from hf_repgeo.evaluation.pairs import GeometryComparison, comparison_info
from hf_repgeo.measures.pairs import CloudPair, evaluate_pair, resolve_comparisons

DESCRIPTION = """\
Linear centred kernel alignment says how similar two sets of representations of the same samples are: 1 if one is the
other rotated, shifted and scaled, 0 if they are unrelated. The estimator is debiased: unrelated representations give
0 on average whatever their number and width.
"""

CITATION = """\
@inproceedings{kornblith-etal-2019-similarity,
  title = {Similarity of Neural Network Representations Revisited},
  author = {Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey},
  booktitle = {Proceedings of the 36th International Conference on Machine Learning},
  year = {2019},
  url = {https://arxiv.org/abs/1905.00414}
}
"""

INPUTS = """
Args:
    representations1: rows `(n_samples, hidden_size)`: a torch tensor, a numpy array or lists of numbers.
    representations2: rows of the same samples, of any width.
    groups: `(n_samples,)` integers, rows that belong together; the standard error leaves out whole groups.
    null: also the value that random pairing of the rows gives.

Returns:
    linear_cka: at most 1, or None with `linear_cka_reason`.
    linear_cka_standard_error, linear_cka_n; with `null`, linear_cka_null and linear_cka_null_sd.

Examples:
    >>> import evaluate, hf_repgeo
    >>> linear_cka = evaluate.load("linear_cka", module_type="comparison")
    >>> X = [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, 1.0]]
    >>> round(linear_cka.compute(representations1=X, representations2=X)["linear_cka"], 6)
    1.0
"""


class LinearCKA(GeometryComparison):
    """Debiased linear CKA of two sets of representations, as an `evaluate.Comparison`.

    Example:
        >>> import evaluate, hf_repgeo
        >>> linear_cka = evaluate.load("linear_cka", module_type="comparison")
        >>> X = [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, 1.0]]
        >>> linear_cka.add_batch(representations1=X[:3], representations2=X[:3])
        >>> linear_cka.add_batch(representations1=X[3:], representations2=X[3:])
        >>> round(linear_cka.compute()["linear_cka"], 6)
        1.0
    """

    def _info(self) -> evaluate.ComparisonInfo:
        return comparison_info(DESCRIPTION, CITATION, INPUTS, "https://arxiv.org/abs/1905.00414")

    def compare(self, X, Y, *, groups=None, null: bool = False, **others) -> dict:
        """Debiased CKA of two clouds as a flat dict."""
        [found] = evaluate_pair(CloudPair(X, Y, groups=groups), resolve_comparisons("linear_cka"), null=null)
        chance = {f"linear_cka_{key}": found.details[key] for key in ("null", "null_sd") if key in found.details}
        return flat("linear_cka", [found]) | chance
