"""Comparisons of two clouds: what the table states, slow float64 twins, closed forms, difficult rows."""

import math

import pytest
import torch

from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.measures.pairs import COMPARISONS, CloudPair, cka_matrix, evaluate_pair, resolve_comparisons
from hf_repgeo.measures.pairs.neighbourhoods import ranks
from hf_repgeo.measures.pairs.similarity import hsic_biased, hsic_unbiased

CASES = [(name, convention) for name, row in COMPARISONS.items() for convention in row.conventions]


def value_of(name, convention, X, Y, **options):
    return evaluate_pair(CloudPair(X, Y, **options), [(name, convention)])[0].value


@pytest.fixture(scope="module")
def clouds():
    """500 rows of 12 columns, and 12 others of which a part is a linear function of the first."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(500, 12, generator=g, dtype=torch.float64) * torch.arange(1, 13) ** -0.5
    Y = X @ torch.randn(12, 12, generator=g, dtype=torch.float64) + 0.7 * torch.randn(500, 12, generator=g).double()
    return X, Y + 2


def changes(width):
    g = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64)).Q
    return {
        "shift": lambda Z: Z + torch.arange(width),
        "scale": lambda Z: 3.7 * Z,
        "rotation": lambda Z: Z @ turn,
        "columns": lambda Z: Z[:, torch.randperm(width, generator=torch.Generator().manual_seed(2))],
    }


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "convention"), CASES)
@pytest.mark.parametrize("change", ["shift", "scale", "rotation", "columns"])
@pytest.mark.parametrize("side", [0, 1])
def test_stated_invariances_hold_and_all_others_break(name, convention, change, side, clouds):
    changed = list(clouds)
    changed[side] = changes(12)[change](changed[side])
    options = {"directions": 4} if name == "subspace_novelty" else {}
    before = evaluate_pair(CloudPair(*clouds), [(name, convention)], **options)[0].value
    after = evaluate_pair(CloudPair(*changed), [(name, convention)], **options)[0].value
    assert math.isclose(before, after, rel_tol=1e-6, abs_tol=1e-8) == (change in COMPARISONS[name].invariances)


@pytest.mark.parametrize(("name", "convention"), CASES)
def test_a_comparison_is_as_symmetric_as_the_table_says(name, convention, clouds):
    X, Y = clouds
    same = math.isclose(value_of(name, convention, X, Y), value_of(name, convention, Y, X), rel_tol=1e-9)
    assert same == COMPARISONS[name].symmetric or name == "subspace_novelty"


@pytest.mark.parametrize(("name", "convention"), CASES)
def test_a_cloud_compared_with_itself_is_at_the_end_of_the_range(name, convention, clouds):
    found = value_of(name, convention, clouds[0], clouds[0])
    best = {"similarity": 1, "distance": 2 / 500 if name == "information_imbalance" else 0}[COMPARISONS[name].kind]
    assert found == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(("name", "convention"), CASES)
def test_values_lie_in_the_stated_range(name, convention, clouds):
    low, high = COMPARISONS[name].range
    g = torch.Generator().manual_seed(3)
    for X, Y in (clouds, (clouds[0], torch.randn(500, 12, generator=g)), (clouds[0][:40], clouds[1][:40])):
        found = value_of(name, convention, X, Y)
        assert (low is None or found >= low) and (high is None or found <= high + 1e-9)


@pytest.mark.parametrize(("name", "convention"), CASES)
def test_too_few_pairs_give_a_reason_and_enough_give_a_value(name, convention):
    g = torch.Generator().manual_seed(4)
    X, Y = torch.randn(60, 3, generator=g), torch.randn(60, 3, generator=g)
    fewest = COMPARISONS[name].minimum_rows
    options = {"directions": 2} if name == "subspace_novelty" else {}
    [enough] = evaluate_pair(CloudPair(X[:fewest], Y[:fewest]), [(name, convention)], **options)
    assert enough.value is not None or enough.warnings


@pytest.mark.parametrize(("name", "convention"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision_of_the_rows_hardly_matters(name, convention, dtype, clouds):
    X, Y = (cloud.to(dtype) for cloud in clouds)
    wide = value_of(name, convention, X.double(), Y.double())
    assert value_of(name, convention, X, Y) == pytest.approx(wide, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize(("name", "convention"), CASES)
def test_equal_rows_give_no_value_and_say_why(name, convention):
    X, Y = torch.ones(50, 4), torch.randn(50, 4, generator=torch.Generator().manual_seed(5))
    [found] = evaluate_pair(CloudPair(X, Y), [(name, convention)])
    assert (found.value is None and found.warnings) or name == "subspace_novelty"


@pytest.mark.parametrize(("name", "convention"), CASES)
def test_the_standard_error_is_of_the_size_of_the_scatter(name, convention):
    """Over 40 independent draws, which estimate a standard deviation to about a ninth."""
    found = []
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        X = torch.randn(400, 6, generator=g)
        Y = X + torch.randn(400, 6, generator=g)
        found.append(evaluate_pair(CloudPair(X, Y), [(name, convention)])[0])
    if found[0].standard_error is None:
        return
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([one.standard_error for one in found])
    assert 0.6 < float(values.std() / errors.mean()) < 1.6


# --- against slow twins and closed forms ------------------------------------------------------------------------------


def dense_hsic(K, L):
    """The unbiased estimator with n x n matrices, as it is defined."""
    n, one = len(K), torch.ones(len(K), dtype=K.dtype)
    K, L = K.clone().fill_diagonal_(0), L.clone().fill_diagonal_(0)
    sums = torch.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return float(sums - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))


def dense_biased(K, L):
    n = len(K)
    H = torch.eye(n, dtype=K.dtype) - 1 / n
    return float(torch.trace(K @ H @ L @ H)) / (n - 1) ** 2


@pytest.mark.parametrize(("fast", "slow"), [(hsic_unbiased, dense_hsic), (hsic_biased, dense_biased)])
@pytest.mark.parametrize("left_out", [None, 0, 7])
def test_hsic_by_features_is_hsic_by_kernels_with_any_fold_left_out(fast, slow, left_out, clouds):
    pair = CloudPair(*clouds)
    keep = torch.ones(500, dtype=torch.bool) if left_out is None else pair.folds != left_out
    X, Y = (cloud[keep] - 5 for cloud in clouds)
    assert fast(pair.xy, left_out) == pytest.approx(slow(X @ X.T, Y @ Y.T), rel=1e-9)


def test_debiased_cka_of_unrelated_clouds_is_zero_where_the_biased_one_is_not():
    g = torch.Generator().manual_seed(6)
    X, Y = torch.randn(200, 400, generator=g), torch.randn(200, 400, generator=g)
    assert abs(value_of("linear_cka", "debiased", X, Y)) < 0.02
    assert value_of("linear_cka", "kornblith", X, Y) > 0.5


def test_procrustes_finds_the_rotation(clouds):
    X, _ = clouds
    turned = changes(12)["rotation"](X) * 5 + 1
    [found] = evaluate_pair(CloudPair(X, turned), [("orthogonal_procrustes", "nuclear")])
    assert found.value == pytest.approx(1) and found.details["distance"] == pytest.approx(0, abs=1e-6)


def test_linearity_in_sample_is_least_squares(clouds):
    X, Y = (cloud - cloud.mean(0) for cloud in clouds)
    residual = Y - X @ torch.linalg.lstsq(X, Y).solution
    expected = 1 - float(residual.square().sum() / Y.square().sum())
    assert value_of("linearity_score", "razzhigaev", *clouds) == pytest.approx(expected, rel=1e-9)


def test_held_out_linearity_is_that_of_fitting_and_scoring_by_hand(clouds):
    X, Y = clouds
    pair = CloudPair(X, Y)
    part_of = pair.folds % 5
    missed, total = 0.0, 0.0
    for part in range(5):
        fit, test = part_of != part, part_of == part
        design = torch.cat([X, torch.ones(500, 1, dtype=X.dtype)], 1)
        weights = torch.linalg.lstsq(design[fit], Y[fit]).solution
        missed += float((Y[test] - design[test] @ weights).square().sum())
        total += float((Y[test] - Y[fit].mean(0)).square().sum())
    assert value_of("linearity_score", "held_out", X, Y) == pytest.approx(1 - missed / total, rel=1e-7)


def test_a_memorised_map_looks_linear_in_sample_and_not_on_held_out_rows():
    g = torch.Generator().manual_seed(7)
    X, Y = torch.randn(80, 70, generator=g), torch.randn(80, 70, generator=g)
    assert value_of("linearity_score", "razzhigaev", X, Y) > 0.8
    [found] = evaluate_pair(CloudPair(X, Y), [("linearity_score", "held_out")])
    assert found.value < 0 and found.codes == ("rank_limited",)


def test_overlap_and_ranks_are_those_of_sorted_distances(clouds):
    X, Y = (cloud[:120] for cloud in clouds)
    order = [torch.cdist(Z, Z).fill_diagonal_(torch.inf).argsort(1) for Z in (X, Y)]
    shared = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(order[0][:, :10], order[1][:, :10])]
    assert value_of("neighbourhood_overlap", "mutual", X, Y) == pytest.approx(sum(shared) / 1200)
    places = torch.tensor([row.tolist().index(int(first)) + 1 for row, first in zip(order[1], order[0][:, 0])])
    assert torch.equal(ranks(Y, order[0][:, 0]), places.double())
    expected = 2 / 120 * float(places.double().mean())
    assert value_of("information_imbalance", "glielmo", X, Y) == pytest.approx(expected)


def test_a_cloud_with_more_of_the_columns_is_the_more_informative(clouds):
    X, _ = clouds
    [found] = evaluate_pair(CloudPair(X[:, :8], X[:, :2]), [("information_imbalance", "glielmo")])
    assert found.value < 0.8 * found.details["reverse"]


def test_novelty_of_random_subspaces_is_one_minus_k_over_d():
    g = torch.Generator().manual_seed(8)
    X, Y = torch.randn(3000, 60, generator=g), torch.randn(3000, 60, generator=g)
    [found] = evaluate_pair(CloudPair(X, Y), [("subspace_novelty", "leading")], directions=20)
    assert found.value == pytest.approx(found.details["chance"], abs=0.05)
    [same] = evaluate_pair(CloudPair(X[:, :20], X[:, :20] @ torch.diag(torch.arange(1.0, 21))), [found_case()])
    assert same.value == pytest.approx(0, abs=1e-9)


def found_case():
    return ("subspace_novelty", "leading")


# --- chance, copies, errors -------------------------------------------------------------------------------------------


def test_random_pairing_gives_the_value_of_chance():
    g = torch.Generator().manual_seed(9)
    X = torch.randn(300, 10, generator=g)
    found = evaluate_pair(CloudPair(X, X), resolve_comparisons("all"), null=True)
    by_name = {estimate.measure: estimate.details for estimate in found}
    assert by_name["linear_cka"]["null"] == pytest.approx(0, abs=0.02)
    assert by_name["neighbourhood_overlap"]["null"] == pytest.approx(10 / 299, rel=0.2)
    assert by_name["information_imbalance"]["null"] == pytest.approx(1, abs=0.15)
    assert by_name["linearity_score"]["null"] < 0.05


def test_copies_in_either_cloud_are_left_out_with_a_warning():
    g = torch.Generator().manual_seed(10)
    X, Y = torch.randn(200, 5, generator=g), torch.randn(200, 5, generator=g)
    X[150:] = X[:50]
    [found] = evaluate_pair(CloudPair(X, Y), [("neighbourhood_overlap", "mutual")])
    assert found.details["n_used"] == 150 and found.codes == ("duplicates",)


def test_the_jackknife_of_a_comparison_leaves_out_whole_groups():
    g = torch.Generator().manual_seed(11)
    X = torch.randn(30, 6, generator=g).repeat_interleave(20, 0) + 0.01 * torch.randn(600, 6, generator=g)
    Y = torch.randn(30, 6, generator=g).repeat_interleave(20, 0) + X
    documents = torch.arange(30).repeat_interleave(20)
    [alone] = evaluate_pair(CloudPair(X, Y), [("linear_cka", "debiased")])
    [grouped] = evaluate_pair(CloudPair(X, Y, groups=documents), [("linear_cka", "debiased")])
    assert grouped.value == pytest.approx(alone.value) and grouped.standard_error > 2 * alone.standard_error


def test_what_cannot_be_compared_is_refused_in_a_sentence():
    X = torch.randn(20, 4, generator=torch.Generator().manual_seed(12))
    with pytest.raises(BadInput, match="`Y`: got 19 rows; wanted 20.*same token"):
        CloudPair(X, X[:19])
    with pytest.raises(UnknownName, match="unknown comparison 'linear_ckx'. Did you mean 'linear_cka'"):
        resolve_comparisons(["linear_ckx"])
    with pytest.raises(UnknownName, match="convention of linear_cka"):
        resolve_comparisons("linear_cka:x")
    [found] = evaluate_pair(CloudPair(X, X[:, :3]), [("subspace_novelty", "leading")])
    assert found.value is None and found.codes == ("different_widths",)


def test_the_matrix_of_layers_holds_the_numbers_of_the_pairs(clouds):
    X, Y = clouds
    layers = [X, Y, X + Y, torch.cat([X, Y], 1).float()]
    whole = cka_matrix(layers)
    for i, one in enumerate(layers):
        for j, other in enumerate(layers):
            assert float(whole[i, j]) == pytest.approx(value_of("linear_cka", "debiased", one, other), abs=1e-6)
    assert torch.allclose(cka_matrix(layers[:2], layers[2:]), whole[:2, 2:], atol=1e-6)
    assert torch.equal(whole, whole.T) and torch.allclose(whole.diagonal(), torch.ones(4).double())


def test_the_matrix_of_layers_has_no_number_for_a_dead_layer_and_refuses_other_rows(clouds):
    X, Y = clouds
    found = cka_matrix([X, torch.ones(500, 3)])
    assert found[0, 0] == 1 and found[0, 1].isnan() and found[1, 1].isnan()
    with pytest.raises(BadInput, match="clouds of 400 and 500 rows"):
        cka_matrix([X], [Y[:400]])


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_cloud_beside_itself_reads_1_and_never_more(offset):
    for seed in range(20):
        X = torch.randn(30 + seed, 1 + seed, generator=torch.Generator().manual_seed(seed)) + offset
        names = resolve_comparisons(["linear_cka", "linearity_score", "neighbourhood_overlap"])
        for found in evaluate_pair(CloudPair(X, X), names):
            assert found.value <= 1 and found.value == pytest.approx(1, abs=1e-5), found
