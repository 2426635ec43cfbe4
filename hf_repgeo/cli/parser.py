"""argparse's parser, which names the nearest command, choice or flag where a word is unknown."""

from __future__ import annotations

import argparse

from ..errors import UnknownName


class NamingParser(argparse.ArgumentParser):
    """Says `unknown option '--measurs'. Did you mean '--measures'?` where argparse lists all choices, or none.

    The parsers of its commands are of the same class.
    """

    def _check_value(self, action: argparse.Action, value) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, str(UnknownName("name", value, map(str, action.choices))))

    def parse_known_args(self, args=None, namespace=None):
        found, left = super().parse_known_args(args, namespace)
        flags = [flag for action in self._actions for flag in action.option_strings]
        for word in left:
            if word.startswith("-"):
                self.error(str(UnknownName("option", word.partition("=")[0], flags)))
        return found, left
