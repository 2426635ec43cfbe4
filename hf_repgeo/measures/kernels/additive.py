"""Residual and additive quantizers: a row stands as the sum of one full-width codeword from each codebook.

Residual: k-means on the rows, then on their residuals, and so on (Chen, Guan & Wang, Sensors 10, 2010), from a start
without random numbers; codes by beam search (Babenko & Lempitsky, CVPR 2014).

Additive: from there, alternate between codebooks by least squares and codes by local search (Martinez, Zakhmi, Hoos &
Little, "LSQ++: Lower running time and higher recall in multi-codebook quantization", ECCV 2018). Four
things differ here: the start; the noise added to the codebooks is made of rows, so that it has their covariance; least
squares is regularised towards the previous codebooks, since a codeword that may copy its few rows freezes their codes;
and a step of the local search is one embedding_bag over a table of inner products.

The cost of codes, for all searches here: the squared error of a row x under codewords c_1 ... c_M, one from each
codebook, is `|x|^2 + sum_m (|c_m|^2 - 2 <x, c_m>) + sum_{l < m} 2 <c_l, c_m>`. The first term is the same for all codes
and left out; the second is a table for each codebook (`alone`); the third comes from one table of all pairs of
codewords (`cross`), computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add

import torch
from torch.nn.functional import embedding_bag

from .kmeans import argmin, cell_sums, kmeans
from .products import times_transposed

ROUNDS = 4
SEARCHES = 3  # perturbed restarts of the local search per round
SWEEPS = 2  # passes over the codebooks after a perturbation
NOISE = 0.3  # noise on the codewords: this share of a row, over the number of codebooks; 0 in the last round
PULL = 8.0  # weight of the previous codewords in least squares, in rows; likewise 0 in the last round
SOLVER_SWEEPS = 2
BEAM = 4
BLOCK_ROWS = 2048  # rows searched at a time; on a GPU 32 times as many


def fit_residual(
    rows: torch.Tensor, codebooks: int, cells: int, progress: Callable[[int, int], None]
) -> tuple[torch.Tensor, int]:
    """Codewords `(codebooks, cells, d)` for centred rows `(n, d)` and the most rounds of k-means, O(n d cells) each."""
    left, words, iterations = rows, [], 0
    for done in range(1, codebooks + 1):
        found = kmeans(left, cells)
        left = left - found.centroids[found.cells]
        words.append(found.centroids)
        iterations = max(iterations, found.iterations)
        progress(done, codebooks)
    return torch.stack(words), iterations


def beam_search(rows: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Codes `(n, codebooks)` by taking the codebooks in turn and keeping the `BEAM` best partial sums of each row."""
    cross, norms = _inner_products(words)
    found = []
    for x in rows.split(_block(rows) // BEAM):
        alone = [times_transposed(x, -2 * book) + norm for book, norm in zip(words, norms, strict=True)]
        found.append(_beam_block(alone, cross))
    return torch.cat(found)


def _beam_block(alone: list[torch.Tensor], cross: torch.Tensor) -> torch.Tensor:
    """Codes of one block of rows.

    To extend a partial sum by a codeword of codebook m costs its entry of `alone`, and its inner products with the
    codewords chosen before: a sum of rows of `cross`, which embedding_bag computes for all cells of m at once.
    """
    n, cells = alone[0].shape
    costs, first = alone[0].topk(min(BEAM, cells), dim=1, largest=False)  # (rows, beam)
    kept = first[:, :, None]  # (rows, beam, codebooks so far), as rows of `cross`
    for m in range(1, len(alone)):
        table = cross[:, m * cells : (m + 1) * cells].contiguous()
        met = embedding_bag(kept.flatten(0, 1), table, mode="sum").reshape(n, -1, cells)
        scores = costs[:, :, None] + alone[m][:, None] + met  # (rows, beam, cells)
        costs, chosen = scores.flatten(1).topk(BEAM, dim=1, largest=False)
        path = kept.gather(1, (chosen // cells)[:, :, None].expand(-1, -1, m))
        kept = torch.cat([path, (chosen % cells + m * cells)[:, :, None]], dim=2)
    return kept[:, 0] - _offsets(alone)


def fit_additive(
    rows: torch.Tensor, codebooks: int, cells: int, generator: torch.Generator, progress: Callable[[int, int], None]
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Codewords `(codebooks, cells, d)` and codes `(n, codebooks)` for centred rows `(n, d)`, and the rounds it took.

    A round fits the codewords by least squares with the codes fixed, then improves the codes by local search under
    codewords with noise. Noise and regularisation fall to 0 in the last round, as in simulated annealing: early rounds
    leave poor local optima, the last one settles.

    Cost: beside `fit_residual`, each round a product of O(n d codebooks cells) and SEARCHES of O(n codebooks^2 cells).
    """
    steps = codebooks + ROUNDS
    words, _ = fit_residual(rows, codebooks, cells, lambda done, _: progress(done, steps))
    codes = beam_search(rows, words)
    for done in range(1, ROUNDS + 1):
        heat = 1 - done / ROUNDS
        words = least_squares(rows, codes, words, heat * PULL)
        drawn = torch.randint(len(rows), (codebooks * cells,), generator=generator).to(rows.device)
        noise = rows[drawn].reshape(words.shape)
        codes = local_search(rows, words + heat * NOISE / codebooks * noise, codes, generator)
        progress(codebooks + done, steps)
    return words, codes, ROUNDS


def least_squares(rows: torch.Tensor, codes: torch.Tensor, words: torch.Tensor, pull: float) -> torch.Tensor:
    """Codewords of least squared error given the codes; the previous codewords weigh as much as `pull` rows.

    Minimises `sum_i |x_i - sum_m w_m[code_im]|^2 + pull |w - words|^2` by sweeps over the codebooks, each of which is
    solved exactly: its normal equations are diagonal. But for the pull, codeword k of codebook m becomes the mean, over
    the rows with this code, of the row minus its codewords from the other codebooks; `together` counts how often two
    codes meet in a row, and gives the sum of those codewords without reading the rows. A codeword without rows stays.
    """
    n_books, cells, width = words.shape
    together = _pair_counts(codes, cells).to(rows.dtype)  # (codebooks, cells, codebooks * cells)
    target, weight = pull * words, rows.new_empty(n_books, cells, 1)
    for m in range(n_books):
        sums, counts = cell_sums(rows, codes[:, m], cells)
        target[m] += sums
        weight[m] = counts.to(rows.dtype)[:, None] + pull
    solved = words.reshape(-1, width).T.contiguous()  # (width, codebooks * cells), as times_transposed wants it
    for _ in range(SOLVER_SWEEPS):
        for m in range(n_books):
            better = (target[m] - times_transposed(together[m], solved)) / weight[m].clamp_min(1e-30)
            solved[:, m * cells : (m + 1) * cells] = torch.where(weight[m] > 0, better, words[m]).T
    return solved.T.reshape(words.shape).contiguous()


def _pair_counts(codes: torch.Tensor, cells: int) -> torch.Tensor:
    """How many rows have code k in codebook m and l in another, `(codebooks, cells, codebooks * cells)`."""
    n_books = codes.shape[1]
    counts = codes.new_zeros(n_books, cells, n_books, cells)
    for i in range(n_books):
        for j in range(i):
            pair = torch.bincount(codes[:, i] * cells + codes[:, j], minlength=cells * cells).reshape(cells, cells)
            counts[i, :, j], counts[j, :, i] = pair, pair.T
    return counts.reshape(n_books, cells, n_books * cells)


def local_search(
    rows: torch.Tensor, words: torch.Tensor, codes: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Codes `(n, codebooks)` at least as good as those given: improved, and improved again from perturbed copies."""
    cross, norms = _inner_products(words)
    tables = [table.contiguous() for table in cross.split(words.shape[1], dim=1)]
    found = []
    for x, code in zip(rows.split(_block(rows)), codes.split(_block(rows)), strict=True):
        alone = [times_transposed(x, -2 * book) + norm for book, norm in zip(words, norms, strict=True)]
        found.append(_search_block(alone, cross, tables, code, generator))
    return torch.cat(found)


def _inner_products(words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`2 <c, c'>` over all pairs of codewords, 0 within a codebook, square; and `|c|^2`, `(codebooks, cells)`."""
    n_books, cells, width = words.shape
    flat = words.reshape(-1, width)
    cross = 2 * times_transposed(flat, flat)
    for m in range(n_books):
        cross[m * cells : (m + 1) * cells, m * cells : (m + 1) * cells] = 0
    return cross, words.square().sum(2)


def _block(rows: torch.Tensor) -> int:
    return BLOCK_ROWS if rows.device.type == "cpu" else 32 * BLOCK_ROWS


def _search_block(
    alone: list[torch.Tensor],
    cross: torch.Tensor,
    tables: list[torch.Tensor],
    codes: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Iterated local search: random codes replace about half of a row's best ones, and `_descend` improves the result.

    Each row keeps the codes of lowest cost. `alone`: (rows, cells) for each codebook; `tables`: the columns of `cross`
    for each codebook.
    """
    best = _descend(alone, tables, codes, generator)
    lowest = _costs(alone, cross, best)
    for _ in range(SEARCHES):
        fresh = torch.randint(len(tables[0]) // len(tables), codes.shape, generator=generator)
        kick = torch.rand(codes.shape, generator=generator) < 0.5
        trial = _descend(alone, tables, torch.where(kick.to(best.device), fresh.to(best.device), best), generator)
        costs = _costs(alone, cross, trial)
        best = torch.where((costs < lowest)[:, None], trial, best)
        lowest = torch.minimum(costs, lowest)
    return best


def _descend(
    alone: list[torch.Tensor], tables: list[torch.Tensor], codes: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Iterated conditional modes: the best code of each codebook in turn given those of the others, `SWEEPS` times."""
    offsets = _offsets(alone)
    places = codes + offsets  # each code's row in the tables, (rows, codebooks)
    for _ in range(SWEEPS):
        for m in torch.randperm(len(tables), generator=generator).tolist():
            scores = embedding_bag(places, tables[m], mode="sum").add_(alone[m])  # own rows of a table are 0
            places[:, m] = argmin(scores) + offsets[m]
    return places - offsets


def _offsets(alone: list[torch.Tensor]) -> torch.Tensor:
    return alone[0].shape[1] * torch.arange(len(alone), device=alone[0].device)


def _costs(alone: list[torch.Tensor], cross: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Squared error of each row less its squared norm, `(rows,)`."""
    costs = reduce(add, (scores.gather(1, code[:, None])[:, 0] for scores, code in zip(alone, codes.T, strict=True)))
    if len(alone) == 1:
        return costs
    places = codes + _offsets(alone)
    i, j = torch.triu_indices(len(alone), len(alone), offset=1, device=codes.device)
    return costs + cross.take(places[:, i] * len(cross) + places[:, j]).sum(1)
