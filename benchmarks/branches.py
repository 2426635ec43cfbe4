"""Branches of every room of hf_repgeo that its tests take, with those that tests take in other processes.

python benchmarks/branches.py -m "not hub"          # all tests; whatever follows goes to pytest
python benchmarks/branches.py --keep F tests/rows   # some; the data stays in folder F, and the next call adds to it
python benchmarks/branches.py --keep F --no-tests --missing rows   # the branches of a room that were not taken

Prints a table and exits with 1 if tests fail, or if a room, or a file at the top, takes less than `--least` per cent.
A file at the top with few branches may leave one out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = """\
[run]
branch = true
parallel = true
source_pkgs = hf_repgeo
patch = subprocess, _exit
data_file = {folder}/data
"""


def run_tests(folder: Path, arguments: list[str]) -> int:
    """The exit code of pytest under coverage; the data of all processes is left in the folder."""
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={folder / 'settings'}", "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT).returncode


def measured(folder: Path) -> dict[str, dict]:
    """File below `hf_repgeo/` -> what coverage says of it."""
    settings, report = f"--rcfile={folder / 'settings'}", folder / "coverage.json"
    for command in (["combine", "--append", "-q"], ["json", "-q", "-i", "-o", str(report)]):
        subprocess.run([sys.executable, "-m", "coverage", command[0], settings, *command[1:]], cwd=ROOT)
    found = json.loads(report.read_text())["files"]
    return {name.split("hf_repgeo/", 1)[1]: entry for name, entry in found.items()}


def by_room(files: dict[str, dict]) -> dict[str, dict[str, int]]:
    """Room, or file at the top -> sums over its files."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, entry in files.items():
        for count in ("covered_branches", "num_branches", "covered_lines", "num_statements"):
            sums[name.partition("/")[0]][count] += entry["summary"][count]
    return {room: sums[room] for room in sorted(sums, key=lambda room: (room.endswith(".py"), room))}


def lacks(counts: dict[str, int], least: float) -> bool:
    """Whether a room takes too few of its branches; one that is not taken is allowed, where that is all."""
    missing = counts["num_branches"] - counts["covered_branches"]
    return missing > 1 and 100 * counts["covered_branches"] < least * counts["num_branches"]


def table(rooms: dict[str, dict[str, int]]) -> str:
    lines = ["| room | branches | taken | lines run |", "|---|---|---|---|"]
    for room, counts in rooms.items():
        taken = 100 * counts["covered_branches"] / max(1, counts["num_branches"]) if counts["num_branches"] else 100.0
        run = 100 * counts["covered_lines"] / max(1, counts["num_statements"])
        named = f"`{room}`" if room.endswith(".py") else f"`{room}/`"
        lines.append(f"| {named} | {counts['num_branches']} | {taken:.1f} % | {run:.1f} % |")
    return "\n".join(lines)


def missing(files: dict[str, dict], room: str) -> str:
    """The branches of a room that no test takes: file, line -> line, and the line's text."""
    lines = []
    for name, entry in files.items():
        if name.partition("/")[0] == room:
            source = (ROOT / "hf_repgeo" / name).read_text().split("\n")
            for start, end in entry["missing_branches"]:
                lines.append(f"{name}:{start} -> {end}: {source[start - 1].strip()}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=95.0, help="per cent of a room's branches (default: 95)")
    parser.add_argument("--rooms", help="judge only these, such as rows,cli")
    parser.add_argument("--missing", help="also print the branches of this room that were not taken")
    parser.add_argument("--keep", help="folder for coverage's data (default: a temporary one)")
    parser.add_argument("--no-tests", action="store_true", help="show what an earlier call kept")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings").write_text(SETTINGS.format(folder=folder))
        failed = 0 if options.no_tests else run_tests(folder, arguments)
        files = measured(folder)
    rooms = by_room(files)
    print(table(rooms))
    if options.missing:
        print(missing(files, options.missing))
    judged = options.rooms.split(",") if options.rooms else list(rooms)
    low = [room for room in judged if lacks(rooms[room], options.least)]
    if low:
        print(f"below {options.least:g} % of the branches: {', '.join(low)}")
    return 1 if low or failed else 0


if __name__ == "__main__":
    sys.exit(main())
