"""Regressions: equal to closed forms; checks tell measures that only follow the dose from those that predict more."""

import json
import re
import warnings
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy import stats

from hf_repgeo import BadInput
from hf_repgeo.downstream import regress, write_report
from hf_repgeo.downstream.figures import (
    plot_associations,
    plot_doses,
    plot_predictions,
    plot_residuals,
    plot_scatter,
    plot_skills,
)
from hf_repgeo.downstream.prediction import dose_curve, folds_of
from hf_repgeo.downstream.regression import MODELS, curvature, dose_design, fitted
from hf_repgeo.downstream.resampling import (
    centred_by,
    cluster_weights,
    correlation,
    permutation_p,
    permuted_within,
    residuals,
    weighted_correlation,
)
from hf_repgeo.downstream.tables import read_scores
from hf_repgeo.errors import UnknownName

DOSES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0)


def study(seed: int = 0, families: str = "abc", runs: int = 3) -> pd.DataFrame:
    """Scores fall with the dose; `follower` depends on the dose alone, `insider` also on each model's deviation."""
    rng, rows = np.random.default_rng(seed), []
    for number, family in enumerate(families):
        for dose in DOSES:
            for run in range(runs):
                strength, luck = -np.log10(max(dose, 0.0025)), rng.normal(0, 0.04)
                row = {"model": f"{family}-{dose}-{run}", "architecture": family, "alpha": dose, "run": run}
                row |= {"score": 0.2 * strength + 0.1 * number + luck, "loss_qnli": -luck}
                row |= {"follower": strength + rng.normal(0, 0.05), "insider": strength + 5 * luck}
                row["noise"] = rng.normal()
                rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def result():
    return regress(study(), "score")


# --- the claims a report makes ---------------------------------------------------------------------------------------


def test_a_measure_that_follows_the_dose_correlates_overall_and_not_within_a_dose(result):
    found = result.association("follower")
    assert found.pearson.low > 0.7
    assert found.within_dose.low < 0 < found.within_dose.high and found.p_within_corrected > 0.05
    assert found.given_dose.low < 0.1


def test_a_measure_that_follows_each_models_own_deviation_is_found_within_a_dose(result):
    found = result.association("insider")
    assert found.within_dose.low > 0.9 and found.given_dose.low > 0.8 and found.p_within_corrected < 0.01


def test_noise_correlates_nowhere(result):
    found = result.association("noise")
    assert found.p_corrected > 0.05 and found.p_within_corrected > 0.05 and found.pearson.low < 0 < found.pearson.high


def test_only_the_insider_beats_the_curve_of_the_dose(result):
    skills = {skill.name: skill for skill in result.held_in}
    assert skills["insider"].beyond_dose.low > 0 > skills["noise"].beyond_dose.high
    assert abs(skills["curve of the dose"].beyond_dose.value) < 1e-12
    assert not skills["insider"].beyond  # there is no baseline
    assert {skill.name for skill in result.left_out} >= {"insider", "follower", "noise", "log dose"}


def test_predictors_are_compared_with_a_validation_loss_on_the_same_errors(tmp_path):
    """A loss that is the score with noise; and measures that follow the dose, or nothing."""
    frame = study(families="ab")
    noise = np.random.default_rng(3).normal(size=len(frame))
    table = frame.assign(loss_early=-frame["score"] + 0.3 * frame["score"].std() * noise)
    asked = {"measures": ["insider", "follower", "noise"], "baselines": ["loss_early"]}
    result = regress(table, "score", **asked)
    skills = {skill.name: skill for skill in result.held_in}
    assert skills["noise"].beyond["loss_early"].high < 0 and "loss_early" not in skills["loss_early"].beyond
    difference = skills["follower"].skill.value - skills["loss_early"].skill.value
    assert skills["follower"].beyond["loss_early"].value == pytest.approx(difference)
    page = write_report(result, tmp_path, "A study")
    assert "beyond loss_early" in page.read_text()
    assert "beyond" in json.loads((tmp_path / "report.json").read_text())["held_in"][0]


