"""Decisions about matrices of embeddings: clouds whose right answer is known."""

import json

import numpy as np
import pytest
import torch

from hf_repgeo.decisions import check_index, choose_dimensions, cosine_floor, dedup_threshold
from hf_repgeo.decisions.unrelated import UnrelatedCosines
from hf_repgeo.errors import BadInput


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def groups_of(n_groups, size):
    return {f"group {number}": ["some text"] * size for number in range(n_groups)}


# --- cosines of unrelated pairs ---------------------------------------------------------------------------------------


def test_unrelated_cosines_are_those_of_all_pairs_across_groups():
    rows, groups = gaussian(60, 8), np.arange(60) % 7
    unit = torch.nn.functional.normalize(rows, dim=1)
    cosines = (unit @ unit.T).numpy()
    wanted = [cosines[i, j] for i in range(60) for j in range(i) if groups[i] != groups[j]]
    found = UnrelatedCosines.of(rows, groups)
    assert found.n_pairs == len(wanted)
    assert found.quantile(0.99).value == pytest.approx(np.quantile(wanted, 0.99), abs=5e-3)
    assert found.mean().value == pytest.approx(np.mean(wanted), abs=5e-4)


def test_more_groups_than_blocks_still_count_every_pair_once():
    rows, groups = gaussian(90, 4), np.arange(90) // 2  # 45 groups in 24 blocks
    assert UnrelatedCosines.of(rows, groups).n_pairs == 90 * 89 // 2 - 45


# --- floor ------------------------------------------------------------------------------------------------------------


def test_the_floor_of_a_gaussian_is_the_quantile_of_its_cosines():
    found = cosine_floor(gaussian(1000, 100), groups_of(20, 50))
    assert found.numbers["threshold"] == pytest.approx(2.326 / 100**0.5, abs=0.01)  # cosines are nearly N(0, 1/d)
    assert found.verdict == "threshold"


def test_an_offset_raises_the_floor_and_centring_takes_it_away():
    found = cosine_floor(gaussian(1000, 100) + 1.0, groups_of(20, 50))
    raw, centred = found.evidence[0], found.evidence[1]
    assert raw["mean of unrelated"].value == pytest.approx(0.5, abs=0.02)
    assert centred["mean of unrelated"].value == pytest.approx(0.0, abs=0.02)


