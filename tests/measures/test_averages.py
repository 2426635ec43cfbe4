"""A mean over batches: its error predicts the scatter over new documents, and its chance level is that of the mean."""

from statistics import fmean, stdev

import pytest
import torch

from hf_repgeo.measures import PointCloud, evaluate_all, resolve
from hf_repgeo.measures.batch_means import BatchMeans
from hf_repgeo.measures.nulls import DRAWS

MEASURES = ["anisotropy", "participation_ratio", "mean_cosine"]


def _documents(seed, documents=24, tokens=64, d=12, share=0.5):
    """Rows of documents, each around its own centre: `(rows, document of each)`."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, d + 1) ** -0.5
    centres = torch.randn(documents, 1, d, generator=generator) * share
    rows = (torch.randn(documents, tokens, d, generator=generator) + centres) * scale + 0.3
    return rows.flatten(0, 1), torch.arange(documents).repeat_interleave(tokens)


def _row_by_measure(rows, documents, measures, n_batches, **options):
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    protocol = BatchMeans(resolve(measures), {}, len(rows), len(rows) // n_batches, seed=0, **options)
    return {f"{r['measure']}:{r['convention']}": r for r in protocol.measure(rows, documents, {"all": order})}


@pytest.fixture(scope="module")
def draws():
    return [_row_by_measure(*_documents(seed), MEASURES, 4) for seed in range(60)]


@pytest.mark.parametrize("measure", range(len(MEASURES)))
def test_the_error_over_batches_is_the_scatter_over_new_documents(draws, measure):
    rows = [list(draw.values())[measure] for draw in draws]
    scatter = stdev(row["value"] for row in rows)
    assert 0.8 < scatter / fmean(row["se"] for row in rows) < 1.25
    assert scatter / fmean(row["sd"] / 2 for row in rows) > 1.4  # the batches agree with each other far better
    assert {row["se_method"].partition(",")[0] for row in rows} == {"jackknife(20 groups) of 4 batches"}


def test_neighbours_of_rows_in_documents_have_an_error_over_batches():
    rows = _row_by_measure(*_documents(0), ["intrinsic_dimension", "levina_bickel", "gride"], 3)
    for row in rows.values():
        assert row["se"] > 0 and row["se_method"] == "jackknife(20 groups) of 3 batches"


def test_likelihoods_of_rows_that_stand_alone_are_independent_over_batches():
    rows, _ = _documents(0, share=0)
    [row] = _row_by_measure(rows, torch.arange(len(rows)), ["intrinsic_dimension:mle"], 4).values()
    [whole] = _row_by_measure(rows, torch.arange(len(rows)), ["intrinsic_dimension:mle"], 1).values()
    assert row["se_method"] == "likelihood, 4 batches"
    assert row["se"] == pytest.approx(whole["se"], rel=0.1)


def test_one_batch_gives_the_value_of_the_cloud():
    rows, documents = _documents(0)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    found = _row_by_measure(rows, documents, MEASURES, 1)
    for estimate in evaluate_all(PointCloud(rows[order], groups=documents[order]), resolve(MEASURES)):
        row = found[f"{estimate.measure}:{estimate.convention}"]
        assert (row["value"], row["se"], row["sd"]) == (estimate.value, estimate.standard_error, None)
        assert row["se_method"] == estimate.se_method


def test_few_documents_give_a_reason_instead_of_an_error():
    for row in _row_by_measure(*_documents(0, documents=4), MEASURES, 2).values():
        assert row["se"] is None and row["se_method"] is None and row["sd"] > 0
        assert any(warning.startswith("few_groups") for warning in row["warnings"])


def test_a_batch_without_rows_of_a_fold_has_no_error():
    rows, documents = _documents(0, documents=8, tokens=10)
    order = torch.arange(len(rows))  # the first batch holds the first half of the documents
    protocol = BatchMeans(resolve("anisotropy"), {}, 80, 40, seed=0)
    [row] = protocol.measure(rows, documents, {"all": order})
    assert row["value"] > 0 and row["se"] is None and "uneven_batches" in row["warnings"][0]


def test_the_chance_level_of_the_mean_has_a_smaller_spread_than_that_of_a_batch():
    rows, documents = torch.randn(1200, 6, generator=torch.Generator().manual_seed(0)), torch.arange(1200)
    details = _row_by_measure(rows, documents, ["anisotropy"], 4, null=True)["anisotropy:razzhigaev"]["details"]
    one = _row_by_measure(rows[:300], documents[:300], ["anisotropy"], 1, null=True)["anisotropy:razzhigaev"]["details"]
    assert details["null"] == pytest.approx(one["null"], rel=1e-9)  # the same surrogates
    assert details["null_sd"] == pytest.approx(one["null_sd"] / 2, rel=1e-9)
    reach = [known["null_high"] - known["null"] for known in (details, one)]
    assert reach[0] / reach[1] == pytest.approx(((1 / 4 + 1 / DRAWS) / (1 + 1 / DRAWS)) ** 0.5)
    assert 0.01 < details["p"] <= 1


@pytest.mark.slow
def test_p_of_a_mean_over_batches_is_uniform_for_rows_of_chance():
    found = []
    for seed in range(200):
        rows = torch.randn(400, 5, generator=torch.Generator().manual_seed(seed))
        protocol = BatchMeans(resolve("anisotropy"), {}, 400, 100, seed=seed, null=True)
        [row] = protocol.measure(rows, torch.arange(400), {"all": torch.arange(400)})
        found.append(row["details"]["p"])
    p = torch.tensor(found).sort().values
    assert (p - torch.arange(1, 201) / 200).abs().max() < 0.11
    assert 0.02 < (p < 0.05).float().mean() < 0.09


def test_copies_are_counted_over_all_batches(generator):
    rows = torch.randn(60, 5, generator=generator)
    protocol = BatchMeans(resolve(["anisotropy", "duplicate_share"]), {}, 80, 40, seed=0)
    found = protocol.measure(torch.cat([rows, rows[:20]]), torch.arange(80), {"all": torch.arange(80)})
    assert [row["n_distinct"] for row in found] == [60, 60] and found[1]["value"] == pytest.approx(20 / 80)
