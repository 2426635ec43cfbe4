"""The keywords of a function, read from its source: names, types, defaults, and the help in its docstring.

The source is parsed and not imported, so that help and usage errors of the command line need neither torch nor
transformers. Where a docstring points to another function ("as in `measure`"), the help is taken from there.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
POINTER = re.compile(r"(?:as in|see) `([\w.]+)`\.?$")
ENTRY = re.compile(r"    (?=[\w*])([\w*, ]+): (.*)")


@dataclass(frozen=True)
class Keyword:
    """One keyword of a function.

    Attributes:
        name: of the keyword.
        annotation: its type, as written.
        default: its default; None where it has none.
        help: the docstring's words about it.
    """

    name: str
    annotation: str
    default: object
    help: str

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The values that a `Literal` allows; None for other types."""
        literal = re.search(r"Literal\[(.*?)\]", self.annotation)
        return ast.literal_eval(f"({literal[1]},)") if literal else None


@cache
def keywords(function: str) -> dict[str, Keyword]:
    """The arguments of a function by name, in order; of a class: those of its `__init__`, or a dataclass's fields.

    Args:
        function: its full name, such as `"hf_repgeo.profiling.profile"`.

    Example:
        >>> from hf_repgeo.cli.keywords import keywords
        >>> keywords("hf_repgeo.profiling.measure")["max_rows"].default
        65536
    """
    module, _, name = function.rpartition(".")
    node = next(n for n in _parsed(module).body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name)
    texts = _argument_texts(ast.get_docstring(node) or "")
    found = [
        Keyword(name, ast.unparse(annotation) if annotation else "", _value(default, module), texts.get(name, ""))
        for name, annotation, default in _arguments(node)
    ]
    return {keyword.name: _resolved(keyword, module) for keyword in found}


@cache
def _parsed(module: str) -> ast.Module:
    """The source of one of our modules, found without importing the packages above it."""
    place = PACKAGE.joinpath(*module.split(".")[1:])
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _value(default: ast.expr | None, module: str) -> object:
    """A default as a plain value; a constant's name is replaced by its value. None where there is no default."""
    if isinstance(default, ast.Name):
        return _constant(default.id, module)
    try:
        return ast.literal_eval(default) if default else None
    except ValueError:
        return None


def _constant(name: str, module: str) -> object:
    """The value of a module's constant, whether it is set there (`A = 1` or `A, B = 1, 2`) or imported."""
    for statement in _parsed(module).body:
        if isinstance(statement, ast.Assign):
            target, value = statement.targets[0], statement.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts))
            for one, its_value in pairs:
                if isinstance(one, ast.Name) and one.id == name:
                    return _value(its_value, module)
        elif isinstance(statement, ast.ImportFrom) and name in {alias.name for alias in statement.names}:
            above = module.split(".")[: -statement.level]
            return _constant(name, ".".join([*above, statement.module or ""]).rstrip("."))
    return None


Argument = tuple[str, ast.expr | None, ast.expr | None]  # name, annotation, default


def _arguments(node: ast.FunctionDef | ast.ClassDef) -> list[Argument]:
    """Every argument with its annotation and its default."""
    if isinstance(node, ast.ClassDef):
        made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        return _fields(node) if made is None else _arguments(made)
    signature = node.args
    positional = [*signature.posonlyargs, *signature.args]
    defaults = [None] * (len(positional) - len(signature.defaults)) + signature.defaults
    pairs = [*zip(positional, defaults), *zip(signature.kwonlyargs, signature.kw_defaults)]
    return [(argument.arg, argument.annotation, default) for argument, default in pairs]


def _fields(node: ast.ClassDef) -> list[Argument]:
    """The fields of a dataclass."""
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return [(n.target.id, n.annotation, n.value) for n in fields if isinstance(n.target, ast.Name)]


def _argument_texts(docstring: str) -> dict[str, str]:
    """The entry of each argument in the section `Args:`, or `Attributes:`, on one line."""
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)*)", docstring + "\n", re.MULTILINE)
    texts: dict[str, str] = {}
    for line in section[1].splitlines() if section else ():
        entry = ENTRY.match(line)
        if entry:
            names = entry[1].split(", ")
            texts |= dict.fromkeys(names, entry[2])
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def _resolved(keyword: Keyword, module: str) -> Keyword:
    """The keyword with the help of the function that its docstring points to."""
    pointer = POINTER.match(keyword.help)
    if not pointer:
        return keyword
    there = pointer[1] if "." in pointer[1] else f"{module}.{pointer[1]}"
    return replace(keyword, help=keywords(there)[keyword.name].help)
