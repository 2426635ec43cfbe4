"""Mutation testing: small changes of the code, each of which some test should notice.

python benchmarks/mutants.py                              the named mutants, which once survived all tests
python benchmarks/mutants.py --map map.json               which tests run which lines, and how long each takes
python benchmarks/mutants.py --map map.json --sample 500 [--seed 0] [--least 0.9]    random ones of the mapped files
python benchmarks/mutants.py --map map.json --sample 500 --log log.jsonl              the same; it may be interrupted
python benchmarks/mutants.py --log log.jsonl --again tests/measures/test_cells.py     those that live, by these tests
python benchmarks/mutants.py --map map.json --log log.jsonl --patience 60             those that live, by slower tests

A random mutant changes one operator, comparison, number or condition; constants that only cut the work into pieces
(`WORK_SIZES`) stay, as their value changes no result. The tests that run its line judge it, the quickest of each
function first, until one fails or `--patience` seconds of tests are through: mutants that "live" may still be killed by
slower tests. The exit code is 1 where fewer than `--least` of them are killed. The work is done in a copy of the
repository, each mutant in a fork of a process that has imported everything but the package. The tests of every 25th
mutant are also run without it: they must pass.

The log holds a line per verdict, and the last one of a mutant counts. A run with an existing log continues where it
ends; offsets in the log are those of the code at that time.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORT = ["hf_repgeo/report.py", "hf_repgeo/report_table.py", "hf_repgeo/report_text.py"]
MUTATED = ["hf_repgeo/measures", "hf_repgeo/rows", "hf_repgeo/hub", *REPORT]
JUDGES = [*MUTATED, "tests/measures", "tests/rows", "tests/hub", "tests/test_report.py", "tests/test_profile.py"]
PATIENCE = 10
HANGS = 40  # seconds of a processor for the tests of one mutant, which take far less as a rule
SLEEPS = 300  # seconds until a test that hangs is ended
# Imported once, before a fork judges a mutant.
HEAVY = [
    *("numpy", "scipy.stats", "torch._dynamo", "pandas", "pyarrow.parquet", "matplotlib.pyplot", "PIL.Image"),
    *("transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama", "accelerate", "datasets"),
    *("huggingface_hub", "safetensors.torch", "hypothesis", "pytest", "xdist.plugin"),
]
# Rows, columns or numbers worked on at a time: another value gives the same result.
WORK_SIZES = {"ALIGNED", "BLOCK", "BLOCKS_AT_ONCE", "BLOCK_ROWS", "BLOCK_SCORES", "CACHED", "DIRECT", "PANEL_COLUMNS"}
PYTEST = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """One change: `old` at an offset of a file becomes `new`."""

    file: str
    at: int
    old: str
    new: str

    @property
    def line(self) -> int:
        return (ROOT / self.file).read_text()[: self.at].count("\n") + 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.old!r} -> {self.new!r}"


def named() -> Iterator[tuple[Mutant, list[str]]]:
    """Mutants that once survived all tests, and the tests that kill them."""
    left_out = "tests/measures/test_left_out.py"
    cases = [
        ("measures/direction.py", "cloud.n - counts)", "cloud.n)", left_out),
        ("measures/spectrum.py", "len(along) - counts", "len(along)", left_out),
        ("measures/spectrum.py", "fold_norms - drift", "fold_norms + drift", left_out),
        ("measures/eigen.py", "counts.sum() - counts)", "counts.sum())", left_out),
        ("measures/moments.py", "self.zeros + other.zeros)", "self.zeros)", left_out),
        ("measures/moments.py", "self.zeros - other.zeros)", "self.zeros)", left_out),
        ("rows/representations.py", " - {tokenizer.unk_token_id}", "", "tests/rows/test_representations.py"),
        ("hub/push.py", "digest([run_id(report), cases])", "digest([cases])", "tests/hub/test_outside_input.py"),
        ("report_table.py", "write_whole(Path(path), ", "Path(path).write_text(", "tests/test_report.py"),
    ]
    for file, old, new, tests in cases:
        text = (ROOT / "hf_repgeo" / file).read_text()
        yield Mutant(f"hf_repgeo/{file}", text.index(old), old, new), [tests]


def every(file: Path) -> Iterator[Mutant]:
    """All mutants of a file."""
    text = file.read_text()
    tree, lines = ast.parse(text), text.splitlines(keepends=True)
    starts = [0, *accumulate(len(line) for line in lines)]
    fixed = {part for statement in tree.body if _is_work_size(statement) for part in ast.walk(statement)}
    for node in ast.walk(tree):
        for part, new in _changes(node) if node not in fixed else ():
            begin, end = (
                starts[line - 1] + len(lines[line - 1].encode()[:column].decode()) for line, column in _span(part)
            )
            if text[begin:end] != new:
                yield Mutant(str(file.relative_to(ROOT)), begin, text[begin:end], new)


def _is_work_size(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) in WORK_SIZES


def _span(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Expressions of a node, each with its replacement."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        changed = ast.unparse(ast.fix_missing_locations(_with_op(node, SWAPS[type(node.op)]())))
        yield node, f"({changed})"
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
        yield node, f"({ast.unparse(ast.Compare(node.left, [SWAPS[type(node.ops[0])]()], node.comparators))})"
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield node, repr(node.value + 1)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, f"({ast.unparse(node.operand)})"


def _with_op(node, op):
    return ast.BinOp(node.left, op, node.right) if isinstance(node, ast.BinOp) else ast.BoolOp(op, node.values)


# --- which tests run a line -----------------------------------------------------------------------------------------


class Recorder:
    """A plugin of pytest: the lines that each test runs, and its seconds."""

    def __init__(self, coverage):
        self.coverage, self.seconds, self.failed = coverage, defaultdict(float), set()

    def pytest_runtest_logstart(self, nodeid):
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.add(report.nodeid)


def write_map(place: Path) -> None:
    """Runs all judges once under coverage; the branches that they take stay beside the map as `PLACE.coverage`."""
    import coverage
    import pytest

    os.chdir(ROOT)
    measured = coverage.Coverage(data_file=f"{place}.coverage", branch=True, source=["hf_repgeo"])
    measured.start()
    recorder = Recorder(measured)
    pytest.main([*(flag for flag in PYTEST if flag != "-x"), *JUDGES], plugins=[recorder])
    measured.stop()
    measured.save()
    data, lines, seconds = measured.get_data(), {}, recorder.seconds
    for file in data.measured_files():
        lines[str(Path(file).relative_to(ROOT))] = {
            line: sorted({*tests} - {""} - recorder.failed, key=seconds.__getitem__)
            for line, tests in data.contexts_by_lineno(file).items()
        }
    place.write_text(json.dumps({"seconds": seconds, "lines": lines}))
    print(f"{len(seconds)} tests, failed: {sorted(recorder.failed)}")


def judges(mutant: Mutant, known: dict, patience: float = PATIENCE) -> list[str]:
    """Tests that run the mutant's line (where it runs on import: its file), the quickest of each function first."""
    lines, seconds = known["lines"].get(mutant.file, {}), known["seconds"]
    tests = lines.get(str(mutant.line)) or []
    if len(tests) < 2:  # the first test that imports the file
        tests = {test for found in lines.values() for test in found}
    tests = sorted(tests, key=seconds.__getitem__)
    quickest = {test.partition("[")[0]: test for test in reversed(tests)}.values()
    chosen = []
    for test in sorted(tests, key=lambda test: (test not in quickest, seconds[test])):
        patience -= seconds[test]
        if chosen and patience < 0:
            break
        chosen.append(test)
    return chosen


