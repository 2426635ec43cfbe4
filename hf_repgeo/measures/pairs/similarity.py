"""How similar two clouds are as a whole: CKA, Procrustes, the linearity score, novelty of subspaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...errors import UnknownName
from ..estimate import Estimate, jackknife, missing
from .pair import CloudPair, FoldSums

NO_SPREAD = "no_spread: all rows of one cloud are equal, so there is nothing to compare"
DIRECTIONS = 32
HELD_OUT_FOLDS = 5
RIDGE = 1e-10  # of the mean variance: keeps the normal equations solvable where X has fewer directions than columns
LEAST_SQUARES = torch.finfo(torch.float64).tiny / RIDGE  # beside entries of 1: below, a ridge is no number any more


# --- linear CKA -----------------------------------------------------------------------------------------------------


def linear_cka(pair: CloudPair, *, convention: str = "debiased") -> Estimate:
    """Linear centred kernel alignment: are the same pairs of rows similar in both clouds?

    `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))` with the Gram matrices `K = X X^T` and `L = Y Y^T`.
    `debiased` (default): HSIC is the unbiased estimator, which leaves out the diagonals; unrelated clouds give 0 on
    average whatever n and d. `kornblith`: the sums over whole centred Gram matrices; unrelated clouds with n of the
    order of d give values near 1, so do not read it without its chance level.

    Args:
        pair: the two clouds.
        convention: `"debiased"` or `"kornblith"`.

    Returns:
        Estimate: 1 where one cloud is the other turned, shifted and scaled; 0 where they are unrelated; `debiased` may
        be slightly negative. Standard error by leaving out groups, exact for each fold.

    Raises:
        UnknownName: an unknown convention.

    Cost: three products of `2 n d^2` flops. Memory: folds x d x d.

    Source: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", equation 2; debiased as in
    Song et al. 2012, "Feature Selection via Dependence Maximization", equation 5.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.pairs import CloudPair, linear_cka
        >>> g = torch.Generator().manual_seed(0)
        >>> X, Y = torch.randn(300, 200, generator=g), torch.randn(300, 200, generator=g)
        >>> abs(linear_cka(CloudPair(X, Y)).value) < 0.02
        True
        >>> linear_cka(CloudPair(X, Y), convention="kornblith").value > 0.3
        True
    """
    if convention not in ("debiased", "kornblith"):
        raise UnknownName("convention of linear_cka", convention, ("debiased", "kornblith"))
    hsic = hsic_unbiased if convention == "debiased" else hsic_biased
    value = _alignment(pair, hsic, None)
    if value is None:
        return missing("linear_cka", convention, NO_SPREAD, n=pair.n)
    error, method = _leave_one_out(pair, lambda fold: _alignment(pair, hsic, fold))
    return Estimate("linear_cka", convention, value, error, method, n=pair.n)


def _alignment(pair: CloudPair, hsic: Callable[[FoldSums, int | None], float], left_out: int | None) -> float | None:
    own = [hsic(sums, left_out) for sums in (pair.xx, pair.yy)]
    if min(own) <= 0:
        return None
    return min(1.0, hsic(pair.xy, left_out) / (own[0] * own[1]) ** 0.5)  # above 1 is rounding: Cauchy and Schwarz


def hsic_unbiased(sums: FoldSums, left_out: int | None = None) -> float:
    """The unbiased HSIC of the rows outside one fold, up to the factor `1 / (n (n - 3))`.

    `tr(K~ L~) + sum(K~) sum(L~) / ((n - 1) (n - 2)) - 2 / (n - 2) 1^T K~ L~ 1`, the tilde: diagonal set to 0. With rows
    as columns of features nothing of size n x n is needed: `tr(K L) = |A^T B|_F^2` and `K 1 = A (A^T 1)`.
    """
    s = _Remaining(sums, left_out)
    total_k, total_l = s.a @ s.a - s.k, s.b @ s.b - s.l
    traced = s.squared_product - s.kl
    crossed = s.a @ s.product_times_b - s.a @ s.la - s.b @ s.kb + s.kl
    n = s.n
    if n < 4:
        return 0.0
    return float(traced + total_k * total_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed) / (n * (n - 3))


def hsic_biased(sums: FoldSums, left_out: int | None = None) -> float:
    """`|A^T B|_F^2` of the rows outside one fold, centred on their own means, over `(n - 1)^2`."""
    s = _Remaining(sums, left_out)
    centred = s.squared_product - 2 / s.n * (s.a @ s.product_times_b) + (s.a @ s.a) * (s.b @ s.b) / s.n**2
    return float(centred) / (s.n - 1) ** 2


class _Remaining:
    """Sums over all folds but one; the same names as in `FoldSums`."""

    def __init__(self, sums: FoldSums, left_out: int | None):
        def remaining(by_fold: torch.Tensor) -> torch.Tensor:
            return by_fold.sum(0) if left_out is None else by_fold.sum(0) - by_fold[left_out]

        self.a, self.b, self.la, self.kb = (remaining(s) for s in (sums.a, sums.b, sums.la, sums.kb))
        self.k, self.l, self.kl = (remaining(s) for s in (sums.k, sums.l, sums.kl))
        product = remaining(sums.product)
        self.n = float(remaining(sums.counts))
        self.squared_product = product.to(torch.float64).square().sum()
        self.product_times_b = (product.to(torch.float64) @ self.b) if left_out is not None else 0 * self.a


# --- orthogonal Procrustes ------------------------------------------------------------------------------------------


def orthogonal_procrustes(pair: CloudPair) -> Estimate:
    """Similarity after the best rotation: `|X^T Y|_* / (|X|_F |Y|_F)`, with the sum of singular values above.

    Both clouds are centred and scaled to norm 1; the best orthogonal map then leaves the squared distance `2 - 2 s`,
    which is in the details as `distance`.

    Args:
        pair: the two clouds; they may differ in width.

    Returns:
        Estimate: 1 where one cloud is the other turned, shifted and scaled; the chance level grows with d / n, so ask
        for it. Standard error by leaving out groups, the singular vectors held fixed.

    Cost: one product of `2 n d_x d_y` flops and one SVD of `d_x x d_y`.

    Source: Schoenemann 1966, "A generalized solution of the orthogonal Procrustes problem"; as a distance between
    representations, Ding et al. 2021, "Grounding Representation Similarity with Statistical Testing", section 2.
    """
    norms = pair.xy.k.sum(), pair.xy.l.sum()
    if min(map(float, norms)) <= 0:
        return missing("orthogonal_procrustes", "nuclear", NO_SPREAD, n=pair.n)
    product = pair.xy.product.sum(0).to(torch.float64)
    u, singular, v = torch.linalg.svd(product, full_matrices=False)
    value = min(1.0, float(singular.sum() / (norms[0] * norms[1]).sqrt()))
    along = torch.einsum("fij,ir,rj->f", pair.xy.product.to(torch.float64), u, v)

    def without(fold: int) -> float:
        rest = (norms[0] - pair.xy.k[fold]) * (norms[1] - pair.xy.l[fold])
        return float((singular.sum() - along[fold]) / rest.sqrt())

    error, method = _leave_one_out(pair, without)
    details = {"distance": (2 - 2 * value) ** 0.5}
    return Estimate("orthogonal_procrustes", "nuclear", value, error, method, n=pair.n, details=details)


# --- linearity ------------------------------------------------------------------------------------------------------


def linearity_score(pair: CloudPair, *, convention: str = "held_out") -> Estimate:
    """Share of Y's variance that a linear map of X explains: 1 where Y is a linear function of X.

    `1 - min_A |X A - Y|^2` for centred clouds of norm 1. `held_out` (default): the map is fitted on four fifths of the
    groups and scored on the rest, five times; a map that only memorises scores 0 or below. `razzhigaev`: fitted and
    scored on the same rows, as in the paper; with n near d it reads 1 for unrelated clouds.

    Args:
        pair: the two clouds; not symmetric in them.
        convention: `"held_out"` or `"razzhigaev"`.

    Returns:
        Estimate: at most 1. Standard error over the held-out folds; none for `razzhigaev`.

    Raises:
        UnknownName: an unknown convention.

    Cost: two products of `2 n d^2` flops and five solutions of `d x d` systems.

    Source: Razzhigaev et al. 2024, "Your Transformer is Secretly Linear", section 3, equation 1.
    """
    if convention not in ("held_out", "razzhigaev"):
        raise UnknownName("convention of linearity_score", convention, ("held_out", "razzhigaev"))
    if min(float(pair.xy.k.sum()), float(pair.xy.l.sum())) <= LEAST_SQUARES:
        return missing("linearity_score", convention, NO_SPREAD, n=pair.n)
    limited = f"rank_limited: {pair.n} rows for {pair.x.d} columns; the map fits any rows it was fitted on"
    warnings = (limited,) if pair.n <= 2 * pair.x.d else ()
    if convention == "razzhigaev":
        value = 1 - float(_residual(pair, None, None) / pair.xy.l.sum())
        return Estimate("linearity_score", convention, value, n=pair.n, warnings=warnings)
    folds = torch.arange(len(pair.fold_sizes)) % HELD_OUT_FOLDS
    if len(pair.fold_sizes) < 2:
        few = "too_few_groups: one group leaves nothing to hold out"
        return missing("linearity_score", convention, few, n=pair.n)
    parts = [part for part in (torch.nonzero(folds == i)[:, 0] for i in range(HELD_OUT_FOLDS)) if len(part)]
    residuals = torch.stack([_residual(pair, torch.isin(torch.arange(len(folds)), part), part) for part in parts])
    totals = torch.stack([_spread(pair, part) for part in parts])
    value = 1 - float(residuals.sum() / totals.sum())
    scores = 1 - residuals / totals
    error = float(scores.std() / len(parts) ** 0.5)
    method = f"over {len(parts)} held-out parts"
    return Estimate("linearity_score", convention, value, error, method, n=pair.n, warnings=warnings)


def _residual(pair: CloudPair, left_out: torch.Tensor | None, scored: torch.Tensor | None) -> torch.Tensor:
    """Squared error on the folds `scored` (default: all) of the map fitted without the folds `left_out`."""
    fit = _Moments(pair, slice(None) if left_out is None else ~left_out)
    test = _Moments(pair, slice(None) if scored is None else scored)
    scale = fit.xx.diagonal().mean()
    ridge = RIDGE * scale * torch.eye(len(fit.xx), dtype=fit.xx.dtype, device=fit.xx.device)
    # A map cannot be fitted to one row, to equal ones, or where squares underflow: the best guess is their mean.
    spread = float(scale) > LEAST_SQUARES
    weights = torch.linalg.solve(fit.xx + ridge, fit.xy) if spread else torch.zeros_like(fit.xy)
    offset = (fit.y - fit.x @ weights) / fit.n  # the map is x -> offset + x weights
    predicted = (weights * (test.raw_xx @ weights)).sum() + 2 * (test.x @ weights) @ offset + test.n * offset @ offset
    error = test.yy - 2 * (test.y @ offset + (weights * test.raw_xy).sum()) + predicted
    return error.clamp_min(0)  # rounding of the sums can bring it below


def _spread(pair: CloudPair, part: torch.Tensor) -> torch.Tensor:
    """Squared distances of Y's rows in these folds from the mean of the others."""
    rest = torch.ones(len(pair.fold_sizes), dtype=torch.bool)
    rest[part] = False
    fit, test = _Moments(pair, rest), _Moments(pair, part)
    mean = fit.y / fit.n
    return test.yy - 2 * test.y @ mean + test.n * mean @ mean


