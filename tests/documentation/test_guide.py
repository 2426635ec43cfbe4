"""The field guide says what the table says and what the code does: ranges, invariances, rows, numbers, codes, links."""

import ast
import math
import re
from pathlib import Path

import pytest
import torch

import hf_repgeo
from hf_repgeo import errors
from hf_repgeo.measures import MEASURES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hf_repgeo"
GUIDE = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8")
LABELS = ("Formula", "Range", "Unchanged by", "Cost", "Rows", "Misleads", "Source")
OF_CELLS = [name for name, measure in MEASURES.items() if measure.needs == "cells"]


def sections(heading: str, text: str = GUIDE) -> dict[str, str]:
    """Text under each heading of one level, by title, up to the next heading of that level or above."""
    parts = re.split(rf"^{heading} (.*)$", text, flags=re.MULTILINE)
    bodies = [re.split(rf"^#{{1,{len(heading)}}} ", body, maxsplit=1, flags=re.MULTILINE)[0] for body in parts[2::2]]
    return dict(zip((title.strip("`") for title in parts[1::2]), bodies))


ENTRIES = sections("####")
CHAPTERS = sections("##")


def said(name: str, label: str) -> str:
    """What an entry says under a label, up to the next one."""
    found = re.search(rf"\*\*{label}\*\*\s+(.*?)(?=\s+(?:- )?\*\*[A-Z]|\Z)", ENTRIES[name], re.DOTALL)
    assert found, f"{name} has no {label}"
    return " ".join(found[1].split())


def number(text: str) -> float | None:
    """A number of the guide, or `None` for what is not one."""
    try:
        return float(text.strip(" *").replace("−", "-").replace(",", ""))
    except ValueError:
        return None


def table(chapter: str) -> tuple[list[str], dict[str, list[float | None]]]:
    """Column heads and rows, by `measure` or `measure:convention`, of a chapter's table of numbers."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in chapter.splitlines() if line.startswith("| ")]
    return lines[0][1:], {row[0].strip("`"): [number(cell) for cell in row[1:]] for row in lines[2:]}


def matches(report, case: str, stated: float | None) -> bool:
    """Whether a report's value is the stated one; cells depend on the machine's arithmetic by way of k-means."""
    name, _, convention = case.partition(":")
    value = report.value(name, **({"convention": convention} if convention else {}))
    if value is None or stated is None:
        return value is stated
    return math.isclose(value, stated, rel_tol=0.2 if name in OF_CELLS else 0.03, abs_tol=2e-3)


# --- the entries ------------------------------------------------------------------------------------------------------


def test_the_guide_has_an_entry_for_every_measure_and_for_nothing_else():
    assert set(ENTRIES) == set(MEASURES)


@pytest.mark.parametrize("name", MEASURES)
def test_an_entry_says_what_the_table_says(name):
    measure = MEASURES[name]
    assert all(said(name, label) for label in LABELS)
    assert ENTRIES[name].lstrip().startswith("●") == measure.default
    assert re.findall(r"`(\w+)`", said(name, "Source").split(":")[0]) == list(measure.conventions)
    assert set(re.findall(r"\b[12]\d{3}\b", measure.source)) <= set(re.findall(r"\b[12]\d{3}\b", ENTRIES[name]))


@pytest.mark.parametrize("name", MEASURES)
def test_stated_ranges_are_those_of_the_table(name):
    low, high = re.fullmatch(r"(.+?) … (.+?): .*", said(name, "Range")).groups()
    assert (number(low), number(high)) == MEASURES[name].range


@pytest.mark.parametrize("convention", sorted({c for measure in MEASURES.values() for c in measure.conventions}))
def test_every_convention_is_named(convention):
    assert f"`{convention}`" in GUIDE


@pytest.fixture(scope="module")
def transformed():
    """Reports on 400 rows that no measure finds special, as they are and under each transformation."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(400, 60, generator=g, dtype=torch.float64) * torch.arange(1, 61) ** -0.7 + 0.4
    X[::80] *= 40
    X[-20:] = X[:20]
    X *= 0.01  # so that the partition function is not 0 to any digit
    clouds = {
        "": X,
        "shift": X + 0.3 * torch.randn(60, generator=g, dtype=X.dtype),
        "scale": X * 3.7,
        "rotation": X @ torch.linalg.qr(torch.randn(60, 60, generator=g, dtype=X.dtype)).Q,
        "columns": X[:, torch.randperm(60, generator=g)],
        "copies": torch.cat([X, X]),
    }
    return {change: hf_repgeo.measure(rows, "all", bits=4) for change, rows in clouds.items()}


@pytest.mark.parametrize("name", MEASURES)
def test_stated_invariances_hold_and_all_others_break(name, transformed):
    stated = set(said(name, "Unchanged by").rstrip(".").split(", "))
    assert stated >= MEASURES[name].invariances
    value = transformed[""].value(name)
    kept = {
        change
        for change, report in transformed.items()
        if change and math.isclose(report.value(name), value, rel_tol=1e-5, abs_tol=1e-9)
    }
    assert kept == stated


@pytest.mark.parametrize("name", MEASURES)
def test_an_answer_needs_the_stated_number_of_rows_and_no_more(name, generator):
    fewest = int(re.match(r"\d+", said(name, "Rows"))[0])
    X = torch.randn(fewest, 64, generator=generator)
    [row] = hf_repgeo.measure(X, [f"{name}:{MEASURES[name].conventions[0]}"])
    assert row["value"] is not None or row["warnings"][0].startswith(("no_error", "no_spread"))
    if fewest == 2:
        with pytest.raises(errors.TooFewRows):
            hf_repgeo.measure(X[:1], name)
    else:
        [row] = hf_repgeo.measure(X[:-1], [f"{name}:{MEASURES[name].conventions[0]}"])
        assert row["value"] is None and row["warnings"][0].startswith("too_few")