# --- judging ----------------------------------------------------------------------------------------------------------


def killed(mutant: Mutant, copy: Path, tests: list[str]) -> bool:
    """Whether a test fails, or does not end."""
    file = copy / mutant.file
    whole = file.read_text()
    file.write_text(whole[: mutant.at] + mutant.new + whole[mutant.at + len(mutant.old) :])
    try:
        return _fails(copy, tests)
    finally:
        file.write_text(whole)


def _fails(copy: Path, tests: list[str]) -> bool:
    child = os.fork()
    if child == 0:
        _judge(copy, tests)
    end = time.monotonic() + SLEEPS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _judge(copy: Path, tests: list[str]) -> None:
    """In the fork: its exit status is that of the tests."""
    status = 1
    try:
        os.chdir(copy)
        sys.path[:0] = [str(copy), str(copy / "tests")]
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_CPU, (HANGS, HANGS))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        import pytest

        status = int(pytest.main([*PYTEST, *tests]))
    finally:
        os._exit(status)


def sampled(count: int, seed: int) -> list[Mutant]:
    mutants: list[Mutant] = []
    for place in MUTATED:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            mutants += every(file)
    return random.Random(seed).sample(mutants, min(count, len(mutants)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=Path, help="made where there is none, read where there is one")
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=1.0)
    parser.add_argument("--log", type=Path, help="verdicts are added to it; mutants that it holds are not judged again")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds of tests a mutant")
    parser.add_argument("--part", default="1/1", help="2/3: the second of three parts, which run side by side")
    parser.add_argument("--again", nargs="+", default=[], help="tests of the mutants that live by the log")
    options = parser.parse_args()
    if options.sample and not options.map:
        parser.error("--sample wants --map: which tests judge a line")
    if options.map and not options.map.exists():
        command = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import mutants; mutants.write_map"
        subprocess.run([sys.executable, "-c", f"{command}(mutants.Path({str(options.map.absolute())!r}))"], check=True)
    verdicts = logged(options.log)
    if options.map and not options.sample and not verdicts:
        return 0
    for mutant, lives in judge(work(options, verdicts)):
        verdicts[mutant] = lives
        if options.log:
            with options.log.open("a") as log:
                log.write(json.dumps(asdict(mutant) | {"lives": lives}) + "\n")
    return told(verdicts, options.least)