def test_a_report_is_one_file_and_its_markdown_shows_the_same_figures(result, tmp_path):
    page = write_report(result, tmp_path, "A study").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    text = (tmp_path / "report.md").read_text()
    shown = re.findall(r"\((figures/[^)]+)\)", text)
    assert len(shown) == page.count("data:image/png") == 5 and all((tmp_path / name).exists() for name in shown)
    assert "at the same dose it correlates at" in text and "curve of the dose" in page
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["rows"] == 72 and numbers["families"] == ["a", "b", "c"]


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_correlations_are_scipys(result):
    table = result.table
    for found in result.associations:
        x = table.measures[found.measure]
        assert found.pearson.value == pytest.approx(stats.pearsonr(x, table.score)[0])
        assert found.spearman.value == pytest.approx(stats.spearmanr(x, table.score)[0])


def test_fits_equal_the_normal_equations(result):
    table = result.table
    x, y = table.measures[result.headline], table.score
    dummies = np.array([[family == "b", family == "c"] for family in table.architecture], dtype=float)
    designs = [np.column_stack([np.ones_like(x), x]), np.column_stack([np.ones_like(x), x, dummies])]
    designs.append(np.column_stack([designs[1], x[:, None] * dummies]))
    for fit, design in zip(result.fits, designs):
        beta = np.linalg.solve(design.T @ design, design.T @ y)
        left = y - design @ beta
        assert [a for a, _ in fit.coefficients.values()] == pytest.approx(beta.tolist())
        assert fit.r2 == pytest.approx(1 - left @ left / ((y - y.mean()) @ (y - y.mean())))
        sd = np.sqrt(left @ left / (len(y) - design.shape[1]))
        errors = sd * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
        assert [b for _, b in fit.coefficients.values()] == pytest.approx(errors.tolist())
    assert [fit.formula for fit in result.fits] == list(MODELS)


def test_the_partial_correlation_of_one_control_is_the_textbook_formula():
    rng = np.random.default_rng(1)
    z = rng.normal(size=80)
    x, y = z + rng.normal(size=80), z + rng.normal(size=80)
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    found = correlation(x, y, np.arange(80), design=np.column_stack([np.ones(80), z]))
    assert found.value == pytest.approx(expected)


def test_weights_are_repeated_rows():
    rng = np.random.default_rng(2)
    x, y, clusters = rng.normal(size=12), rng.normal(size=12), np.repeat(np.arange(4), 3)
    weights = cluster_weights(clusters, 20, 0)
    design = np.column_stack([np.ones(12), rng.normal(size=12)])
    left = residuals(y, design, weights)
    for weight, r, rest in zip(weights.astype(int), weighted_correlation(x, y, weights), left):
        assert r == pytest.approx(np.corrcoef(np.repeat(x, weight), np.repeat(y, weight))[0, 1])
        beta = np.linalg.lstsq(np.repeat(design, weight, 0), np.repeat(y, weight), rcond=None)[0]
        assert rest[weight > 0] == pytest.approx((y - design @ beta)[weight > 0], abs=1e-6)
        assert weight.sum() == 12 and len(set(weight[:3])) == 1


def test_permutations_stay_in_their_group_and_reach_every_order():
    groups = np.array([1, 0, 1, 0, 1, 2])
    drawn = permuted_within(groups, 400, 0)
    assert (np.sort(drawn, axis=1) == np.arange(6)).all() and (groups[drawn] == groups).all()
    assert len({tuple(row) for row in drawn.tolist()}) == 2 * 6


def test_p_values_are_uniform_without_association_and_the_corrected_ones_keep_the_error_rate():
    rng, groups = np.random.default_rng(3), np.repeat(np.arange(5), 8)
    smallest, single = [], []
    for seed in range(120):
        x, y = rng.normal(size=(40, 10)), rng.normal(size=40)
        p, corrected = permutation_p(x, y, groups, 199, seed)
        smallest.append(corrected.min() <= 0.05)
        single.append(p[0])
    assert stats.kstest(single, "uniform").pvalue > 0.001
    assert np.mean(smallest) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)


