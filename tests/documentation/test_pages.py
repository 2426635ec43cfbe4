"""The quickstart and the how-to pages do what they say: every block and every command of ours runs, top to bottom."""

import shlex
from pathlib import Path

import pytest
from pages import blocks, commands

from hf_repgeo.cli.main import main

pytest_plugins = ["pages"]  # the fixtures of a page

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "index.md", DOCS / "decisions.md", *sorted((DOCS / "how-to").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_one_after_the_other(page, namespace):
    code = blocks("python", page.read_text(encoding="utf-8"))
    assert code
    for block in code:
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize(
    "command",
    [line for page in PAGES for line in commands(page.read_text(encoding="utf-8"))],
)
def test_a_command_of_a_page_runs(command, namespace, capsys):
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out