def test_the_interval_of_the_floor_covers_the_floor_of_other_groups():
    def cloud(seed):  # groups differ in how far they lean to one direction: drawing rows alone would miss it
        lean = gaussian(20, 1, seed).abs().repeat_interleave(30, 0)
        rows = gaussian(600, 64, seed + 100)
        rows[:, :1] += 3 * lean
        return rows

    def floor(seed):
        return UnrelatedCosines.of(cloud(seed), np.arange(600) // 30).quantile(0.99)

    truth = np.mean([floor(seed).value for seed in range(40, 60)])
    found = [floor(seed) for seed in range(16)]
    assert sum(one.low <= truth <= one.high for one in found) >= 13


@pytest.mark.parametrize(
    ("rows", "texts", "argument"),
    [
        (gaussian(100, 8), groups_of(4, 25), "texts"),  # too few groups
        (gaussian(500, 8), None, "texts"),  # 500 texts are packaged, but they are not these rows'
        (gaussian(100, 8), groups_of(20, 4), "texts"),  # 80 texts for 100 rows
        (torch.full((100, 8), float("nan")), groups_of(20, 5), "X"),
        (torch.zeros(100, 8), groups_of(20, 5), "X"),
        (gaussian(100, 8)[0], groups_of(20, 5), "X"),
    ],
)
def test_the_floor_refuses_rows_and_texts_that_do_not_fit(rows, texts, argument):
    with pytest.raises(BadInput, match=f"`{argument}`"):
        cosine_floor(rows, texts)


# --- dimensions -------------------------------------------------------------------------------------------------------


def test_rows_of_a_few_directions_are_truncated_to_them():
    rows = gaussian(400, 8) @ gaussian(8, 64, 1)
    found = choose_dimensions(rows)
    assert (found.verdict, found.numbers["k"], found.numbers["way"]) == ("truncate", 8, "principal")


def test_an_isotropic_gaussian_keeps_all_its_columns():
    assert choose_dimensions(gaussian(500, 128), kept=0.9).verdict == "keep all"


def test_rows_with_their_content_in_front_keep_the_first_columns():
    rows = torch.cat([gaussian(400, 16), 1e-4 * gaussian(400, 48, 1)], 1)
    found = choose_dimensions(rows)
    assert found.numbers["k"] == 16
    first = next(line for line in found.evidence if line["way"] == "first" and line["k"] == 16)
    assert first["overlap@10"].value > 0.99


def test_choices_are_scored_on_other_queries():
    """Noise has no best truncation: the score on held-out queries does not exceed that on all."""
    rows = gaussian(300, 64)
    found = choose_dimensions(rows, kept=0.5)
    chosen = [x for x in found.evidence if (x["way"], x["k"]) == (found.numbers["way"], found.numbers["k"])]
    assert abs(found.numbers["score"] - chosen[0]["overlap@10"].value) < 0.1


# --- index ------------------------------------------------------------------------------------------------------------


def test_rows_of_signs_are_safe_in_binary():
    rows = torch.sign(gaussian(200, 64)) * 0.5
    found = check_index(rows)
    line = next(x for x in found.evidence if x["coding"] == "binary")
    assert line["overlap@10"].value > 0.9  # ties of equal Hamming distance are all that differs
    assert found.verdict != "floats only"


def test_binary_codes_of_rows_with_an_offset_need_centring():
    found = check_index(gaussian(400, 64) + 10)
    score = {x["coding"]: x["overlap@10"].value for x in found.evidence}
    assert score["binary"] < 0.1 < score["binary, centred"]


def test_eight_bits_are_even_steps_between_least_and_largest():
    from hf_repgeo.decisions.index import _eight_bits

    rows = torch.tensor([[0.0, 1.0], [255.0, 1.0], [100.4, 1.0]])
    assert _eight_bits(rows, rows)[1].tolist() == [[0.0, 1.0], [255.0, 1.0], [100.0, 1.0]]


def test_constant_columns_leave_product_codes_out():
    rows = gaussian(600, 16)
    rows[:, 3] = 1.0
    assert not any("product" in line["coding"] for line in check_index(rows).evidence)


# --- duplicates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_planted_copies_are_found_and_chance_is_not(seed):
    rows = gaussian(600, 48, seed)
    assert dedup_threshold(rows).verdict == "no duplicates"
    rows[:25] = rows[25:50] + 0.1 * gaussian(25, 48, seed + 50)
    found = dedup_threshold(rows)
    assert found.verdict == "threshold"
    assert 25 <= found.numbers["flagged"] <= 28
    assert found.numbers["clusters"] >= 25


def test_the_tail_of_chance_is_that_of_the_distribution():
    """Expected pairs above a cosine, extrapolated, against 40 clouds counted."""
    n, d, cosine = 500, 32, 0.7
    counts = []
    for seed in range(40):
        unit = torch.nn.functional.normalize(gaussian(n, d, 500 + seed), dim=1)
        counts.append(int(((unit @ unit.T) >= cosine).triu(1).sum()))
    line = next(x for x in dedup_threshold(gaussian(n, d)).evidence if x["cosine from"] == cosine)
    assert line["by chance"].low <= np.mean(counts) <= line["by chance"].high


@pytest.mark.parametrize("kind", ["even", "cone", "topics", "power law"])
def test_the_share_of_false_pairs_is_what_was_asked_for(kind):
    """Sixty noisy copies in 1,500 rows, six times: all flagged, and at most a tenth of what is flagged is chance."""
    flagged = right = 0
    for seed in range(6):
        rows = gaussian(1500, 96, seed)
        rows += 0.7 if kind == "cone" else 2 * gaussian(30, 96, 99)[torch.arange(1500) % 30] if kind == "topics" else 0
        rows *= torch.arange(1, 97) ** -0.5 if kind == "power law" else 1
        noise = gaussian(60, 96, seed + 50) * rows[60:120].norm(dim=1, keepdim=True) / 96**0.5
        rows[:60] = rows[60:120] + 0.3 * noise
        threshold = dedup_threshold(rows).numbers["threshold"]
        unit = torch.nn.functional.normalize(rows, dim=1)
        pairs = ((unit @ unit.T) >= threshold).triu(1).nonzero()
        flagged += len(pairs)
        right += int((pairs[:, 1] - pairs[:, 0] == 60).logical_and(pairs[:, 0] < 60).sum())
    assert right >= 0.98 * 6 * 60
    assert right >= 0.88 * flagged


def test_with_groups_the_false_pairs_are_those_across_groups():
    rows = gaussian(400, 16)
    groups = np.arange(400) // 2
    rows[1::2] = rows[::2] + 0.01 * gaussian(200, 16, 1)  # every group is a pair of copies
    found = dedup_threshold(rows, groups=groups)
    assert found.numbers["flagged"] >= 200
    assert found.verdict == "threshold"


def test_a_chain_of_near_copies_is_named_as_bridged():
    angles = torch.linspace(0, 2.2, 12)
    chain = torch.stack([angles.cos(), angles.sin()], 1) @ torch.eye(2, 40) * 40**0.5
    rows = torch.cat([gaussian(400, 40), chain])
    line = next(x for x in dedup_threshold(rows).evidence if x["cosine from"] == 0.95)
    assert (line["largest"], line["bridged"]) == (12, 1)


def test_groups_that_do_not_match_are_refused():
    with pytest.raises(BadInput, match="`groups`"):
        dedup_threshold(gaussian(300, 8), groups=np.zeros(7))
    with pytest.raises(BadInput, match="`groups`"):
        dedup_threshold(gaussian(300, 8), groups=np.zeros(300))
    with pytest.raises(BadInput, match="`false_share`"):
        dedup_threshold(gaussian(300, 8), false_share=0)


# --- all decisions ----------------------------------------------------------------------------------------------------


def test_a_decision_is_saved_as_json_and_picture(tmp_path):
    found = choose_dimensions(gaussian(200, 32))
    found.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "decision.json").read_text())
    assert saved["verdict"] == found.verdict
    assert saved["evidence"][0]["overlap@10"]["value"] == 1.0
    assert (tmp_path / "out" / "decision.png").read_bytes()[:4] == b"\x89PNG"


