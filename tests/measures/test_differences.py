"""Paired differences: exact cases, calibration where nothing moved, and a planted change that is found where it is."""

from itertools import product

import pytest
import torch

from hf_repgeo.measures import PointCloud, anisotropy, mean_cosine, patchiness
from hf_repgeo.measures.estimate import Estimate
from hf_repgeo.measures.pairs import paired_differences, redrawn_scatter
from hf_repgeo.measures.pairs.differences import sign_flip_test
from hf_repgeo.measures.pairs.redrawn import Scatter

LAYERS, DOCUMENTS, ROWS, COLUMNS = 4, 24, 10, 8


def clouds(seed, noise=0.3, planted=0.0):
    """Two copies of some layers' rows that differ by independent noise, grouped in documents, perhaps one stretched."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(DOCUMENTS, COLUMNS, generator=g).repeat_interleave(ROWS, 0)
    groups = torch.arange(DOCUMENTS).repeat_interleave(ROWS)
    sides = [[], []]
    for layer in range(LAYERS):
        rows = rows + torch.randn(rows.shape, generator=g)
        for number, side in enumerate(sides):
            noisy = rows + noise * torch.randn(rows.shape, generator=g)
            if planted and layer == 2 and number == 1:
                noisy[:, 0] *= 1 + planted
            side.append(PointCloud(noisy, groups=groups))
    return sides


def differences(measure, seed, **options):
    first, second = ([measure(cloud) for cloud in side] for side in clouds(seed, **options))
    return paired_differences(first, second, flips=499)


def test_the_test_equals_its_definition_on_five_folds():
    shares = torch.tensor([[1.0, 2.0, 3.0, 2.0, 1.5], [1.0, -1.0, 2.0, 0.5, -2.0]], dtype=torch.float64)
    flips = torch.tensor(list(product((1.0, -1.0), repeat=5)), dtype=torch.float64)
    t = torch.stack([(flips * row).mean(1).abs() / (flips * row).std(1, correction=0) for row in shares], 1)
    single, corrected = sign_flip_test(shares)
    for layer in range(2):
        assert float(single[layer]) == pytest.approx(float((t[:, layer] >= t[0, layer] - 1e-12).double().mean()))
        assert float(corrected[layer]) == pytest.approx(float((t.amax(1) >= t[0, layer] - 1e-12).double().mean()))
    assert float(single[0]) == 2 / 32  # only the observed signs and their opposite are as extreme


def test_p_is_uniform_where_shares_are_symmetric_and_the_correction_holds_for_all_layers():
    g = torch.Generator().manual_seed(1)
    single, family = [], []
    for seed in range(400):
        common = torch.randn(1, 20, generator=g, dtype=torch.float64)  # layers agree, as those of a model do
        shares = common + torch.randn(6, 20, generator=g, dtype=torch.float64)
        alone, corrected = sign_flip_test(shares, seed=seed, flips=499)
        single.append(float(alone[0]))
        family.append(float(corrected.min()))
    for level in (0.05, 0.2):
        spread = 2.6 * (level * (1 - level) / 400) ** 0.5
        for found in (single, family):
            assert abs(sum(p <= level for p in found) / 400 - level) < spread


@pytest.mark.parametrize("measure", [anisotropy, mean_cosine])
def test_where_nothing_moved_few_families_of_layers_are_called_moved(measure):
    found = [differences(measure, seed) for seed in range(60)]
    wrong = sum(min(one.details["p_corrected"] for one in layers) <= 0.05 for layers in found)
    assert wrong <= 8  # 3 expected; more than 8 happens once in 300 such tests
    inside = [one.details["low"] <= 0 <= one.details["high"] for layers in found for one in layers]
    assert 0.9 < sum(inside) / len(inside) <= 1


def test_a_planted_change_is_found_in_its_layer_and_in_no_other():
    for seed in range(5):
        found = differences(anisotropy, seed, planted=1.0)
        p = [one.details["p_corrected"] for one in found]
        assert p[2] < 0.01 and found[2].details["low"] > 0
        assert min(p[:2] + p[3:]) > 0.01


def test_the_error_of_a_difference_is_far_below_those_of_its_values():
    [first, second] = [[anisotropy(cloud) for cloud in side] for side in clouds(0, noise=0.05)]
    for one, other, found in zip(first, second, paired_differences(first, second), strict=True):
        assert found.value == other.value - one.value
        assert found.standard_error < 0.3 * one.standard_error
        assert found.details["first"] == one.value and found.details["second"] == other.value


def test_equal_clouds_have_a_difference_of_zero():
    side, _ = clouds(0)
    estimates = [anisotropy(cloud) for cloud in side]
    for found in paired_differences(estimates, estimates):
        assert (found.value, found.standard_error) == (0, 0)
        assert found.details["p"] == found.details["p_corrected"] == 1


def test_the_paired_error_is_that_of_leaving_folds_out_of_both():
    both = [PointCloud(side[0].rows + 9, groups=side[0].groups) for side in clouds(3)]  # second-order terms vanish
    [found] = paired_differences(*([mean_cosine(cloud)] for cloud in both))
    values = []
    for fold in range(20):
        parts = [mean_cosine(PointCloud(cloud.rows[cloud.folds != fold])).value for cloud in both]
        values.append(parts[1] - parts[0])
    spread = torch.tensor(values, dtype=torch.float64)
    assert found.standard_error == pytest.approx(float((19 * spread.var(correction=0)).sqrt()), rel=0.02)


def test_a_missing_value_and_a_measure_without_jackknife_give_a_reason():
    whole = [anisotropy(cloud) for cloud in clouds(0)[0][:2]]
    gone = Estimate("anisotropy", "razzhigaev", None, warnings=("no_spread: all rows are equal",))
    found = paired_differences([whole[0], gone], whole)
    assert found[0].details["p"] == 1 and found[1].value is None and found[1].codes == ("no_spread",)
    bare = Estimate("massive_share", "none", 0.25, n=10)
    [found] = paired_differences([bare], [Estimate("massive_share", "none", 0.5, n=10)])
    assert (found.value, found.standard_error, found.codes) == (0.25, None, ("no_paired_error",))


# --- documents drawn anew ---------------------------------------------------------------------------------------------


def clumps(seed: int, moved: bool = False) -> tuple[PointCloud, PointCloud]:
    """Documents about a few of many topics, and the same rows bent; perhaps half of the topics fall together."""
    world, g = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    topics, bend = 2 * torch.randn(30, 8, generator=world), torch.randn(8, 8, generator=world) / 3
    of_document = torch.randint(30, (32, 3), generator=g)
    chosen = of_document.repeat_interleave(12, 0).gather(1, torch.randint(3, (384, 1), generator=g))[:, 0]
    rows = topics[chosen] + 0.7 * torch.randn(384, 8, generator=g)
    other = torch.tanh(rows @ bend) + rows
    if moved:
        other = torch.where((chosen < 15)[:, None], topics[0] + 0.01 * rows, other)
    groups = torch.arange(32).repeat_interleave(12)
    return PointCloud(rows, groups=groups), PointCloud(other, groups=groups)


def measured(cloud: PointCloud) -> list[Estimate]:
    return [patchiness(cloud, bits=3, codebooks=2)]


def cell_difference(seed: int, **options) -> Estimate:
    first, second = clumps(seed, **options)
    scatter = redrawn_scatter(first, second, measured)
    [found] = paired_differences(measured(first), measured(second), scatter=scatter)
    return found


def test_redrawn_documents_give_the_scatter_of_a_patchiness_difference_over_samples():
    found = [cell_difference(seed) for seed in range(8)]
    errors = torch.tensor([one.standard_error for one in found])
    samples = [[measured(cloud)[0].value for cloud in clumps(seed)] for seed in range(30)]
    values = torch.tensor([other - one for one, other in samples])
    assert 0.75 < float(errors.square().mean().sqrt() / values.std()) < 1.5  # 30 samples estimate the scatter to 13 %
    covered = sum(one.details["low"] <= float(values.mean()) <= one.details["high"] for one in found)
    assert covered >= 7 and all(not {"moving_cells", "no_paired_error"} & set(one.codes) for one in found)


def test_a_planted_change_of_patchiness_is_found():
    found = cell_difference(3, moved=True)
    assert found.value > 0.3 and found.details["p"] < 0.01 and found.details["p_corrected"] == found.details["p"]
    assert found.se_method == "12 draws of documents"


def test_the_redrawn_error_of_a_mean_is_that_of_the_jackknife():
    both = [PointCloud(side[0].rows + 9, groups=side[0].groups) for side in clouds(3)]
    [known] = paired_differences(*([mean_cosine(cloud)] for cloud in both))
    [found] = redrawn_scatter(*both, lambda cloud: [mean_cosine(cloud)], draws=400)
    assert found.standard_error == pytest.approx(known.standard_error, rel=0.15)
    assert (found.freedom, redrawn_scatter(*both, lambda cloud: [mean_cosine(cloud)])[0].freedom) == (18, 6)


def test_the_search_through_layers_is_corrected_by_holm():
    def layer(value):
        return Estimate("patchiness", "lloyd", value, n=10)

    scatter = [Scatter(1.0, 12, 6), Scatter(1.0, 12, 6), None, Scatter(0.0, 12, 6), Scatter(0.0, 12, 6)]
    found = paired_differences([layer(0.0)] * 5, [layer(v) for v in (2.0, 5.0, 1.0, 0.0, 1.0)], scatter=scatter)
    p = [one.details.get("p") for one in found]
    assert p[0] == pytest.approx(0.0924, abs=1e-3) and p[1] == pytest.approx(0.00245, abs=1e-4) and p[3] == 1
    assert found[1].details["p_corrected"] == pytest.approx(3 * p[1])
    assert found[0].details["p_corrected"] == pytest.approx(2 * p[0]) and found[3].details["p_corrected"] == 1
    assert [one.codes for one in found[2::2]] == [("no_paired_error",)] * 2  # none; draws that agree by accident


def test_too_few_documents_and_drawn_clouds_without_a_value_have_no_error():
    rows = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    few = PointCloud(rows, groups=torch.arange(4).repeat_interleave(20))
    assert redrawn_scatter(few, few, lambda cloud: [mean_cosine(cloud)]) == [None]
    whole = PointCloud(rows)
    assert redrawn_scatter(whole, whole, lambda cloud: [patchiness(cloud, bits=7)]) == [None]