def test_the_interval_within_a_dose_covers_zero_as_often_as_it_says():
    rng, cells, inside = np.random.default_rng(4), np.repeat(np.arange(30), 3), 0
    for seed in range(150):
        x, y = (centred_by(rng.normal(size=90), cells) for _ in range(2))
        found = correlation(x, y, cells, draws=300, seed=seed)
        inside += found.low <= 0 <= found.high
    assert 0.88 <= inside / 150 <= 0.99


def test_values_are_centred_by_group_and_groups_of_one_are_left_out():
    found = centred_by(np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 1, 0]))
    assert found[[0, 1, 3]] == pytest.approx([1 - 11 / 3, 3 - 11 / 3, 7 - 11 / 3]) and np.isnan(found[2])


def test_the_curve_of_the_dose_interpolates_means_and_is_flat_beyond():
    dose, y = np.array([0.0, 0.0, 1.0, 2.0, 0.5, 9.0]), np.array([1.0, 3.0, 4.0, 8.0, 0.0, 0.0])
    predicted = dose_curve(dose, y)(np.arange(4), np.array([4, 5]))
    assert predicted == pytest.approx([3.0, 8.0])


def test_folds_keep_clusters_together_and_predict_every_row_once():
    clusters = np.repeat(np.arange(23), 2)
    folds = folds_of(clusters)
    assert sorted(np.concatenate([new for _, new in folds])) == list(range(46))
    assert all(not set(clusters[fit]) & set(clusters[new]) for fit, new in folds)


# --- models held out -------------------------------------------------------------------------------------------------


def test_intervals_of_held_out_models_cover_and_unknown_families_go_without_architecture():
    frame = study(5, runs=6)
    frame["held_out"] = (frame["run"] >= 4) | (frame["architecture"] == "c")
    found = regress(frame, "score", headline="follower").predictions
    assert {p.known_family for p in found if p.label.startswith("c")} == {False}
    known = [p for p in found if p.known_family]
    assert len(known) == 32 and np.mean([p.low <= p.score <= p.high for p in known]) > 0.85


def test_held_out_rows_do_not_touch_the_fit():
    frame = study()
    frame["held_out"] = frame["run"] == 2
    changed = frame.assign(score=frame["score"].where(~frame["held_out"], 99.0))
    a, b = (regress(f, "score", headline="follower") for f in (frame, changed))
    assert a.fits == b.fits and a.associations == b.associations


# --- tables ----------------------------------------------------------------------------------------------------------


def test_long_and_wide_tables_give_the_same(tmp_path):
    wide = study()
    keys = ["model", "architecture", "alpha", "run", "score"]
    wide[[*keys, "follower", "insider"]].to_csv(tmp_path / "wide.csv", index=False)
    long = wide.melt(keys, ["follower", "insider"], "measure", "value").sample(frac=1, random_state=0)
    long.to_csv(tmp_path / "long.csv", index=False)
    a, b = (read_scores(tmp_path / name, "score") for name in ("wide.csv", "long.csv"))
    assert set(a.measures) == set(b.measures) == {"follower", "insider"}
    rows = {key: value for key, value in zip(a.frame["model"], a.measures["insider"])}
    assert all(rows[key] == pytest.approx(value) for key, value in zip(b.frame["model"], b.measures["insider"]))


def test_losses_runs_and_other_scores_are_no_measures_unless_asked_for():
    frame = study().assign(chunks=0.1 * np.arange(72), seed=range(72), drift_of_mine=np.arange(72.0) ** 2)
    assert set(read_scores(frame, "score").measures) == {"follower", "insider", "noise", "drift_of_mine"}
    asked = read_scores(frame, "score", measures=["chunks"], baselines=["loss_qnli"])
    assert set(asked.measures) == {"chunks"} and set(asked.baselines) == {"loss_qnli"}


