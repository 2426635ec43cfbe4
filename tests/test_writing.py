"""Files are replaced in one step: whatever stops a writer, the old file stays and nothing lies beside it."""

import ast
import os
import threading
from pathlib import Path

import pytest

import hf_repgeo
from hf_repgeo.blm import save_dataset
from hf_repgeo.cli.output import save_figure
from hf_repgeo.downstream.results import _write_csv
from hf_repgeo.writing import folder_written_whole, write_whole, written_whole

PACKAGE = Path(hf_repgeo.__file__).parent


@pytest.fixture
def file(tmp_path):
    return write_whole(tmp_path / "table.csv", "old")


def is_as_it_was(file):
    return file.read_text() == "old" and [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("content", ["näue\nZeilen\n", b"\x00\xff\r\n"])
def test_text_and_bytes_are_written_as_they_are(file, content):
    assert write_whole(file, content) == file
    assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(file.parent) == [file.name]


def test_a_folder_takes_its_files_one_by_one_and_keeps_the_others(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "mine.txt"):
        write_whole(folder / name, "old")
    with folder_written_whole(folder) as unfinished:
        (unfinished / "deep").mkdir()
        for name in ("config.json", "deep/weights"):
            (unfinished / name).write_text("new")
        assert (folder / "config.json").read_text() == "old"
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == {"config.json": "new", "mine.txt": "old", "deep/weights": "new"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_whose_writer_stops_is_as_it_was(tmp_path, there):
    folder = tmp_path / "runs" / "model"
    if there:
        folder.mkdir(parents=True)
        write_whole(folder / "config.json", "old")
    with pytest.raises(OSError, match="disk full"), folder_written_whole(folder) as unfinished:
        (unfinished / "config.json").write_text("new")
        raise OSError("disk full")
    assert [path.read_text() for path in folder.rglob("*")] == ["old"] if there else not folder.exists()


@pytest.mark.parametrize("stop", [OSError("disk full"), ValueError("a value"), KeyboardInterrupt()])
def test_a_writer_that_stops_in_the_middle_leaves_the_old_file_alone(file, stop):
    with pytest.raises(type(stop)), written_whole(file) as unfinished:
        unfinished.write_text("half of the new con")
        raise stop
    assert is_as_it_was(file)


def test_a_disk_that_fails_while_it_takes_the_content_leaves_the_old_file_alone(file, monkeypatch):
    def fail(descriptor):
        raise OSError("input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="input/output"):
        write_whole(file, "new")
    assert is_as_it_was(file)


def test_the_content_is_on_the_disk_before_it_takes_its_place(file, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((file.read_text(), os.fstat(descriptor).st_size)))
    write_whole(file, "new content")
    assert seen == [("old", len("new content"))]


def test_threads_that_write_one_file_at_once_do_not_mix_their_contents(file):
    both = threading.Barrier(2)

    def write(letter):
        with written_whole(file) as unfinished:
            unfinished.write_text(letter * 1000)
            both.wait()
            unfinished.write_text(letter * 2000)

    threads = [threading.Thread(target=write, args=letter) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() in ("a" * 2000, "b" * 2000)
    assert os.listdir(file.parent) == [file.name]


# --- those who write ------------------------------------------------------------------------------------------------


def test_a_table_whose_rows_stop_coming_leaves_the_old_one(file):
    def rows():
        yield {"a": 1}
        raise OSError("results cannot be read")

    with pytest.raises(OSError, match="results"):
        _write_csv(file, ["a"], rows())
    assert is_as_it_was(file)


def test_a_figure_that_cannot_be_drawn_leaves_the_old_one(file):
    class Figure:
        def savefig(self, path, dpi):
            path.write_text("half")
            raise ValueError("no such font")

    with pytest.raises(ValueError, match="font"):
        save_figure(Figure(), file)
    assert is_as_it_was(file)


def test_a_data_set_that_cannot_be_written_leaves_the_old_one(tmp_path):
    class Part:
        def to_parquet(self, path):
            Path(path).write_text("half")
            raise OSError("disk full")

    file = write_whole(tmp_path / "train.parquet", "old")
    with pytest.raises(OSError, match="full"):
        save_dataset({"train": Part()}, tmp_path, "card")
    assert is_as_it_was(file)


# --- no other way to write --------------------------------------------------------------------------------------------

WRITERS = {"write_text", "write_bytes", "savefig", "write_table", "save_file", "to_csv", "dump"}
IN_MEMORY = {"buffer", "picture"}  # names of io.BytesIO, and evaluate's own Arrow writer
KNOWN = {
    "cli/main.py": 1,  # os.devnull
    "evaluation/base.py": 1,  # rows for evaluate, written in blocks by its own writer
    "runs/kept_rows.py": 1,  # the same by hand, under one name: a killed run leaves one such file and no more
}


def writes_past(source: str) -> int:
    """Calls that write a file, outside `with written_whole(...)` and not into a buffer in memory."""
    tree = ast.parse(source)
    whole = {
        call
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and "written_whole(" in ast.unparse(block.items[0])
        for call in ast.walk(block)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node not in whole]
    return sum(_name(call) in WRITERS and not _names(call) & IN_MEMORY or _opens_to_write(call) for call in calls)


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _names(call: ast.Call) -> set[str]:
    return {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}


def _opens_to_write(call: ast.Call) -> bool:
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return _name(call) == "open" and any(set("wx") & set(mode) and len(mode) < 4 for mode in modes)


def test_every_file_of_the_package_is_written_whole():
    sources = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
    counts = {name: count for name, source in sources.items() if (count := writes_past(source))}
    assert counts == KNOWN


@pytest.mark.parametrize(
    "source, count",
    [
        ("path.write_text('')", 1),
        ("figure.savefig(out)", 1),
        ("open(path, 'w')", 1),
        ("path.open('xb')", 1),
        ("open(path)", 0),
        ("figure.savefig(buffer)", 0),
        ("with written_whole(p) as unfinished:\n    unfinished.write_text('')", 0),
        ("with written_whole(p) as u, u.open('w') as file:\n    file.write('')", 0),
    ],
)
def test_a_file_that_is_written_in_place_is_found(source, count):
    assert writes_past(source) == count
