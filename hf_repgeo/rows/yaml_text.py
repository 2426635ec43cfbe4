"""Reads untrusted YAML: plain values only, of bounded nesting, with few aliases."""

from __future__ import annotations

from typing import Any

DEEPEST = 64
MOST_ALIASES = 8  # each may double what is written, and nested ones do so again


def read_yaml(text: str) -> Any:
    """The plain values in a text of YAML.

    Raises:
        ValueError: no YAML, values that cannot be made, nesting deeper than 64, or more than 8 aliases.

    Example:
        >>> from hf_repgeo.rows.yaml_text import read_yaml
        >>> read_yaml("a: [1, 2]")
        {'a': [1, 2]}
    """
    import yaml

    try:
        _check(yaml.parse(text, yaml.SafeLoader))
        return yaml.safe_load(text)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _check(events) -> None:
    import yaml

    depth = aliases = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > DEEPEST or aliases > MOST_ALIASES:
            raise ValueError(f"nested deeper than {DEEPEST}, or more than {MOST_ALIASES} aliases")