class _Moments:
    """Sums over some folds; `xx` and `xy` are centred on these folds' own means, `raw_xx` and `raw_xy` are not."""

    def __init__(self, pair: CloudPair, part: Any):
        self.n = float(pair.xy.counts[part].sum())
        self.x, self.y = pair.xy.a[part].sum(0), pair.xy.b[part].sum(0)
        self.yy = pair.xy.l[part].sum()
        self.raw_xx = pair.xx.product[part].sum(0).to(torch.float64)
        self.raw_xy = pair.xy.product[part].sum(0).to(torch.float64)
        self.xx = self.raw_xx - torch.outer(self.x, self.x) / self.n
        self.xy = self.raw_xy - torch.outer(self.x, self.y) / self.n


# --- subspaces ------------------------------------------------------------------------------------------------------


def subspace_novelty(pair: CloudPair, *, directions: int = DIRECTIONS) -> Estimate:
    """Share of Y's leading subspace that is new against X's: `1 - |U_X^T U_Y|_F^2 / k`, U the k leading directions.

    Args:
        pair: two clouds of one width, such as two layers of a model.
        directions: k; at most the width.

    Returns:
        Estimate: 0 where both spread along the same k directions, 1 where the directions are at right angles; random
        subspaces give `1 - k / d`, in the details as `chance`. No standard error.

    Cost: two eigendecompositions, `O(n d^2 + d^3)`.

    Source: the chordal distance between subspaces, as in Bjoerck & Golub 1973, "Numerical methods for computing angles
    between linear subspaces".
    """
    if pair.x.d != pair.y.d:
        reason = f"different_widths: {pair.x.d} and {pair.y.d} columns; directions compare within one space"
        return missing("subspace_novelty", "leading", reason, n=pair.n)
    k = min(directions, pair.x.d, pair.n - 1)
    bases = [_leading(sums, k) for sums in (pair.xx, pair.yy)]
    value = 1 - float((bases[0].T @ bases[1]).square().sum()) / k
    details = {"directions": k, "chance": 1 - k / pair.x.d}
    return Estimate("subspace_novelty", "leading", min(1.0, max(0.0, value)), n=pair.n, details=details)


def _leading(sums: FoldSums, k: int) -> torch.Tensor:
    """Orthonormal leading directions, `(d, k)` float64."""
    scatter = sums.product.sum(0).to(torch.float64)
    return torch.linalg.eigh((scatter + scatter.T) / 2).eigenvectors[:, -k:]


def _leave_one_out(pair: CloudPair, value_without: Callable[[int], float | None]) -> tuple[float | None, str | None]:
    """Standard error and its method from the values with one fold left out each."""
    if not pair.jackknife or len(pair.fold_sizes) < 2:
        return None, None
    values = [value_without(fold) for fold in range(len(pair.fold_sizes))]
    return (None, None) if None in values else jackknife(torch.tensor(values, dtype=torch.float64))
