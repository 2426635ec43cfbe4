"""The flow goes one way: every import of the package points back along it, and none closes a circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_repgeo"

# Rooms and top-level files in the order of the flow. A module imports what stands before it, or its own room.
FLOW = """
    version errors writing
    measures
    rows
    report_table report_text plots
    hub report
    runs
    profiling verification sweeps comparison sequences
    losses training callbacks sentence_evaluator
    evaluation
    blm sparse_vae localization
    downstream decisions
    gradio_app
    registration
    cli
    __init__ __main__
""".split()
KERNELS_ARE_BELOW = "hf_repgeo.measures.kernels"


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, source: str, is_package: bool) -> set[str]:
    """Modules of ours that a module imports, wherever in it: at the top, inside a function, for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("hf_repgeo")}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: None if is_package else -1]
            base = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                found.add(inner if inner in MODULES else origin)
    return {module for module in found if module in MODULES} - {name}


GRAPH = {name: imports(name, path.read_text(), path.name == "__init__.py") for name, path in MODULES.items()}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def wrong_way(graph: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if FLOW.index(room(other)) > FLOW.index(room(module))
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another, in turn; empty if there are none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        found = next(filter(None, (walk(other, [*path, module]) for other in sorted(graph[module]))), [])
        done.add(module)
        return found

    return next(filter(None, (walk(module, []) for module in sorted(graph))), [])


def test_every_room_has_its_place_in_the_flow():
    assert {room(module) for module in MODULES} <= set(FLOW)


def test_every_import_points_back_along_the_flow():
    # `__init__` names everything for type checkers; importing it does not import what it names
    assert wrong_way({module: others for module, others in GRAPH.items() if module != "hf_repgeo"}) == []


def test_there_is_no_circle():
    assert circle(GRAPH) == []


def test_kernels_import_nothing_of_the_measures_above_them():
    for module, others in GRAPH.items():
        if module.startswith(KERNELS_ARE_BELOW):
            above = {o for o in others if o.startswith("hf_repgeo.measures") and not o.startswith(KERNELS_ARE_BELOW)}
            assert not above, f"{module} imports {above}"


def test_the_top_level_stays_small():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 15


@pytest.mark.parametrize(
    "source, found",
    [
        ("from .hub import push", {"hf_repgeo.hub.push"}),
        ("def f():\n    from .report import GeometryReport", {"hf_repgeo.report"}),
        ("if TYPE_CHECKING:\n    from . import plots", {"hf_repgeo.plots"}),
        ("import hf_repgeo.measures.table", {"hf_repgeo.measures.table"}),
    ],
)
def test_the_test_sees_every_kind_of_import(source, found):
    assert imports("hf_repgeo.profiling", source, False) == found


def test_the_test_can_fail():
    assert wrong_way({"hf_repgeo.measures.cloud": {"hf_repgeo.plots"}})
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
