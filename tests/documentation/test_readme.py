"""The README does what it says: every block of code runs as written and is short, two commands are single lines."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from pages import blocks, commands, run

import hf_repgeo
from hf_repgeo.cli.main import main

pytest_plugins = ["pages"]  # the fixtures of a page

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
DOORS = {
    "a model": "hf_repgeo.profile(",
    "arrays and files": "hf_repgeo.measure(",
    "evaluate": "evaluate.load(",
    "Trainer": "GeometryCallback(",
    "sentence-transformers": "GeometryEvaluator(",
    "to the Hub": ".push_to_hub(",
    "from the Hub": "hf_repgeo.load_report(",
    "losses": "hf_repgeo.losses",
    "plots": "hf_repgeo.plot_layers(",
}


PYTHON = blocks("python", README)
COMMANDS = commands(README)


def title(code: str) -> str:
    return next((door for door, sign in DOORS.items() if sign in code), code.strip().splitlines()[-1])


def code_lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line.strip()]


# --- every block ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", PYTHON, ids=title)
def test_a_block_runs_as_written_in_at_most_five_lines(code, namespace):
    assert len(code_lines(code)) <= 5
    run(code, namespace)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_ours_runs_as_written(command, namespace, capsys):
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("broken", ["report.valeu('anisotropy')", "hf_repgeo.measure(Y)", "import hf_repgeo\nX ="])
def test_a_block_that_does_not_run_would_be_seen(broken, namespace):
    with pytest.raises((AttributeError, NameError, SyntaxError)):
        run(broken, namespace)


def test_there_is_something_to_run():
    assert len(PYTHON) >= 8 and len(COMMANDS) >= 2
    assert README.count("```") == 2 * len(re.findall(r"^```\w*\n.*?^```$", README, re.MULTILINE | re.DOTALL))


# --- every door -------------------------------------------------------------------------------------------------------


def door(name: str) -> str:
    """The first block that uses this door, one of `DOORS`."""
    return next(code for code in PYTHON if DOORS[name] in code)


@pytest.mark.parametrize("name", DOORS)
def test_every_entry_point_is_shown(name):
    assert door(name)


def test_a_profile_has_every_layer_and_its_picture(namespace):
    report = run(door("a model"), namespace)["report"]
    assert report.unique("layer") == list(range(13)) and report.provenance["model"] == "bert-base-uncased"
    assert Path("layers.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_is_measured_as_its_rows(namespace):
    report = run(door("arrays and files"), namespace)["report"]
    assert report.value("anisotropy") == pytest.approx(hf_repgeo.measure(namespace["X"]).value("anisotropy"))


def test_evaluate_gives_the_number_of_measure(namespace):
    found = run(door("evaluate"), namespace)["anisotropy"].compute(representations=namespace["X"])
    assert found["anisotropy"] == pytest.approx(hf_repgeo.measure(namespace["X"]).value("anisotropy"))


def test_the_trainer_logs_the_keys_that_are_named(namespace):
    callback = run(door("Trainer"), namespace)["callback"]
    logged = set().union(*namespace["trainer"].state.log_history)
    assert callback.steps[0] == 1 and set(re.findall(r"geometry/[\w/]*\w", door("Trainer"))) <= logged


def test_the_evaluator_gives_the_keys_that_are_named(namespace):
    evaluator = run(door("sentence-transformers"), namespace)["evaluator"]
    named = re.findall(r'"wiki_(\w+)"', door("sentence-transformers"))
    assert len(named) == 2 and set(named) <= set(evaluator.report.unique("measure"))


def test_a_dry_run_comes_back_equal_and_nothing_else_is_pushed(namespace):
    run(door("to the Hub"), namespace)
    assert Path("folder/models/me/my-model/README.md").exists()
    assert hf_repgeo.load_report("folder").rows == namespace["report"].rows
    for line in README.splitlines():
        assert "push_to_hub(" not in line or 'to="folder"' in line
        assert not line.startswith("hf-repgeo report push") or "--to folder" in line


def test_a_loss_has_a_gradient_where_the_mask_is(namespace):
    run(door("losses"), namespace)
    gradient = namespace["hidden"].grad
    plain = 2 * namespace["hidden"].detach() / namespace["hidden"].numel()
    assert torch.allclose(gradient[~namespace["mask"]], plain[~namespace["mask"]])
    assert not torch.allclose(gradient[namespace["mask"]], plain[namespace["mask"]])


# --- the two commands -------------------------------------------------------------------------------------------------


def command_after(mark: str, text: str = README) -> str:
    """The one line of shell behind a mark.

    Raises:
        AssertionError: none, several, or no single line that makes an environment and goes on with `&&`.
    """
    found = re.findall(rf"<!-- {mark} -->\n```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{len(found)} blocks behind <!-- {mark} -->"
    [line] = found[0].splitlines()
    steps = [step.strip() for step in line.split("&&")]
    assert steps[0].startswith("python3 -m venv ") and len(steps) > 1 and all(steps)
    assert not re.search(r"[;|\\]|(?<!&)&(?!&)", line), line
    return line


def test_first_look_and_tests_are_one_line_each_from_nothing():
    assert command_after("first command").endswith("hf-repgeo profile")
    assert command_after("test command").endswith("-m pytest")


@pytest.mark.parametrize(
    "line",
    ["pip install .", "python3 -m venv .venv", "python3 -m venv a; pip list && b", "python3 -m venv a &&", "a\nb"],
)
def test_another_shape_of_command_would_be_seen(line):
    with pytest.raises((AssertionError, ValueError)):
        command_after("it", f"<!-- it -->\n```bash\n{line}\n```\n")
    assert command_after("it", "<!-- it -->\n```bash\npython3 -m venv a && b\n```\n") == "python3 -m venv a && b"
