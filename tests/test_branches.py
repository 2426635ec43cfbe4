"""The script that shows the branches of every room: its sums, its limit, and what it says is missing."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "branches.py"
spec = importlib.util.spec_from_file_location("branches", SCRIPT)
branches = importlib.util.module_from_spec(spec)
spec.loader.exec_module(branches)


def file_of(taken, of, run=1, lines=1, missing=()):
    counts = {"covered_branches": taken, "num_branches": of, "covered_lines": run, "num_statements": lines}
    return {"summary": counts, "missing_branches": list(missing)}


FILES = {
    "rows/a.py": file_of(19, 20, 9, 10),
    "rows/b.py": file_of(19, 20, 10, 10),
    "version.py": file_of(0, 0),
    "errors.py": file_of(3, 4, missing=[(1, 2)]),
}


def test_a_room_is_the_sum_of_its_files_and_files_at_the_top_come_last():
    rooms = branches.by_room(FILES)
    assert list(rooms) == ["rows", "errors.py", "version.py"]
    lines = branches.table(rooms).splitlines()[2:]
    assert lines == [
        "| `rows/` | 40 | 95.0 % | 95.0 % |",
        "| `errors.py` | 4 | 75.0 % | 100.0 % |",
        "| `version.py` | 0 | 100.0 % | 100.0 % |",
    ]


@pytest.mark.parametrize(
    ("taken", "of", "lacking"), [(38, 40, False), (37, 40, True), (3, 4, False), (2, 4, True), (0, 0, False)]
)
def test_a_room_lacks_branches_below_the_limit_where_more_than_one_is_missing(taken, of, lacking):
    assert branches.lacks(file_of(taken, of)["summary"], 95.0) == lacking


def test_missing_branches_are_shown_with_their_line():
    first = (SCRIPT.parents[1] / "hf_repgeo" / "errors.py").read_text().split("\n")[0]
    assert branches.missing(FILES, "errors.py") == f"errors.py:1 -> 2: {first}"


def test_the_exit_code_says_whether_a_judged_room_lacks_branches(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(branches, "measured", lambda folder: json.loads(json.dumps(FILES)))
    arguments = ["branches.py", "--keep", str(tmp_path), "--no-tests"]
    monkeypatch.setattr("sys.argv", arguments)
    assert branches.main() == 0
    monkeypatch.setattr("sys.argv", [*arguments, "--least", "96", "--rooms", "rows"])
    assert branches.main() == 1
    assert "below 96 % of the branches: rows\n" in capsys.readouterr().out
    assert "patch = subprocess" in (tmp_path / "settings").read_text()
