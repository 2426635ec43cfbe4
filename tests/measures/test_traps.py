"""Difficult input: near-copies, rounding, tiny and huge numbers, the wrong containers and options."""

import math

import numpy as np
import pytest
import torch

from hf_repgeo import measure, measures
from hf_repgeo.errors import BadInput, NonFiniteRows, RepgeoError, UnknownName
from hf_repgeo.measures import MEASURES, PointCloud, check_options, evaluate_all, resolve
from hf_repgeo.measures.near_copies import find_near_copies, thinned
from hf_repgeo.measures.rounding import rounding_noise
from hf_repgeo.report import GeometryReport

NEIGHBORS = ["intrinsic_dimension:facco", "intrinsic_dimension:mle", "gride", "levina_bickel:mackay"]
WITH_A_VALUE = resolve("all")


def manifold(n=1200, d=40, dimension=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    return flat @ torch.randn(dimension, d, generator=generator, dtype=torch.float64) / dimension**0.5


# --- near-copies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "noise"), [(0.02, 1e-6), (0.2, 1e-6), (1.0, 1e-7), (0.2, 1e-4)])
def test_near_copies_give_a_warning_and_a_second_value_without_them(share, noise):
    X = manifold()
    m = int(share * len(X))
    copies = X[:m] + noise * torch.randn(m, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for row, clean in zip(measure(torch.cat([X, copies]), NEIGHBORS), measure(X, NEIGHBORS), strict=True):
        assert row["value"] < 0.95 * clean["value"]
        assert row["warnings"][-1].startswith(f"near_copies: {2 * m} of {len(X) + m} rows lie within")
        assert row["details"]["value_without_near_copies"] == pytest.approx(clean["value"], rel=1e-9)
        assert row["details"]["n_without_near_copies"] == len(X)
        usual = float(PointCloud(X).neighbors.distances[:, 1].median())
        assert row["details"]["near_copies_radius"] == pytest.approx(1e-3 * usual, rel=0.2)


@pytest.mark.parametrize("times", [3, 6])
def test_several_near_copies_of_every_row_give_a_warning(times):
    X = manifold(400)
    noise = torch.randn(400 * times, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for row, clean in zip(measure(X.repeat(times, 1) + 1e-7 * noise, NEIGHBORS[:3]), measure(X, NEIGHBORS[:3])):
        assert row["details"]["value_without_near_copies"] == pytest.approx(clean["value"], rel=1e-5)
        assert row["warnings"][-1].startswith(f"near_copies: {400 * times} of {400 * times} rows")


@pytest.mark.parametrize("dimension", [1, 2, 8])
def test_rows_that_are_near_by_chance_are_no_near_copies(dimension):
    X = manifold(4000, 20, dimension)
    assert not any("near_copies" in warning for warning in measure(X, NEIGHBORS).warnings())
    assert dimension < 8 or find_near_copies(PointCloud(X)) is None


def test_two_pairs_in_two_thousand_give_a_warning_if_they_change_the_value():
    X = manifold(2000)
    near = torch.cat([X, X[:2] + 1e-7])
    rows = {row["measure"]: row for row in measure(near, ["intrinsic_dimension:facco", "gride"])}
    assert rows["intrinsic_dimension"]["warnings"] == []  # the smallest 90 % of the ratios do not hold them
    assert rows["gride"]["value"] < 0.97 * rows["gride"]["details"]["value_without_near_copies"]
    assert rows["gride"]["warnings"][0].startswith("near_copies: 4 of 2002 rows")


def test_of_a_cluster_of_near_copies_one_row_stays():
    X = manifold(300)
    cluster = X[:1] + 1e-7 * torch.randn(40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    part = thinned(PointCloud(torch.cat([X, cluster]) * 1e-9), 1e-5 / PointCloud(X * 1e-9).unit * 1e-9)
    assert part.n == 300 and float(part.neighbors.distances.min()) > 0


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [(torch.float16, 1, 1000), (torch.bfloat16, 1, 10), (torch.float32, 1, 1e6), (torch.float16, 1e-6, 0)],
)
def test_the_loss_to_rounding_is_measured(dtype, scale, offset):
    X = manifold()
    [row] = measure((X * scale + offset).to(dtype), "effective_rank")
    [warning] = row["warnings"]
    assert row["value"] > 1.1 * measure(X).value("effective_rank") and warning.startswith("rounding: rounding to")
    told = float(warning.split("about ")[1].split(" ")[0])
    assert told == pytest.approx(measure(X).value("effective_rank"), rel=0.03)
    assert measure((X * scale).to(torch.float32), "effective_rank").warnings() == []


def test_rounding_that_adds_variance_is_measured():
    rounded = (manifold() * 0.5 + 1000).half()
    share = 100 * 40 * 0.5**2 / 12 / float(PointCloud(rounded).column_variances.sum())
    names = [
        "anisotropy",
        "top_coordinate_share",
        "vasicek_mse:marbut",
        "mean_cosine",
        "uniformity",
        "patchiness:lloyd",
    ]
    for name in names:
        [row] = measure(rounded, name, **({"bits": 4} if name == "patchiness:lloyd" else {}))
        assert float(row["warnings"][0].split("makes up ")[1].split("%")[0]) == pytest.approx(share, rel=0.2), name


def test_rank_me_tells_what_it_would_read_without_the_rounding_of_an_offset():
    X = 0.3 * manifold() + 10
    [row] = measure(X.bfloat16(), "rank_me")
    [true] = measure(X, "rank_me").rows
    told, true = float(row["warnings"][0].split("about ")[1].split(" ")[0]), true["value"]
    assert row["value"] > 1.02 * true and told == pytest.approx(true, rel=0.01)
    assert measure(X.float(), "rank_me").warnings() == []


def test_rounding_that_changes_neighbours_is_measured():
    X = manifold(800, 40, 8)
    rounded, noise = (X + 1000).half(), 2 * 40 * 0.5**2 / 12
    for row in measure(rounded, NEIGHBORS):
        [share] = [float(w.split("makes up ")[1].split("%")[0]) for w in row["warnings"] if w.startswith("rounding")]
        first = PointCloud(rounded).neighbors.distances[:, 0].median()
        assert share == pytest.approx(100 * noise / float(first) ** 2, rel=0.05)
    assert not any("rounding" in warning for warning in measure(X.bfloat16(), NEIGHBORS).warnings())


def test_a_constant_column_is_rounded_alike_and_makes_no_noise():
    X = torch.cat([manifold(), torch.full((1200, 1), 3e4, dtype=torch.float64)], 1)
    assert rounding_noise(PointCloud(X.half())) == pytest.approx(rounding_noise(PointCloud(X[:, :-1].half())))
    assert rounding_noise(PointCloud(X)) == rounding_noise(PointCloud((X * 10).long())) == 0


def test_equal_rows_have_no_top_coordinate_whatever_their_mean_rounds_to():
    X = manifold(290, 71)[:1].repeat(290, 1)
    assert float(PointCloud(X).column_variances.sum()) > 0  # the mean is a rounding off
    assert measure(X, "top_coordinate_share").rows[0]["warnings"][0].startswith("no_spread")


def test_copies_give_a_warning_where_spacings_are_counted():
    [row] = measure(manifold(100, 5).repeat(3, 1), "vasicek_mse:marbut")
    assert row["warnings"][0].startswith("duplicates: 200 of 300 rows")
    assert measure(manifold(300, 5), "vasicek_mse:marbut").warnings() == []


def test_one_row_far_from_all_others_gives_a_warning_if_it_decides_the_value():
    X = manifold(400)
    X[7] *= 1e6  # its twenty neighbours are at one distance, but for a few digits
    levina, mackay = measure(X, ["levina_bickel:levina", "levina_bickel:mackay"])
    assert levina["value"] > 1e3 and levina["warnings"][0].startswith("one_row_decides: one of 400 rows")
    assert mackay["value"] < 10 and mackay["warnings"] == []


# --- tiny and huge ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e-36), ("float32", 1e37), ("float64", 1e-300), ("float64", 1e300)]
)
def test_scale_invariant_measures_give_the_same_value_at_the_ends_of_the_range(dtype, scale):
    X = manifold(300, 104, 104).to(getattr(torch, dtype))
    names = [name for name in WITH_A_VALUE if "scale" in MEASURES[name[0]].invariances]
    plain, scaled = (evaluate_all(PointCloud(rows), names, bits=3) for rows in (X, X * scale))
    for one, other in zip(plain, scaled, strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-4, abs=1e-9), one.measure


def test_float32_rows_below_the_normal_range_are_measured():
    X = manifold(300, 8).float()
    names = ["anisotropy", "effective_rank", "intrinsic_dimension:mle"]
    for tiny, plain in zip(measure(X * 1e-40, names), measure(X, names), strict=True):
        assert tiny["value"] == pytest.approx(plain["value"], rel=0.01)


def test_one_row_far_beyond_the_others_gives_a_value_or_a_reason():
    for size, dtype in ((1e30, torch.float32), (1e164, torch.float64)):
        X = manifold(300, 8).to(dtype)
        X[3] *= size
        for estimate in evaluate_all(PointCloud(X), WITH_A_VALUE, bits=3):
            assert estimate.value is None or math.isfinite(estimate.value), estimate.measure
            assert estimate.value is not None or estimate.codes[0] != "zero_rows"
            if MEASURES[estimate.measure].needs == "neighbors" and dtype == torch.float64:
                assert estimate.codes[0] == "underflow"


# --- more columns than rows -------------------------------------------------------------------------------------------


def test_few_rows_of_many_columns_are_measured_by_their_own_products():
    X = torch.randn(30, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.05 + 0.01
    singular = torch.linalg.svdvals(X)
    p = singular / singular.sum() + 1e-7
    assert measure(X, "rank_me").value("rank_me") == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-9)
    right = torch.linalg.svd(X, full_matrices=False).Vh.T
    z = torch.cat([(X @ right).exp().sum(0), (-X @ right).exp().sum(0), torch.tensor([30.0])])
    assert measure(X, "partition_function").value("partition_function") == pytest.approx(float(z.min() / z.max()))


# --- containers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "int8"])
def test_every_dtype_of_numbers_gives_the_value_of_its_entries_in_float64(dtype):
    X = (manifold(200, 6).abs() * 20).to(getattr(torch, dtype))
    pairs = resolve(["anisotropy", "mean_cosine", "intrinsic_dimension:mle"])
    for one, other in zip(*(evaluate_all(PointCloud(rows), pairs) for rows in (X, X.to(torch.float64))), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-5)


EYE = torch.eye(6)
REFUSED = {
    "nested": (lambda: torch.nested.nested_tensor([EYE, EYE]), "a nested tensor.*torch.cat"),
    "meta": (lambda: torch.empty(6, 6, device="meta"), "device 'meta'.*Load the model's weights"),
    "quantized": (lambda: torch.quantize_per_tensor(EYE, 0.1, 0, torch.qint8), r"a quantized tensor.*X.dequantize\(\)"),
    "sparse": (lambda: EYE.to_sparse(), r"a sparse tensor.*X.to_dense\(\)"),
    "compressed": (lambda: EYE.to_sparse_csr(), r"a sparse tensor.*X.to_dense\(\)"),
    "masked": (lambda: np.ma.masked_greater(EYE.numpy(), 0.5), "6 masked entries.*compress_rows"),
    "masked rows": (lambda: [EYE[0].numpy(), np.ma.masked_greater(EYE[1].numpy(), 0.5)], "1 masked entries"),
    "masked tensor": (lambda: torch.masked.masked_tensor(EYE, EYE > 0), "a masked tensor.*Leave out the rows"),
    "nothing": (lambda: None, "a NoneType that is not a table of numbers"),
    "words": (lambda: {"a": 1}, "a dict that is not a table of numbers"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, about making such tensors
@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_plain_numbers_is_refused_with_the_way_out(name):
    make, words = REFUSED[name]
    with pytest.raises(BadInput, match=words):
        PointCloud(make())


def test_reversed_views_and_arrays_without_masked_entries_are_taken():
    X = manifold(100, 6).numpy()
    for given in (X[::-1, ::-1], np.ma.masked_array(X), torch._neg_view(torch.from_numpy(X))):
        assert measure(given).value("anisotropy") == pytest.approx(measure(X).value("anisotropy"), rel=1e-9)
    with pytest.raises(NonFiniteRows):
        PointCloud(torch.full((3, 2), math.nan).to(torch.float8_e5m2))


def test_groups_may_be_names_of_documents():
    names = np.array([f"doc {number % 7}" for number in range(100)])
    by_name, by_number = (PointCloud(manifold(100), groups=g).folds for g in (names, torch.arange(100) % 7))
    assert torch.equal(by_name, by_number) and torch.equal(PointCloud(manifold(100), groups=list(names)).folds, by_name)
    for others in (names.astype(object), (np.arange(100) % 7).astype(object)):  # as pandas has columns
        assert torch.equal(PointCloud(manifold(100), groups=others).folds, by_name)
    masked = np.ma.masked_less(np.arange(100), 5)
    for wrong in ("abc", [0.5] * 100, torch.zeros(100, 2), [1, 2], [None] * 100, masked):
        with pytest.raises(BadInput, match="`groups`: got shape .*wanted 100 integers, one per row"):
            PointCloud(manifold(100), groups=wrong)


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["a", -1, 1.5, 2**63, None, True])
def test_a_seed_that_is_no_seed_is_refused(seed):
    with pytest.raises(BadInput, match="`seed`: got .*wanted a whole number from 0 to"):
        measure(EYE, "anisotropy", seed=seed)
    assert PointCloud(EYE, seed=np.int64(3)).seed == 3


@pytest.mark.parametrize("option", ["k", "n1", "n2", "bits", "codebooks", "quantizer_seeds"])
@pytest.mark.parametrize("count", ["5", 5.0, 0, -1, True])
def test_a_count_that_is_no_count_is_refused(option, count):
    with pytest.raises(BadInput, match=f"`{option}`: got .*wanted a whole number of at least"):
        measure(EYE, "all", **{option: count})
    check_options({option: np.int32(4)})


def test_a_measure_function_called_directly_checks_its_counts_too():
    for call in (lambda: measures.levina_bickel(EYE, k=1), lambda: measures.gride(EYE, n1="1")):
        with pytest.raises(BadInput, match="wanted a whole number of at least"):
            call()


def test_an_option_that_no_measure_asked_for_takes_is_refused():
    with pytest.raises(BadInput, match="`bits`: got 4, which none of the measures asked for takes; .*patchiness"):
        measure(EYE, "anisotropy", bits=4)
    assert len(measure(manifold(200), ["anisotropy", "patchiness:lloyd"], bits=3)) == 2


@pytest.mark.parametrize(
    ("word", "name"),
    [("twonn", "intrinsic_dimension"), ("TwoNN", "intrinsic_dimension"), ("RankMe", "rank_me"), ("VRM", "vasicek_mse")]
    + [("facco", "intrinsic_dimension:facco"), ("anisotopy", "anisotropy"), ("alpha-req", "power_law_exponent")],
)
def test_names_from_other_libraries_lead_to_ours(word, name):
    with pytest.raises(UnknownName, match=f"unknown measure {word!r}. Did you mean {name!r}"):
        measure(EYE, word)
    assert resolve(name)


def test_no_measure_and_no_name_are_refused():
    with pytest.raises(BadInput, match="`measures`: got no name"):
        measure(EYE, [])
    with pytest.raises(UnknownName, match="unknown measure 3"):
        measure(EYE, 3)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_takes_rows_as_it_takes_a_cloud(name):
    X = manifold(300, 60, 60)
    function, options = getattr(measures, name), {"bits": 3} if "bits" in MEASURES[name].takes else {}
    assert function(X, **options).value == function(PointCloud(X), **options).value
    with pytest.raises(BadInput, match="`X`: got a str that is not a table of numbers"):
        function("rows")


# --- reading a report -------------------------------------------------------------------------------------------------


def test_a_convention_may_follow_the_name():
    report = measure(manifold(200), "intrinsic_dimension")
    assert report.value("intrinsic_dimension:mle") == report.value("intrinsic_dimension", convention="mle")


def test_an_unknown_name_in_a_report_is_answered_with_the_known_ones():
    report = GeometryReport()
    for layer in range(4):
        report.add(measure="anisotropy", convention="razzhigaev", layer=layer, tokens="all", value=0.1)
    with pytest.raises(RepgeoError, match="no row with layer=6; measured of it: 0, 1, 2, 3"):
        report.value("anisotropy", layer=6)
    with pytest.raises(RepgeoError, match="no row with measure='iso_score'; measured: anisotropy"):
        report.value("iso_score", layer=6)
    with pytest.raises(RepgeoError, match="no row with convention='marbut'; measured of it: razzhigaev"):
        report.value("anisotropy:marbut", layer=1)