# --- the numbers and the code -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guide():
    """What the guide's code, run from top to bottom, defines."""
    namespace = {}
    for code in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        exec(compile(code, "docs/measures.md", "exec"), namespace)
    return namespace


def test_the_four_accidents_read_as_printed(guide):
    columns, rows = table(CHAPTERS["Four faults, and the measures that show them"])
    assert columns == list(guide["reports"]) and len(rows) > 10
    wrong = [
        (case, column)
        for case, values in rows.items()
        for column, stated in zip(columns, values, strict=True)
        if not matches(guide["reports"][column], case, stated)
    ]
    assert not wrong


def test_the_biases_at_256_rows_are_as_printed(guide):
    columns, rows = table(CHAPTERS["Sample size"])
    decaying, noise = guide["few"]
    places = {columns.index("decaying, 256"): decaying, columns.index("noise, 256"): noise}
    wrong = [
        (case, columns[place])
        for case, values in rows.items()
        for place, report in places.items()
        if not matches(report, case, values[place])
    ]
    assert not wrong and len(rows) > 15


def test_a_wrong_number_in_a_table_would_be_seen(guide):
    assert not matches(guide["reports"]["clean"], "anisotropy", 0.18)
    assert not matches(guide["reports"]["clean"], "anisotropy", None)


def test_the_chance_levels_are_as_printed(guide):
    chapter = " ".join(CHAPTERS["How far to trust it"].split())
    for name, title in (("intrinsic_dimension", "TwoNN"), ("patchiness", "patchiness"), ("anisotropy", "anisotropy")):
        value, null = map(float, re.search(rf"{title} ([\d.]+) against ([\d.]+\d)", chapter).groups())
        row = guide["report"].row(name)
        assert row["value"] == pytest.approx(value, rel=0.01)
        assert row["details"]["null"] == pytest.approx(null, rel=0.03)


def test_the_claimed_errors_are_of_the_size_of_the_true_ones(guide):
    """The guide states the ratio over 200 draws; 30 draws estimate it to about an eighth."""
    assert 0.6 < guide["spread_over_error"]("anisotropy", draws=30) < 1.5
    assert 0.9 < guide["spread_over_error"]("levina_bickel:mackay", draws=30) < 1.9


def test_the_papers_19_numbers_are_19(guide):
    assert sum(len(report) for report in guide["nineteen"]) == 19
    quantizers = [row["details"].get("quantizer") for report in guide["nineteen"] for row in report]
    assert quantizers.count("product") == quantizers.count("additive") == 8


# --- warning codes ----------------------------------------------------------------------------------------------------

WARNING = re.compile(r"([a-z]+(?:_[a-z]+)*): ")
PROSE = {"hf_repgeo"}


def docstrings(tree: ast.AST) -> set[int]:
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def codes_in(path: Path) -> set[str]:
    """Codes of the strings `"code: sentence"` in a file; outside the measures, one word before a colon is prose."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skip = docstrings(tree)
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in skip]
    found = {match[1] for text in strings if isinstance(text, str) and (match := WARNING.match(text))}
    mathematics = "measures" in path.parts and path.name != "table.py"
    return {code for code in found - PROSE if mathematics or "_" in code}


def emitted() -> set[str]:
    """Every code that a report, an estimate or a log of this package can carry."""
    rooms = ("measures", "rows", "runs", "evaluation", "training")
    files = [*PACKAGE.glob("*.py"), *(path for room in rooms for path in (PACKAGE / room).rglob("*.py"))]
    family = (kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code"))
    return set().union(*map(codes_in, files)) | {kind.code for kind in family}


IN_LOGS = {"few_rows", "budget", "sink", "collapse", "failed"}


def documented() -> set[str]:
    listed = re.findall(r"^\| `(\w+)` \|", CHAPTERS["Warning codes"], re.MULTILINE)
    assert len(listed) == len(set(listed))
    return set(listed)


def test_every_warning_code_is_in_the_guide_and_no_other():
    assert emitted() - IN_LOGS == documented()
    for code in IN_LOGS:
        assert f"`{code}` (" in CHAPTERS["Warning codes"]


def test_codes_are_found_where_they_are_written(tmp_path):
    file = tmp_path / "measures" / "new.py"
    file.parent.mkdir()
    file.write_text('"""doc_string: no."""\nA = "new_code: said"\nB = f"word: {A}"\nC = "Not a code: no"\n')
    assert codes_in(file) == {"new_code", "word"}
    assert {"duplicates", "fewer_rows", "no_standard_error", "non_finite"} <= emitted()


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(file: Path) -> list[str]:
    """Links of a page to files that are not there and headings that do not exist."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (file.parent / path) if path else file
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize(
    "page", ["README.md", *(str(file.relative_to(ROOT)) for file in sorted((ROOT / "docs").rglob("*.md")))]
)
def test_internal_links_resolve(page):
    assert not broken_links(ROOT / page)


def test_a_broken_link_would_be_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b_c`, d\n[1](#a-b_c-d) [2](#gone) [3](gone.md) [4](page.md#a-b_c-d) [5](https://x.y/z)\n")
    assert broken_links(page) == ["#gone", "gone.md"]