def work(options: argparse.Namespace, verdicts: dict[Mutant, bool]) -> list[tuple[Mutant, list[str]]]:
    """The mutants that the options ask for, each with the tests that judge it."""
    living = [mutant for mutant, lives in verdicts.items() if lives]
    if options.again:
        return [(mutant, options.again) for mutant in living]
    if not options.map:
        return list(named())
    known = json.loads(options.map.read_text())
    fresh = [mutant for mutant in sampled(options.sample, options.seed) if mutant not in verdicts]
    part, parts = map(int, options.part.split("/"))
    chosen = (fresh if options.sample else living)[part - 1 :: parts]
    return [(mutant, judges(mutant, known, options.patience)) for mutant in chosen]


def logged(log: Path | None) -> dict[Mutant, bool]:
    """Whether a mutant lives, for each mutant in a log."""
    verdicts = {}
    for line in log.read_text().splitlines() if log and log.exists() else []:
        facts = json.loads(line)
        lives = facts.pop("lives")
        verdicts[Mutant(**facts)] = lives
    return verdicts


def judge(todo: list[tuple[Mutant, list[str]]]) -> Iterator[tuple[Mutant, bool]]:
    """Judges mutants by their tests, one by one: whether each lives."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the client is imported, as in the tests' own configuration
    for name in HEAVY:
        with suppress(ImportError):
            __import__(name)
    gc.freeze()  # garbage collection in the forks skips the shared objects
    copy = Path(tempfile.mkdtemp(prefix="mutants-")) / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__"))
    compileall.compile_dir(copy / "hf_repgeo", quiet=2)
    try:
        for place, (mutant, tests) in enumerate(todo, 1):
            if place % 25 == 1 and _fails(copy, tests):
                raise SystemExit(f"these tests fail without a mutant: {tests}")
            lives = not killed(mutant, copy, tests)
            print(f"{place:4} {'lives ' if lives else 'killed'} {mutant}", flush=True)
            yield mutant, lives
    finally:
        shutil.rmtree(copy.parent)


def told(verdicts: dict[Mutant, bool], least: float) -> int:
    """Prints how many were killed; the exit code, 1 if they are too few."""
    dead = sum(not lives for lives in verdicts.values())
    print(f"{dead} of {len(verdicts)} killed ({dead / len(verdicts):.0%})")
    return 0 if dead >= least * len(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
