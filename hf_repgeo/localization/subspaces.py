"""How many directions of any basis carry a property? Erases them, and exchanges them between rows.

*Erasing* (LEACE, Belrose et al., NeurIPS 2023, theorem 4.3): the smallest change of the rows after which no linear
reader tells the values apart. It erases as many directions as the cross-covariance has rank, at most the number of
values minus one. *Iterated projection* (INLP, Ravfogel et al., ACL 2020) removes a reader's directions, fits the next
reader, and so on. *Exchanging* (distributed alignment search, Geiger et al., CLeaR 2024) replaces the part of a row in
a subspace by another row's, and tests whether a reader's answer changes with it. For a linear reader all three have
closed forms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import BadInput
from .effects import check_rows, read_values

Parts = Sequence[torch.Tensor] | torch.Tensor  # cross-covariances (d, C - 1) of the three parts of one division
PAIRS = ((0, 1), (0, 2), (1, 2))


def spectrum(divisions: Sequence[Parts]) -> torch.Tensor:
    """What each direction between the values holds, `(C - 1,)` float64, the largest first; noise may make some
    negative.

    Eigenvalues of the products of cross-covariances of disjoint parts: their sum is unbiased.
    """
    width = divisions[0][0].shape[1]
    product = torch.zeros(width, width, dtype=torch.float64)
    for parts in divisions:
        for a, b in PAIRS:
            product += (parts[a].T @ parts[b]).double()
    product /= len(divisions) * len(PAIRS)
    return torch.linalg.eigvalsh((product + product.T) / 2).flip(0)


def subspace_rank(values: torch.Tensor, keep: float) -> int:
    """The fewest directions of any basis that hold `keep` of the total.

    Example:
        >>> subspace_rank(torch.tensor([6.0, 3.5, 0.4, 0.1]), 0.9)
        2
    """
    enough = values.cumsum(0) >= keep * values.sum()
    return int(enough.nonzero()[0]) + 1 if bool(enough.any()) else len(values)


def left_after_erasing(whitened: Sequence[Parts], rank: int) -> float:
    """Share of a reader's signal that is left on new groups after erasing `rank` directions estimated on other groups.

    Args:
        whitened: cross-covariances of rows with unit covariance; there LEACE is an orthogonal projection.
        rank: how many directions.
    """
    left = whole = 0.0
    for parts in whitened:
        for own, a, b in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
            erased = torch.linalg.svd(parts[own], full_matrices=False).U[:, :rank]
            product = float((parts[a] * parts[b]).sum())
            whole += product
            left += product - float(((erased.T @ parts[a]) * (erased.T @ parts[b])).sum())
    return left / whole


def carried(parts: Parts, factor: torch.Tensor, rank: int, size: int) -> tuple[float, float, float]:
    """How much an exchange changes a linear reader's answer, as a share of the change by exchanging the whole row.

    Subspace and dimensions are chosen on the first part, the reader is fitted to the second, rows of the third are
    exchanged.

    Args:
        parts: cross-covariances of three disjoint parts.
        factor: Cholesky factor of the covariance of the rows, `(d, d)` float64.
        rank, size: of the subspace, and of the set of dimensions.

    Returns:
        For the `rank` best directions, for the `size` best dimensions, and for `size` random dimensions (the mean).
    """
    own, other, exchanged = parts
    reader = torch.cholesky_solve(other.double(), factor).float()
    by_dimension = (reader * exchanged).sum(-1).double()
    whole = float(by_dimension.sum())
    directions = torch.linalg.svd(own, full_matrices=False).U[:, :rank]
    subspace = float(((directions.T @ reader) * (directions.T @ exchanged)).sum())
    best = own.square().sum(-1).topk(size).indices
    return subspace / whole, float(by_dimension[best].sum()) / whole, size / len(own)


def inlp_rank(parts: Parts, covariance: torch.Tensor, left: float = 0.1, most: int = 24) -> int | None:
    """How many directions iterated projection removes before a reader has less than `left` of its signal.

    Args:
        parts: cross-covariances of three disjoint parts; readers are fitted to the first, and tested on the others.
        covariance: `(d, d)` float64.
        left: share of the signal at the start.
        most: rounds; each removes as many directions as the property has values, minus one.

    Returns:
        The number of directions; None if more than `left` remains after `most` rounds.
    """
    own, a, b = (part.double() for part in parts)
    inner = covariance.clone()
    d, whole, taken = len(inner), None, 0
    for _ in range(most):
        factor = torch.linalg.cholesky(inner)
        told = float((a * torch.cholesky_solve(b, factor)).sum())
        whole = told if whole is None else whole
        if told <= left * whole:
            return taken
        directions = torch.linalg.qr(torch.cholesky_solve(own, factor)).Q
        keep = torch.eye(d, dtype=torch.float64) - directions @ directions.T
        # removed directions get variance 1, which keeps the matrix invertible and adds no information
        inner = keep @ inner @ keep + directions @ directions.T
        own, a, b = keep @ own, keep @ a, keep @ b
        taken += directions.shape[1]
        if taken + directions.shape[1] > d // 2:
            return None
    return None


def erase(rows: torch.Tensor, labels: Sequence, reference: torch.Tensor | None = None) -> torch.Tensor:
    """Rows from which no linear reader can tell a property: LEACE in closed form.

    The values' means become equal, and no other affine map that does this changes the rows less.

    Args:
        rows: `(n, hidden_size)`, changed copies of which are returned.
        labels: values of the property on the rows that the eraser is fitted to.
        reference: these rows, `(m, hidden_size)`; default: `rows`.

    Returns:
        `(n, hidden_size)` float32.

    Raises:
        BadInput: another number of labels than rows, or fewer than two values.

    Cost: `O(m hidden_size^2 + hidden_size^3)`.

    Example:
        >>> x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 3] > 0).tolist()
        >>> erased = erase(x, y)
        >>> bool((erased[y].mean(0) - erased[[not v for v in y]].mean(0)).abs().max() < 1e-5)
        True
    """
    reference = rows if reference is None else reference
    if len(labels) != len(reference):
        raise BadInput("labels", came=f"{len(labels)} for {len(reference)} rows", wanted="one per row")
    check_rows(reference)
    values = read_values(labels, None, "labels")
    mean = reference.double().mean(0)
    centred = reference.double() - mean
    held = centred[values.at] - centred[values.at].mean(0)
    eigenvalues, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    root = eigenvalues.clamp(min=0).sqrt()
    inverse = torch.where(root > 1e-6 * root.max(), 1 / root.clamp(min=1e-300), 0.0)
    cross = held.T @ values.vectors[values.codes].double() / len(held)
    white = vectors @ (inverse[:, None] * (vectors.T @ cross))
    directions = torch.linalg.svd(white, full_matrices=False)
    used = directions.U[:, directions.S > 1e-9 * directions.S[0].clamp(min=1e-300)]
    there, back = vectors @ (inverse[:, None] * (vectors.T @ used)), vectors @ (root[:, None] * (vectors.T @ used))
    return (rows.double() - ((rows.double() - mean) @ there) @ back.T).float()
