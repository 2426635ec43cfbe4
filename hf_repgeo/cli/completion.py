"""`hf-repgeo completion`: completes commands and flags in a shell."""

from __future__ import annotations

import argparse

ABOUT = """\
Print the script that lets a shell complete commands and flags; made from the commands themselves.

  bash: hf-repgeo completion bash > ~/.local/share/bash-completion/completions/hf-repgeo
  zsh:  hf-repgeo completion zsh > ~/.zfunc/_hf-repgeo      (with ~/.zfunc in fpath)
"""
# Words typed so far choose the line of the table: the longest sequence of commands among them.
BASH = """\
_hf_repgeo() {{
  local word path="hf-repgeo" found=""
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$path $word" in {known}) path="$path $word";; esac
  done
  case "$path" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$found" -- "${{COMP_WORDS[COMP_CWORD]}}"))
  [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -F _hf_repgeo hf-repgeo
"""
ZSH = "#compdef hf-repgeo\nautoload -U +X bashcompinit && bashcompinit\n"


def add(commands) -> None:
    """Adds `completion` to the commands of the parser."""
    form = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("completion", help="a script for the shell", description=ABOUT, formatter_class=form)
    parser.set_defaults(run=run, commands=commands)
    parser.add_argument("shell", choices=("bash", "zsh"))


def run(options: argparse.Namespace) -> None:
    """Prints the script."""
    print(script(options.commands.choices, options.shell), end="")


def script(commands: dict[str, argparse.ArgumentParser], shell: str) -> str:
    """The completion script for a shell."""
    table = words_of(commands)
    known = "|".join(f'"{path}"' for path in table if " " in path)
    cases = "\n".join(f'    "{path}") found="{" ".join(words)}";;' for path, words in table.items())
    return (ZSH if shell == "zsh" else "") + BASH.format(known=known, cases=cases)


def words_of(commands: dict[str, argparse.ArgumentParser]) -> dict[str, list[str]]:
    """Sequence of commands -> the commands and flags that may follow it."""
    table = {"hf-repgeo": ["--help", "--version", *commands]}
    for name, parser in commands.items():
        table |= _words_of(parser, f"hf-repgeo {name}")
    return table


def _words_of(parser: argparse.ArgumentParser, path: str) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {path: []}
    for action in parser._actions:
        table[path] += [flag for flag in action.option_strings if flag.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            table[path] += list(action.choices)
            for name, one in action.choices.items():
                table |= _words_of(one, f"{path} {name}")
    return table
