"""Completion in a shell, and colour on terminals only."""

import io
import subprocess

import pytest

from hf_repgeo.cli.completion import script, words_of
from hf_repgeo.cli.main import main, parser
from hf_repgeo.cli.output import coloured

ASK = """\
{script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _hf_repgeo; echo "${{COMPREPLY[@]}}"
"""


def commands():
    return parser().parse_args(["completion", "bash"]).commands.choices


def completed(words: str) -> set[str]:
    """What bash offers after these words, of which the last may be unfinished."""
    code = ASK.format(script=script(commands(), "bash"), words=words)
    return set(subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "words, offered",
    [
        ("hf-repgeo pro", {"profile"}),
        ("hf-repgeo report ''", {"show", "push"}),
        ("hf-repgeo profile gpt2 --batch", {"--batch-rows", "--batch-size"}),
        ("hf-repgeo report push x.json me/m --atl", {"--atlas"}),
    ],
)
def test_bash_offers_commands_and_flags(words, offered):
    assert completed(words) >= offered


def test_every_command_is_known_and_zsh_gets_the_same_words(capsys):
    table = words_of(commands())
    assert {"hf-repgeo profile", "hf-repgeo report push", "hf-repgeo space publish"} <= set(table)
    assert main(["completion", "zsh"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("#compdef hf-repgeo") and script(commands(), "bash") in said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = "pip:model\n\nlayer  value\n─────  ─────\n\nwarnings:\n  few_rows (1 rows): said"
    assert coloured(text, io.StringIO()) == text
    shown = coloured(text, Terminal())
    assert shown.startswith("\033[1mpip:model\033[0m") and "\033[33m  few_rows" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured(text, Terminal()) == text
