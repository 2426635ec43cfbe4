"""Columns that encode a property, and masks that overlap: planted answers, closed forms, chance."""

import itertools

import pytest
import torch

from hf_repgeo import BadInput
from hf_repgeo.localization.readout import holm, read_columns
from hf_repgeo.localization.regions import mask_overlap

GENERATOR = torch.Generator().manual_seed(0)
NOISE = torch.randn(300, 8, generator=GENERATOR)
LABELS = [str(i % 3) for i in range(300)]


def test_the_planted_column_is_found_with_its_label_and_no_other():
    columns = NOISE.clone()
    columns[:, 5] += 4 * torch.tensor([float(label == "2") for label in LABELS])
    found = read_columns(columns, LABELS)
    assert [one.column for one in found if one.p_value < 0.01] == [5]
    assert found[5].label == "2" and found[5].distance > 0.9
    assert max(found, key=lambda one: one.mutual_information).column == 5


def test_the_information_of_a_column_that_determines_the_labels_is_their_entropy():
    exact = torch.tensor([[10.0 * float(label)] for label in LABELS]) + 0.01 * NOISE[:, :1]
    assert read_columns(exact, LABELS)[0].mutual_information == pytest.approx(1.585, abs=0.02)  # log2(3)


def test_the_distance_is_the_largest_gap_between_two_distribution_functions():
    x, labels = NOISE[:, :1], ["a" if i % 2 else "b" for i in range(300)]
    a, b = x[1::2, 0], x[::2, 0]
    gap = max(abs(float((a <= v).double().mean() - (b <= v).double().mean())) for v in x[:, 0])
    assert read_columns(x, labels)[0].distance == pytest.approx(gap, abs=1e-12)


def test_noise_passes_the_corrected_test_as_rarely_as_promised():
    """64 tests each: uncorrected, nearly every draw would give a false finding; corrected, about one in twenty."""
    passed = 0
    for seed in range(40):
        columns = torch.randn(60, 64, generator=torch.Generator().manual_seed(seed))
        passed += any(one.p_value < 0.05 for one in read_columns(columns, ["a", "b"] * 30))
    assert passed <= 7  # binomial(40, 0.05) exceeds 7 once in 400


def test_holm_by_hand_in_the_given_order():
    assert holm([0.5, 0.001, 0.02]) == pytest.approx([0.5, 0.003, 0.04])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    "columns, labels, message",
    [
        (NOISE, LABELS[:-1], "one label for each row"),
        (NOISE[:, 0], LABELS, "one label for each row"),
        (NOISE, ["a"] * 300, "at least two"),
        (NOISE, ["a"] * 299 + ["b"], "one row of 'b'"),
    ],
)
def test_bad_labels_are_named(columns, labels, message):
    with pytest.raises(BadInput, match=message):
        read_columns(columns, labels)


def drawn_mask(seed, units=200, latents=4):
    chosen = torch.randint(latents, (units, 1), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(units, latents, dtype=torch.bool).scatter_(1, chosen, True)


def test_latents_are_matched_as_well_as_possible():
    """By trying every order of the latents."""
    first, second = drawn_mask(0), drawn_mask(1)
    orders = [second[:, list(order)] for order in itertools.permutations(range(4))]
    best = max(float((first & other).sum()) / float((first | other).sum()) for other in orders)
    assert mask_overlap(first, second, n_null=2).jaccard == pytest.approx(best, abs=1e-12)


def test_unrelated_masks_overlap_as_much_as_chance_and_related_ones_more():
    first = drawn_mask(0)
    chance = mask_overlap(first, drawn_mask(1))
    assert chance.null_low <= chance.jaccard <= chance.null_high
    related = torch.cat([first[:120, [1, 2, 3, 0]], drawn_mask(2)[120:]])
    assert mask_overlap(first, related).jaccard > chance.null_high


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(BadInput, match="one shape"):
        mask_overlap(drawn_mask(0), drawn_mask(0, units=10))
