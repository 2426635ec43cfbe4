"""Which architectures are verified: a tiny random model of every type in transformers' mapping, profiled and checked.

    python benchmarks/zoo.py                  every type, printed, a line of JSON each
    python benchmarks/zoo.py bert llama vit   these types
    python benchmarks/zoo.py --page           also writes docs/models.md

A type counts as *running* if its tiny model runs on the inputs of its modality. A running type is *profiled* if its
stacks are found, every layer is read, and the checks hold; otherwise `profile` must *refuse* it with one sentence.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from zoo_models import inputs_of, tiny_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
MOST_MEMORY = 6 * 2**30

# --- one type -------------------------------------------------------------------------------------------------------


def examine(kind: str) -> dict:
    """What happens to one type: `outcome`, and the places that were found."""
    found = {"type": kind}
    try:
        model = tiny_model(kind)
        found["class"] = type(model).__name__
        found["modality"], inputs = _running(model)
    except Exception as error:  # a type that does not run without this package is not counted
        return found | {"outcome": "does not run", "why": _first_line(error)}
    try:
        return found | _profiled(model, inputs)
    except Exception as error:
        from hf_repgeo.errors import RepgeoError

        outcome = "refused" if isinstance(error, RepgeoError) else "crash"
        return found | {"outcome": outcome, "why": _first_line(error)}


def _running(model) -> tuple[str, dict]:
    from hf_repgeo.rows.passes import run

    problem = None
    for modality, inputs in inputs_of(model):
        try:
            run(model, **inputs)
            return modality, inputs
        except Exception as error:
            problem = problem or error
    raise problem or RuntimeError("takes none of the inputs that are tried")


def _profiled(model, inputs: dict) -> dict:
    from hf_repgeo.rows.capture import copied, read_places
    from hf_repgeo.rows.passes import run
    from hf_repgeo.rows.stacks import find_stacks

    stacks = find_stacks(model, inputs)
    taps = [tap for stack in stacks for tap in stack.taps]
    with read_places(model, taps, copied) as rows:
        run(model, **inputs)
    missing = [place for place, state in rows.items() if state is None]
    if missing:
        return {"outcome": "wrong", "why": f"{missing[0]} was not read"}
    shapes = {tuple(state.shape[:2]) for state in rows.values()}
    places = "; ".join(f"{s.name} 0-{s.layers[-1]}" + (f" + {s.final_norm}" if s.final_norm else "") for s in stacks)
    depths = [len(stack.layers) - 1 for stack in stacks]
    return {"outcome": "profiled", "places": places, "depths": depths, "shapes": sorted(shapes)}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


# --- every type -----------------------------------------------------------------------------------------------------


def in_a_process(kinds: list[str]) -> list[dict]:
    """Examines types in a process of their own: one that crashes or hangs does not stop the others."""
    command = [sys.executable, __file__, "--json", *kinds]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300 + 60 * len(kinds))
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"type"')]
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode() if error.stdout else ""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"type"') and line.endswith("}")]
    done_kinds = {line["type"] for line in lines}
    rest = [kind for kind in kinds if kind not in done_kinds]
    if rest:  # the first of them ended the process
        lines.append({"type": rest[0], "outcome": "does not run", "why": "ended its process"})
        lines += in_a_process(rest[1:]) if rest[1:] else []
    return lines


def page(rows: list[dict]) -> str:
    """The table of verified architectures, in Markdown."""
    from transformers import __version__ as version

    ran = [row for row in rows if row["outcome"] != "does not run"]
    lines = [
        "# Verified architectures",
        "",
        f"Tiny random models of {len(rows)} types, from their configurations, with transformers {version}.",
        f"{len(ran)} of them run on plain inputs:",
        "",
        "| reads | run | profiled | refused with a message | crash or wrong |",
        "| --- | ---: | ---: | ---: | ---: |",
        *map(_counts, ("text", "image", "audio", "image-text", "video"), [ran] * 5),
        "",
        "*Profiled* means that the stacks of blocks were found, that every layer was read, and that the rows between",
        "the blocks equal the model's `hidden_states`, except for a last entry that a head makes from the last block.",
        "`0-3 + norm` means layers 0 to 3 and a final norm called `norm`. Types that read images among their tokens",
        "got both. `python benchmarks/zoo.py TYPE ...` tries other types; without a type it tries all of them.",
        "",
        "| type | reads | stacks and their layers |",
        "| --- | --- | --- |",
        *(f"| `{row['type']}` | {row.get('modality', '')} | {_cell(row)} |" for row in ran),
        "",
        "## Not verified",
        "",
        "These could not be made small, need a package that was not installed, or did not run on the inputs tried.",
        "This is no judgement of the models themselves:",
        "",
        ", ".join(f"`{row['type']}`" for row in rows if row["outcome"] == "does not run") + ".",
    ]
    return "\n".join(lines) + "\n"


def _counts(modality: str, ran: list[dict]) -> str:
    outcomes = [row["outcome"] for row in ran if row.get("modality") == modality]
    others = len(outcomes) - outcomes.count("profiled") - outcomes.count("refused")
    return f"| {modality} | {len(outcomes)} | {outcomes.count('profiled')} | {outcomes.count('refused')} | {others} |"


def _cell(row: dict) -> str:
    return row["places"] if row["outcome"] == "profiled" else f"{row['outcome']}: {row['why']}"


def every(kinds: list[str]) -> Iterator[dict]:
    """Examines types twenty at a time."""
    for start in range(0, len(kinds), 20):
        yield from in_a_process(kinds[start : start + 20])


def main(arguments: list[str]) -> None:
    warnings.simplefilter("ignore")
    if arguments[:1] == ["--json"]:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        for kind in arguments[1:]:
            with contextlib.redirect_stderr(io.StringIO()):
                found = examine(kind)
            print(json.dumps(found), flush=True)
        return
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    kinds = [kind for kind in arguments if kind != "--page"] or sorted(MODEL_MAPPING_NAMES)
    rows = []
    for row in every(kinds):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if "--page" in arguments:
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