def test_a_table_with_other_column_names_is_read_by_naming_them():
    frame = study().rename(columns={"architecture": "family of model", "alpha": "sigma", "score": "MTEB"})
    found = read_scores(frame, "MTEB", architecture="family of model", dose="sigma")
    assert found.families == ["a", "b", "c"] and found.dose.max() == 1.0


def test_rows_that_repeat_another_one_count_once():
    frame = study()
    twice = pd.concat([frame, frame.assign(run=9)])
    found = read_scores(twice, "score")
    assert len(found.score) == 72 and any("72 rows repeat" in note for note in found.notes)


def test_missing_values_affect_only_their_measure():
    frame = study()
    frame.loc[3, "insider"] = np.nan
    frame.loc[4, "score"] = np.nan
    found = regress(frame, "score")
    counts = {one.measure: one.pearson.n for one in found.associations}
    assert counts == {"insider": 70, "follower": 71, "noise": 71}
    assert any("1 of 72 rows lack score" in note for note in found.notes)


def test_names_of_users_are_drawn_as_they_are_and_unknown_characters_as_code_points():
    odd = "\ue000 $a_b$"
    frame = study().rename(columns={"insider": odd, "score": odd + "!"})
    frame["architecture"] = frame["architecture"] + odd
    result = regress(frame, odd + "!", headline=odd)
    for draw in (plot_doses, plot_scatter, plot_residuals, plot_associations, plot_skills):
        figure = draw(result)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.savefig(BytesIO())
        said = [text.get_text() for text in figure.findobj(Text)]
        assert any(r"[E000] \$a_b\$" in text for text in said) and not any("\ue000" in text for text in said), draw


def test_a_table_of_one_architecture_gives_a_note_and_the_other_fits(tmp_path):
    found = regress(study(families="a"), "score")
    assert [fit.formula for fit in found.fits] == [MODELS[0]] and found.left_out == []
    assert any("One architecture only" in note for note in found.notes)
    assert "families left out" not in write_report(found, tmp_path).read_text()


def test_without_doses_the_checks_against_them_are_left_out(tmp_path):
    found = regress(study().drop(columns="alpha"), "score")
    assert found.association("follower").within_dose.value is None and found.baselines == []
    assert any("No column of doses" in note for note in found.notes)
    write_report(found, tmp_path)


