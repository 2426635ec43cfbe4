"""Transfer to complex sentences: a property in the same dimensions carries over, one in other dimensions does not."""

import json

import pytest
import torch

from hf_repgeo.blm import chunk_labels, complexity_ladder, load_lexicon, natural_sentences
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.localization.ablation import ablation_effects
from hf_repgeo.localization.scores import probe_score
from hf_repgeo.localization.transfer import spearman
from hf_repgeo.sparse_vae import EmbeddingTable, carry_over, plot_transfer

LADDER = {**complexity_ladder(load_lexicon("en")[:8]), "natural": natural_sentences(first_row=9)}
SENTENCES = [sentence for rung in LADDER.values() for sentence in rung]
SIMPLE = {sentence.text for name in ("no phrase", "one phrase", "two phrases") for sentence in LADDER[name]}
REGIONS = torch.arange(80).view(1, -1) // 8 == torch.arange(10).view(-1, 1)  # 10 regions of 8 dimensions
WEIGHTS = 0.9 * 0.7 ** torch.arange(9, -1, -1).repeat_interleave(8)  # the property is strongest in region 9
OPTIONS = {"test_rows": (1, 4, 5, 8), "n_null": 12, "n_controls": 10}
FAST = {**OPTIONS, "n_null": 0, "n_controls": 2}


def table(prop="subject", simple=WEIGHTS, others=WEIGHTS, noise=1.0):
    """Noise, and in each dimension the number of `prop` with this weight."""
    rows = noise * torch.randn(len(SENTENCES), 80, generator=torch.Generator().manual_seed(0))
    for row, sentence in zip(rows, SENTENCES, strict=True):
        sign = {"s": -1.0, "p": 1.0}.get(chunk_labels(sentence.pattern).get(prop), 0.0)
        row += sign * (simple if sentence.text in SIMPLE else others)
    return EmbeddingTable([sentence.text for sentence in SENTENCES], rows, "planted")


@pytest.fixture(scope="module")
def same_place():
    return carry_over(LADDER, table(), "subject", REGIONS, **OPTIONS)


@pytest.fixture(scope="module")
def other_place():
    return carry_over(LADDER, table(others=WEIGHTS.flip(0)), "subject", REGIONS, **OPTIONS)


COMPLEX = ["three phrases", "coordination", "completive", "relative", "natural"]


@pytest.mark.parametrize("rung", COMPLEX)
def test_what_lies_in_the_same_place_carries_over(same_place, rung):
    one = same_place.rungs[rung]
    assert one.accuracy > 0.98 and one.chance == pytest.approx(0.5) and one.control_low < 0.5 < one.control_high
    assert one.agreement.correlation > max(0.6, one.agreement.permuted_high, one.agreement.random_mean)
    if rung == "natural":
        assert one.own_accuracy is one.own_effects is one.own_agreement is None
    else:
        assert one.own_accuracy > 0.98 and one.own_agreement.correlation > one.own_agreement.permuted_high


@pytest.mark.parametrize("rung", COMPLEX[:-1])
def test_what_lies_elsewhere_is_read_only_by_a_probe_fitted_to_that_rung(other_place, rung):
    one = other_place.rungs[rung]
    assert one.own_accuracy > 0.95 and one.accuracy < 0.9
    assert one.own_agreement.correlation < one.own_agreement.permuted_low < 0


def test_random_regions_reveal_dimensions_that_carry_over_without_a_place():
    """Each dimension has its own weight, the same on all rungs: correlations are high in any set of dimensions."""
    scattered = 0.7 * torch.rand(80, generator=torch.Generator().manual_seed(1)) ** 3
    found = carry_over(LADDER, table(simple=scattered, others=scattered), "subject", REGIONS, **OPTIONS)
    agreements = [found.rungs[name].agreement for name in COMPLEX]
    assert sum(one.correlation > one.permuted_high for one in agreements) >= 4
    assert sum(one.correlation > one.random_high for one in agreements) <= 1


def test_noise_is_read_at_chance():
    found = carry_over(LADDER, table(simple=torch.zeros(80), others=torch.zeros(80)), "subject", REGIONS, **FAST)
    for name in ("three phrases", "completive", "relative", "natural"):
        assert abs(found.rungs[name].accuracy - 0.5) < 0.2 and abs(found.rungs[name].control_accuracy - 0.5) < 0.2