def test_the_same_seed_gives_the_same_decision():
    rows = gaussian(300, 32)
    for decide in (choose_dimensions, check_index, dedup_threshold):
        assert decide(rows).as_dict() == decide(rows.clone()).as_dict()


def test_the_global_random_state_is_left_alone():
    rows, before = gaussian(300, 32), torch.get_rng_state()
    choose_dimensions(rows)
    check_index(rows)
    dedup_threshold(rows)
    assert torch.equal(before, torch.get_rng_state())


def test_many_exact_copies_leave_chance_as_it_is():
    rows = gaussian(400, 64)
    copied = torch.cat([rows, *[rows[:100]] * 9])
    found = dedup_threshold(copied)
    assert found.verdict == "threshold"
    assert 4500 <= found.numbers["flagged"] <= 4500 / 0.8  # ten rows each are 45 pairs; pairs of chance come 100 times
    with pytest.raises(BadInput, match="100 are distinct"):
        dedup_threshold(rows[:100].repeat(5, 1))


# --- rows of any scale ------------------------------------------------------------------------------------------------

QUESTIONS = (choose_dimensions, check_index, dedup_threshold, cosine_floor)


def answered(question, rows):
    given = (rows, {f"group {i}": ["a text"] * 20 for i in range(15)}) if question is cosine_floor else (rows,)
    return question(*given)


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_from_cosines_do_not_depend_on_scale(question):
    rows = torch.randn(300, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [answered(question, scaled) for scaled in (rows.float(), rows.float() * 2.0**-110, rows * 2.0**700)]
    assert found[0].evidence == found[1].evidence == found[2].evidence
    assert len({one.verdict for one in found}) == 1


@pytest.mark.parametrize("question", (choose_dimensions, check_index))
@pytest.mark.parametrize(
    "rows",
    [
        torch.ones(300, 32),
        torch.randn(2, 32)[torch.arange(300) % 2],
        torch.randn(300, 32) + 1e5,
        torch.randn(300, 1) @ torch.randn(1, 32),
    ],
    ids=["equal", "two of them", "offset", "on a line"],
)
def test_rows_whose_nearest_are_tied_are_refused(question, rows):
    with pytest.raises(BadInput, match="have the same cosine with all of their ten nearest"):
        question(rows)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.ma.masked_greater(np.random.default_rng(0).normal(size=(300, 32)), 2), "masked"),
        (torch.complex(torch.ones(300, 32), torch.ones(300, 32)), "complex"),
        (torch.cat([torch.ones(299, 32), torch.full((1, 32), torch.nan)]), "NaN"),
        (torch.cat([torch.ones(299, 32), torch.zeros(1, 32)]), "1 rows of zeros, the first at 299"),
    ],
)
def test_rows_that_are_no_plain_numbers_are_refused(rows, said):
    for question in QUESTIONS:
        with pytest.raises(BadInput, match=said):
            answered(question, rows)