@pytest.mark.parametrize(
    "change, arguments, error, message",
    [
        (lambda f: f, {"score": "scor"}, UnknownName, "Did you mean 'score'"),
        (lambda f: f, {"measures": ["folower"]}, UnknownName, "Did you mean 'follower'"),
        (lambda f: f.assign(score=1.0), {}, BadInput, "the same in all 72 rows"),
        (lambda f: f.assign(follower=2.0), {"measures": ["follower"]}, BadInput, "'follower', the same in all rows"),
        (lambda f: f.assign(follower="x"), {"measures": ["follower"]}, BadInput, "'x' in column 'follower'"),
        (lambda f: f[["score", "architecture"]], {}, BadInput, "at least one measure"),
        (lambda f: f.head(5), {}, BadInput, "5 rows with a score; wanted at least 6"),
        (
            lambda f: f.iloc[::10].assign(architecture=list("abcdefgh")),
            {},
            BadInput,
            "8 rows with a score; wanted at l",
        ),
        (lambda f: f, {"headline": "nothing"}, BadInput, "one of follower, insider, noise"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_with_the_reason(change, arguments, error, message):
    with pytest.raises(error, match=message):
        regress(change(study()), **{"score": "score"} | arguments)


def test_a_long_table_with_a_duplicate_entry_is_refused():
    frame = pd.DataFrame({"model": ["a"] * 2, "score": [1.0] * 2, "measure": ["m"] * 2, "value": [1.0, 2.0]})
    with pytest.raises(BadInput, match="'m' twice for model=a"):
        read_scores(frame, "score")


def test_a_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="which is not a file"):
        read_scores(tmp_path / "no.csv", "score")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(BadInput, match="a table with a header"):
        read_scores(tmp_path / "empty.csv", "score")


def test_statsmodels_and_the_report_use_the_same_rows(result):
    assert fitted(result.table, "insider", MODELS[0]).nobs == 72


# --- models held out, other forms of a table, too few rows ------------------------------------------------------------


def test_models_held_out_are_predicted_and_shown_with_how_many_lie_within_their_interval(tmp_path):
    table = study(families="abc")
    table["held_out"] = (table["run"] == 2) | (table["architecture"] == "c")
    result = regress(table, "score", headline="insider")
    known = {one.known_family for one in result.predictions}
    assert len(result.predictions) == table["held_out"].sum() and known == {True, False}
    inside = sum(one.low <= one.score <= one.high for one in result.predictions)
    page = write_report(result, tmp_path, "a study").read_text()
    assert f"{inside} of {len(result.predictions)} true scores lie within their 95 % interval" in page
    figure = plot_predictions(result)
    drawn = sorted(float(line.get_ydata()[0]) for line in figure.axes[0].lines if line.get_marker() == "o")
    assert drawn == pytest.approx(sorted(one.expected for one in result.predictions))
    assert plot_predictions(regress(study(), "score")) is None


def test_a_parquet_file_and_a_study_in_tidy_form_are_the_wide_table(tmp_path):
    wide = study(families="ab")
    wide.to_parquet(tmp_path / "wide.parquet")
    keys = ["model", "architecture", "alpha", "run"]
    parts = []
    for column in ("score", "follower", "insider"):
        part = wide[keys].assign(quantity=column, value=wide[column], task="geometry")
        parts.append(part.assign(task="cola", quantity="score") if column == "score" else part)
    parts.append(wide[keys].assign(quantity="loss", value=wide["loss_qnli"], task="cola"))
    pd.concat(parts).to_csv(tmp_path / "tidy.csv", index=False)
    first = read_scores(tmp_path / "wide.parquet", "score", measures=["insider"])
    second = read_scores(tmp_path / "tidy.csv", "cola", measures=["insider"])
    assert sorted(first.score) == pytest.approx(sorted(second.score))
    assert sorted(first.measures["insider"]) == pytest.approx(sorted(second.measures["insider"]))
    assert "loss_cola" in second.frame.columns


def test_a_model_with_too_few_rows_is_left_out_with_a_note_or_refused():
    few = study(families="abc", runs=1).iloc[[0, 1, 2, 8, 9, 16, 17]]
    result = regress(few, "score", measures=["insider"])
    assert {fit.formula for fit in result.fits} < set(MODELS)
    assert any("is left out: it has" in note for note in result.table.notes)
    table = read_scores(few, "score", measures=["insider"])
    table.held_out[2:] = True
    with pytest.raises(BadInput, match="`table`: got 2 rows; wanted more than the"):
        fitted(table, "insider", MODELS[1])
    with pytest.raises(BadInput, match="`table`: got 2 rows; wanted more than"):
        curvature(table, "insider")


def test_without_doses_nothing_can_be_said_at_the_same_dose():
    table = read_scores(study().drop(columns="alpha"), "score", measures=["insider"])
    with pytest.raises(BadInput, match="`dose`: got a table without doses; wanted a column of doses"):
        dose_design(table, np.ones(len(table.score), dtype=bool))


def test_a_correlation_of_too_little_has_no_interval():
    x, clusters = np.arange(6.0), np.arange(6)
    assert correlation(x[:3], x[:3], clusters[:3]).value is None
    assert correlation(x, x, np.zeros(6)).value is None  # one cluster
    assert correlation(x, x, clusters, design=np.random.default_rng(0).normal(size=(6, 4))).value is None
    assert correlation(x, np.ones(6), clusters).value is None  # no spread


def test_a_family_without_a_row_in_the_fit_gets_the_mean_of_all():
    predict = dose_curve(np.zeros(4), np.array([1.0, 2.0, 3.0, 9.0]), np.array([0, 0, 0, 1]))
    assert predict(np.array([0, 1, 2]), np.array([3])).tolist() == [2.0]
