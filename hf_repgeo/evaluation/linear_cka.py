"""`evaluate.load("linear_cka", module_type="comparison")`."""

from __future__ import annotations

import datasets
import evaluate
import torch

# In full, not relative: evaluate copies this file into its modules cache when it is loaded by its path.
from hf_repgeo.errors import BadInput
from hf_repgeo.evaluation.base import flat
from hf_repgeo.evaluation.streams import checked_rows
from hf_repgeo.measures.pairs import CloudPair, evaluate_pair, resolve_comparisons

DESCRIPTION = """\
Linear centred kernel alignment says how alike two sets of representations of the same samples are: 1 where one is the
other turned, shifted and scaled, 0 where they are unrelated. The estimator is debiased: unrelated representations give
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


class LinearCKA(evaluate.Comparison):
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

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._rows: list[tuple[torch.Tensor, torch.Tensor]] = []

    def _info(self) -> evaluate.ComparisonInfo:
        row = datasets.Sequence(datasets.Value("float32"))
        return evaluate.ComparisonInfo(
            module_type="comparison",
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"representations1": row, "representations2": row}),
            reference_urls=["https://arxiv.org/abs/1905.00414"],
            license="Apache-2.0",
        )

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

    def compute(self, *, representations1=None, representations2=None, groups=None, null: bool = False, **others):
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
        [found] = evaluate_pair(CloudPair(X, Y, groups=groups), resolve_comparisons("linear_cka"), null=null)
        chance = {f"linear_cka_{key}": found.details[key] for key in ("null", "null_sd") if key in found.details}
        return flat("linear_cka", [found]) | chance

    def _compute(self, representations1, representations2, **options):
        return self.compute(representations1=representations1, representations2=representations2, **options)
