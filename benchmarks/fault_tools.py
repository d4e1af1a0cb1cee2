"""What the parts of faults.py share: the command line in this process, and the record's rows."""

import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from tqdm import tqdm

from ganlib.runs.cli import main as ganlib

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["fault_preload"])
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the process that imports it
SMALL = "--batch-size 4 --latent-dim 5 --checkpoint-every 2 --sample-every 8 --device cpu --seed 3"
Try = Callable[[], None]


def files_of(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their names."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def speak_to(log: str) -> None:
    """In a process of its own: send all that it says to a file, and share no lock of the bar."""
    tqdm.set_lock(threading.RLock())  # one of all processes would outlive a kill
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)


def command(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(ganlib, [str(a) for a in arguments], prog_name="ganlib")


def refuse(*arguments: object, says: str = "") -> None:
    """AssertionError unless the command ends with exit code 2 and one sentence with `says`."""
    ran = command(*arguments)
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("downloading ")]
    assert ran.exit_code == 2, f"exit code {ran.exit_code}, {ran.exception!r}: {ran.output[-500:]}"
    assert lines, "no word on the error"
    assert lines[-1].startswith("Error: "), ran.stderr
    assert says in lines[-1], f"{says!r} expected in {lines[-1]!r}"
    assert "Traceback" not in ran.output, ran.output


def row(part: str, what: str, wanted: str, tries: Iterable[Try]) -> dict[str, Any]:
    """Make all tries; how many ended as wanted, the longest in seconds, and what did not."""
    n, longest, failures = 0, 0.0, []
    for attempt in tries:
        n, began = n + 1, time.perf_counter()
        try:
            attempt()
        except Exception as error:  # recorded, whatever it is
            failures.append(f"{type(error).__name__}: {error}"[:500])
        longest = max(longest, time.perf_counter() - began)
    told = {
        "part": part,
        "what": what,
        "wanted": wanted,
        "tries": n,
        "as_wanted": n - len(failures),
    }
    return (
        told | {"longest_seconds": round(longest, 1)} | ({"failures": failures} if failures else {})
    )


def skipped(part: str, what: str, why: str) -> dict[str, Any]:
    """The row of what cannot be tried here."""
    told = {"part": part, "what": what, "wanted": "", "tries": 0, "as_wanted": 0}
    return told | {"longest_seconds": 0.0, "skipped": why}


def begun_run(folder: Path, steps: int = 4) -> Path:
    """A short run in a new folder."""
    out = folder / "run"
    ran = command("train", "conv", *SMALL.split(), "--steps", steps, "--out", out)
    assert ran.exit_code == 0, ran.output
    return out


def flipped(content: bytes, bit: int) -> bytes:
    """The same bytes, but for one bit."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
