"""The mutants that the tests should notice are changes of the code as it is."""

import ast
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_named_mutants_are_in_the_code_and_sampled_ones_are_code_too(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import mutants

    assert len(list(mutants.named())) == 9
    for mutant in mutants.sampled(40, seed=0):
        text = (mutants.ROOT / mutant.file).read_text()
        assert text[mutant.at :].startswith(mutant.old) and mutant.old != mutant.new
        ast.parse(text[: mutant.at] + mutant.new + text[mutant.at + len(mutant.old) :])
