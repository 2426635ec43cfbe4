"""The notebooks run from top to bottom, and each ends in a picture."""

import json
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_ends_in_a_picture(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "__main__"}
    for number, code in enumerate(cells(path, "code")):
        exec(compile(code, f"{path.name}, cell {number}", "exec"), namespace)
    assert cells(path, "code")[-1].splitlines()[-1] == "figure"
    drawn = [line for axis in namespace["figure"].axes for line in axis.lines if len(line.get_xdata()) > 1]
    assert drawn


def test_there_are_three_and_none_keeps_outputs():
    assert [path.stem for path in NOTEBOOKS] == ["first-look", "your-sentences", "your-trainer"]
    for path in NOTEBOOKS:
        assert all(not cell.get("outputs") for cell in json.loads(path.read_text())["cells"])