def test_effects_are_those_of_the_simple_probe_on_unseen_rows(same_place):
    """The slow plain way, for one rung."""
    embeddings = table()
    train = [s for s in SENTENCES if s.text in SIMPLE and s.row not in OPTIONS["test_rows"]]
    test = [s for s in LADDER["relative"] if s.row in OPTIONS["test_rows"]]
    x, y = ([embeddings.of([s.text for s in part]) for part in (train, test)], [[], []])
    for labels, part in zip(y, (train, test), strict=True):
        labels += [chunk_labels(s.pattern)["subject"] for s in part]
    effects = ablation_effects(probe_score(x[0], *y), x[1], REGIONS, reference=x[0])
    assert same_place.rungs["relative"].effects == pytest.approx(effects.tolist())
    assert same_place.rungs["relative"].n == len(test) == 4 * 14


def test_only_rungs_with_the_property_and_rows_with_learnt_labels_are_scored():
    found = carry_over(LADDER, table("pp2"), "pp2", REGIONS, **FAST)
    assert list(found.rungs) == ["two phrases", "three phrases", "completive", "relative", "natural"]
    assert found.rungs["natural"].n == 66 and found.rungs["natural"].agreement.random_mean is None
    length = carry_over(LADDER, table("pp2"), "length", REGIONS, **FAST)
    assert "three phrases" not in length.rungs and length.rungs["natural"].n == 202 - 13
    assert length.rungs["coordination"].own_accuracy is None  # all have one phrase: nothing to learn
    assert length.rungs["no phrase"].chance == pytest.approx(1 / 7) and length.rungs["no phrase"].best_constant == 1.0


def test_the_simple_rungs_are_not_compared_with_themselves(same_place):
    assert [name for name, one in same_place.rungs.items() if one.agreement is None] == same_place.simple


def test_the_error_of_an_accuracy_counts_each_lexicon_row_once(same_place):
    """Rows all right or all wrong: 4 independent answers, however many sentences each has."""
    rows = table(noise=0.01).rows.clone()
    wrong = torch.tensor([sentence.row == 4 for sentence in SENTENCES])
    rows[wrong] *= -1
    found = carry_over(LADDER, EmbeddingTable(table().texts, rows, "r"), "subject", REGIONS, **FAST)
    one = found.rungs["three phrases"]
    assert one.accuracy == 0.75 and one.standard_error == pytest.approx((0.25 * 0.75 / 3) ** 0.5)


def test_spearman_is_pearson_of_mean_ranks():
    a, b = torch.tensor([3.0, 1.0, 3.0, 9.0]), torch.tensor([1.0, 2.0, 4.0, 8.0])
    ranks = torch.tensor([[2.5, 1.0, 2.5, 4.0], [1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    assert spearman(a, b) == pytest.approx(float(torch.corrcoef(ranks)[0, 1]))
    assert spearman(a, a) == 1.0 and spearman(a, -a) == -1.0 and spearman(a, torch.ones(4)) is None


def test_a_transfer_converts_to_plain_values_and_a_figure(same_place):
    told = json.loads(json.dumps(same_place.as_dict(), allow_nan=False))
    assert told["rungs"]["natural"]["n"] == 202 and told["cells"] == [8] * 10
    figure = plot_transfer({"subject": same_place})
    [axis], [legend] = figure.axes, figure.legends
    names = {"shuffled labels", "probe of the rung itself", "probe of the rungs above the line"}
    assert {text.get_text() for text in legend.get_texts()} == names
    assert [label.get_text() for label in axis.get_yticklabels()] == list(LADDER) and axis.get_title() == "subject"
    drawn = [bar.lines[0].get_xdata()[0] for bar in axis.containers]
    assert drawn == [one.accuracy for one in same_place.rungs.values()]


def test_bad_arguments_are_named():
    embeddings = table()
    with pytest.raises(UnknownName, match="unknown property 'tense'.*Known: length, pp1, pp2, subject"):
        carry_over(LADDER, embeddings, "tense", REGIONS, **OPTIONS)
    with pytest.raises(UnknownName, match="unknown rung 'nophrase'.*Did you mean 'no phrase'"):
        carry_over(LADDER, embeddings, "subject", REGIONS, simple=["nophrase"], **OPTIONS)
    for rows in ([], range(1, 9)):
        with pytest.raises(BadInput, match=f"`test_rows`: got {len(rows)} rows; wanted some of the sentences' rows"):
            carry_over(LADDER, embeddings, "subject", REGIONS, **{**OPTIONS, "test_rows": rows})
    with pytest.raises(BadInput, match=r"`regions`: got shape \(10, 79\)"):
        carry_over(LADDER, embeddings, "subject", REGIONS[:, 1:], **OPTIONS)
    with pytest.raises(BadInput, match="`n_controls`: got 0"):
        carry_over(LADDER, embeddings, "subject", REGIONS, **{**OPTIONS, "n_controls": 0})
