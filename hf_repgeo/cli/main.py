"""The command line: hf-repgeo profile | sweep | compare | measure | plot | report | space | locate | sparse-vae | blm |
downstream | floor | layer | finetune | quant | dims | index | dedup | checkpoint | measures | completion.

It uses argparse, and makes the flags of a command from the signature of the function that it calls (`options.py`). A
library of typed commands would need every option declared a second time, and would be one more dependency.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress

from ..errors import RepgeoError
from ..version import __version__
from . import (
    blm,
    compare,
    completion,
    decisions,
    downstream,
    locate,
    measure,
    measures,
    plot,
    profile,
    report,
    sequences,
    space,
    sparse_vae,
    sweep,
)
from .parser import NamingParser

COMMANDS = (
    profile,
    sweep,
    compare,
    sequences,
    measure,
    plot,
    report,
    space,
    locate,
    sparse_vae,
    blm,
    downstream,
    decisions,
    measures,
    completion,
)
BAD_INPUT, INTERRUPTED, READER_GONE, TERMINATED = 2, 130, 141, 143  # 128 + the signal's number


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0 on success, 2 for bad input and files that cannot be read or written, 130 after Ctrl-C, 143 after SIGTERM, 141
        when the reader of the output has closed it.
    """
    try:
        try:
            status = _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _write_to_nobody()
        return READER_GONE
    if _several():  # threads of gloo can abort an orderly exit, after all is done
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(arguments: list[str] | None) -> int:
    options = parser().parse_args(arguments)
    try:
        with _terminated_as_interrupted():
            status = _run_shared(options) if _several() else options.run(options) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        raise
    except RepgeoError as error:
        return _complain(str(error), BAD_INPUT)
    except OSError as error:
        return _complain(_sentence(error), BAD_INPUT)
    except Exception as error:
        said = _of_the_disk(error)
        if said is None:
            raise
        return _complain(said, BAD_INPUT)
    except KeyboardInterrupt as stop:
        left = getattr(options, "interrupted", _starts_over)(options)
        terminated = isinstance(stop, Terminated)
        said = f"{'terminated' if terminated else 'interrupted'}; {left}"
        return _complain(said, TERMINATED if terminated else INTERRUPTED)


def _starts_over(options: argparse.Namespace) -> str:
    """What holds after an interruption of every command: files are written whole or not at all."""
    return "no file is half-written, and the same command starts over"


def _several() -> bool:
    """Whether a launcher such as torchrun started several processes."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def _run_shared(options: argparse.Namespace) -> int:
    """The command in several processes, of which the first prints."""
    from ..rows.processes import working_together

    shared = getattr(options, "shared", None)
    if shared is None:
        raise RepgeoError("this command runs in one process; start it without torchrun (WORLD_SIZE is set)")
    if shared == "jobs":  # the command itself divides its jobs among the processes
        return options.run(options) or 0
    with working_together() as team, suppress_output(not team.first):
        return options.run(options) or 0


@contextmanager
def suppress_output(wanted: bool) -> Iterator[None]:
    """While open, nothing is printed, if `wanted`."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if wanted else nullcontext():
        yield


def parser() -> argparse.ArgumentParser:
    """The parser with every command; parsed options carry `run`, a function of the options."""
    made = NamingParser(prog="hf-repgeo", description="The shape of what a Hugging Face model thinks in.")
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return made


def _complain(said: str, status: int) -> int:
    print(f"hf-repgeo: {said}", file=sys.stderr)
    return status


def _sentence(error: OSError) -> str:
    """The operating system's message, with the file's name; of a copy, with both names."""
    if error.strerror is None:
        return str(error).strip().split("\n\n")[0]
    named = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{named}: {error.strerror}" if named else error.strerror


def _of_the_disk(error: Exception) -> str | None:
    """The operating system's message inside an error of safetensors, tokenizers or torch; `None` if there is none."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
        if f"(os error {number})" in str(error):
            return os.strerror(number)
    return "a file could not be written" if "PytorchStreamWriter failed writing" in str(error) else None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated`, if this is the main thread: only it can handle signals.

    Python drops an exception that is raised while it deletes an object: a signal that came then is sent once more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number, frame):
        raise Terminated

    def dropped(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            return hook(lost)
        number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
        repeats.append(threading.Timer(0.01, os.kill, (os.getpid(), number)))
        repeats[-1].start()

    repeats: list[threading.Timer] = []
    earlier, hook = signal.signal(signal.SIGTERM, terminate), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in repeats:
            timer.cancel()
        signal.signal(signal.SIGTERM, earlier)


def _write_to_nobody() -> None:
    """Discards output that is not printed yet, so that the interpreter's last flush does not fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
