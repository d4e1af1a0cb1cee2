"""Faults of the disk and of checkpoints, for faults.py."""

import io
import os
import pickle
import random
import resource
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from fault_tools import begun_run, command, files_of, flipped, refuse, row, skipped
from PIL import Image

from ganlib.runs.checkpoint import MARK, load_checkpoint

NOBODY = 65534


# The disk


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file may become larger than `size` bytes: writing then fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(place: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of that size; OSError where this user may not mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise OSError("this user may not mount a file system") from error
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def filled(place: Path, left: int) -> Iterator[None]:
    """All but `left` bytes of the file system are in use."""
    filler, disk = place / "filler", os.statvfs(place)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - left)
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """A folder into which this process may not write; the superuser acts as "nobody" here."""
    root = os.geteuid() == 0
    place.chmod(0o555)
    try:
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        place.chmod(0o755)


def fail_and_go_on(run: Path, wanted: dict[str, Any], fault: Any, says: str) -> None:
    """Go on under a fault, which has to leave all files as they are, then without, to the end."""
    again = ("train", "conv", "--out", run, "--resume", "--steps", 8)
    before = files_of(run)
    with fault:
        refuse(*again, says=says)
        assert files_of(run) == before, "the run was changed"
    ran = command(*again)
    assert ran.exit_code == 0, ran.output
    assert_ends_alike(run, wanted)


def assert_ends_alike(run: Path, wanted: dict[str, Any]) -> None:
    weights = load_checkpoint(run / "checkpoint.pt")["state"]["generator"]
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted), "other weights"


def disk_rows(folder: Path, rng: random.Random, n: int = 20) -> Iterator[dict[str, Any]]:
    """Full disks and read-only folders."""
    whole = begun_run(folder, 8)
    wanted, size = (load_checkpoint(whole / "checkpoint.pt")["state"]["generator"],
                    (whole / "checkpoint.pt").stat().st_size)  # fmt: skip
    shutil.rmtree(whole)
    start = begun_run(folder, 4)

    def attempt(place: Path, fault: Any, says: str) -> None:
        run = shutil.copytree(start, place / "copy")
        try:
            fail_and_go_on(run, wanted, fault(run), says)
        finally:
            shutil.rmtree(run)

    def attempts(place: Path, fault: Callable[[int], Any], says: str) -> Iterator[Callable]:
        return (partial(attempt, place, lambda _, size=s: fault(size), says) for s in sizes)

    sizes = [rng.randrange(10**5, size) for _ in range(n)]
    kept = "exit code 2 and a sentence; the files are as before; goes on to the same weights"
    limit = "A file that may grow no further, at a random byte of a checkpoint"
    yield row("disk", limit, kept, attempts(folder, limited, "File too large"))
    full = "A full disk, with room for a random part of a checkpoint"
    try:
        with small_disk(folder / "disk", 32) as disk:
            fill = partial(filled, disk)
            yield row("disk", full, kept, attempts(disk, fill, "No space left on device"))
    except OSError as error:
        yield skipped("disk", full, str(error))
    locks = [partial(attempt, folder, read_only, "cannot be written into (Permission denied)")]
    yield row("disk", "A run's folder that is read-only", kept, locks)
    (locked := folder / "locked").mkdir()
    others = [("sample", start, "--out", locked / "x.png"),
              ("evaluate", start, "--json", locked / "x.json"),
              ("train", "conv", "--out", locked / "new")]  # fmt: skip

    def locked_out(arguments: tuple[object, ...]) -> None:
        with read_only(locked):
            refuse(*arguments, says="cannot be written")

    yield row("disk", "A read-only folder for a grid, a table or a new run",
              "exit code 2 and a sentence", [partial(locked_out, o) for o in others])  # fmt: skip


# Checkpoints


class Code:
    """Unpickled, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile_files(marker: Path) -> list[bytes]:
    """Pickles that would make the file `marker`, in each form that torch has ever written."""
    text = f"open({str(marker)!r}, 'w')"
    codes = [Code(os.system, f"touch {marker}"), Code(open, str(marker), "w"), Code(exec, text),
             Code(eval, text), Code(subprocess.check_call, ["touch", str(marker)])]  # fmt: skip
    files = []
    for code in codes:
        zipped, old = io.BytesIO(), io.BytesIO()
        torch.save({"state": code}, zipped)
        torch.save({"state": code}, old, _use_new_zipfile_serialization=False)
        for body in (zipped.getvalue(), old.getvalue(), pickle.dumps(code, 2), pickle.dumps(code)):
            files += [body, body + MARK + sha256(body).digest()]  # as found, and signed
    return files


def foreign_files() -> list[bytes]:
    """Files that are no checkpoints: empty, a picture, an archive, a table, text."""
    picture, archive, table = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("L", (28, 28)).save(picture, "PNG")
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("data.pkl", b"no pickle")
    torch.save({"step": 1}, table)
    bodies = [b"", picture.getvalue(), archive.getvalue(), table.getvalue(), b"text\n" * 100]
    return [*bodies, *(body + MARK + sha256(body).digest() for body in bodies)]


def checkpoint_rows(folder: Path, rng: random.Random, n: int = 200) -> Iterator[dict[str, Any]]:
    """Damaged, foreign and hostile checkpoints, each given to `sample` and to `train --resume`."""
    run = begun_run(folder)
    file, marker = run / "checkpoint.pt", folder / "marker"
    content = file.read_bytes()

    def attempt(body: bytes) -> None:
        file.write_bytes(body)
        before = files_of(folder)
        refuse("sample", run, "--out", folder / "x.png", says=str(file))
        refuse("train", "conv", "--out", run, "--resume", "--steps", 9, says=str(file))
        assert not marker.exists(), "code of the file was run"
        assert files_of(folder) == before, "files were changed"

    says = "exit code 2 and a sentence that names the file; no file is changed"
    places = [rng.randrange(8 * len(content)) for _ in range(n)]
    kinds = {
        "One bit flipped, at a random place": [flipped(content, place) for place in places],
        "Cut, at a random place": [content[: place // 8] for place in places[: n // 4]],
        "Empty, a picture, an archive, text, another program's": foreign_files(),
    }
    for what, bodies in kinds.items():
        yield row("checkpoint", what, says, [partial(attempt, body) for body in bodies])
    hostile = [partial(attempt, body) for body in hostile_files(marker)]
    assert_harmful(marker)
    yield row("checkpoint", "A pickle with code in it", f"{says}; its code is not run", hostile)


def assert_harmful(marker: Path) -> None:
    """The control: a loader that trusts its file would have run the code."""
    pickle.loads(hostile_files(marker)[4])  # noqa: S301 - made here
    assert marker.exists()
    marker.unlink()
