"""`.ci/full` runs all its parts even if some fail, and names those; here with stand-ins for its tools."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "full"
GIT = """#!/bin/sh
cd "$HERE" && echo torch==1 > constraints.txt && tar -c constraints.txt
"""
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m venv" ] && { mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip"; exit; }
echo "ran $*" >> "$HERE/ran"
case "$*" in
    *"-m pip_audit"*) echo "$SAID"; exit "$AUDITED";;
    *"$BROKEN"*) exit 1;;
esac
"""


@pytest.mark.skipif(not SCRIPT.exists(), reason="an installed package has no .ci/")
@pytest.mark.parametrize(
    ("broken", "audited", "said", "wanted"),
    [
        ("nothing", 0, "", []),
        ("fuzz", 0, "", ["random input"]),
        ("install", 0, "", ["an environment with the lowest versions", "an environment with the newest versions"]),
        ("nothing", 1, "Found 1 known vulnerability in 1 package", ["the packages above have known vulnerabilities"]),
        (
            "mutants",
            1,
            "could not be audited: torch",
            ["mutants", "the audit of dependencies was not done"],
        ),
    ],
)
def test_a_part_that_fails_is_named_and_the_others_still_run(tmp_path, broken, audited, said, wanted):
    for name, text in (("git", GIT), ("python3", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    answers = {"HERE": str(tmp_path), "BROKEN": broken, "AUDITED": str(audited), "SAID": said}
    environment = os.environ | answers | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True)
    ran = (tmp_path / "ran").read_text()
    for part in ("-m pytest -m not hub", "branches.py", "tests/fuzz", "mutants.py", "pip_audit"):
        assert part in ran
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert done.returncode == bool(wanted)
    assert all(any(part in line for line in failed) for part in wanted)
    assert len(failed) == len(wanted) + (broken == "install")  # coverage and pip-audit are installed too
    assert said in done.stdout
