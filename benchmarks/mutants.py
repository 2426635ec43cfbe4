"""Mutation testing: small changes of the code, each of which some test should notice.

python benchmarks/mutants.py                              the named mutants, which tests once let live
python benchmarks/mutants.py --sample 500 [--seed 0]      as many random ones of measures, rows, hub and report

A random mutant changes one operator, comparison, number or condition of one function; the tests of its room judge it.
The exit code is 1 where fewer than `--least` of them are killed. The work is done in a copy of the repository.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = {  # files to change -> the tests that judge them
    "hf_repgeo/measures": "tests/measures",
    "hf_repgeo/rows": "tests/rows tests/test_profile.py",
    "hf_repgeo/hub": "tests/hub",
    "hf_repgeo/report_table.py": "tests/test_report.py tests/rows/test_broken_files.py",
}
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
    tests: str

    def __str__(self) -> str:
        text = (ROOT / self.file).read_text()
        return f"{self.file}:{text[: self.at].count(chr(10)) + 1}: {self.old!r} -> {self.new!r}"


def named() -> Iterator[Mutant]:
    """Mutants that once survived all tests."""
    left_out = "tests/measures/test_left_out.py"
    cases = [
        ("measures/direction.py", "cloud.n - counts)", "cloud.n)", left_out),
        ("measures/spectrum.py", "len(along) - counts", "len(along)", left_out),
        ("measures/spectrum.py", "fold_norms - drift", "fold_norms + drift", left_out),
        ("measures/eigen.py", "remaining = len(folds) - counts", "remaining = len(folds)", left_out),
        ("measures/moments.py", "self.zeros + other.zeros)", "self.zeros)", left_out),
        ("measures/moments.py", "self.zeros - other.zeros)", "self.zeros)", left_out),
        ("rows/representations.py", " - {tokenizer.unk_token_id}", "", "tests/rows/test_representations.py"),
        ("hub/push.py", "digest([run_id(report), cases])", "digest([cases])", "tests/hub/test_outside_input.py"),
        ("report_table.py", "return write_whole(path, ", "return path.write_text(", "tests/test_report.py"),
    ]
    for file, old, new, tests in cases:
        text = (ROOT / "hf_repgeo" / file).read_text()
        yield Mutant(f"hf_repgeo/{file}", text.index(old), old, new, tests)


def every(file: Path, tests: str) -> Iterator[Mutant]:
    """All mutants of a file."""
    text = file.read_text()
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.walk(ast.parse(text)):
        for part, new in _changes(node):
            begin, end = (starts[line - 1] + column for line, column in _span(part))
            old = text.encode()[begin:end].decode()
            if text.isascii() and old != new:
                yield Mutant(str(file.relative_to(ROOT)), begin, old, new, tests)


def _span(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Expressions of a node, and what takes their place."""
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


def killed(mutant: Mutant, copy: Path) -> bool:
    """Whether a test of the mutant's room fails, or does not end."""
    file = copy / mutant.file
    whole = file.read_text()
    file.write_text(whole[: mutant.at] + mutant.new + whole[mutant.at + len(mutant.old) :])
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *mutant.tests.split()]
    try:
        done = subprocess.run(command, cwd=copy, capture_output=True, timeout=900, env=os.environ | {"PYTHONPATH": "."})
        return done.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        file.write_text(whole)


def sampled(count: int, seed: int) -> list[Mutant]:
    mutants = []
    for place, tests in ROOMS.items():
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            mutants += every(file, tests)
    return random.Random(seed).sample(mutants, min(count, len(mutants)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=1.0)
    options = parser.parse_args()
    mutants = sampled(options.sample, options.seed) if options.sample else list(named())
    copy = Path(tempfile.mkdtemp(prefix="mutants-")) / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__"))
    lived = []
    try:
        for mutant in mutants:
            lives = not killed(mutant, copy)
            lived += [mutant] * lives
            print(f"{'lives ' if lives else 'killed'} {mutant}", flush=True)
    finally:
        shutil.rmtree(copy.parent)
    share = 1 - len(lived) / len(mutants)
    print(f"{len(mutants) - len(lived)} of {len(mutants)} killed ({share:.0%})")
    return 0 if share >= options.least else 1


if __name__ == "__main__":
    raise SystemExit(main())
