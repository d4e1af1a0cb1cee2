"""A run's folder, and what a command may write over.

A run's folder holds checkpoint.pt (its settings and all that training changes), metrics.json (what
it was made by and on, its seconds and losses), samples/step-NNNNNN.png (grids of one fixed latent
sample) and, if wanted, tensorboard/. Each file is replaced as a whole.
"""

import fnmatch
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganlib.records import provenance, replacing
from ganlib.runs.checkpoint import load_checkpoint
from ganlib.runs.settings import GAMES, MODELS, TYPES, Settings, bare, new_networks
from ganlib.trainer import running_average

CHECKPOINT, METRICS, GRIDS = "checkpoint.pt", "metrics.json", "step-*.png"
KEPT = {"state": dict, "random": list, "seconds": float, "commands": list, "moves": list}
POINTS = 1000


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what foreign contents of a checkpoint raise into one ValueError."""
    try:
        yield
    except Exception as error:  # whatever they do to torch
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"a checkpoint of `ganlib train` expected, {what} is none, or another version's "
            f"({reason})"
        ) from error


def check_types(contents: dict[str, Any], types: dict[str, Any]) -> None:
    """TypeError for the first of the named contents that is not of its type."""
    for name, kind in types.items():
        if not isinstance(contents[name], kind):
            raise TypeError(f"{name} is of type {type(contents[name]).__name__}")


def checkpoint_of(path: Path) -> Path:
    """The checkpoint in a run's folder; the file itself, if it is one."""
    return path / CHECKPOINT if path.is_dir() else path


def load_run(path: Path) -> dict[str, Any]:
    """A run's checkpoint, from its folder or file, and its generator; ValueError for what is none.

    The generator is G's running average, if the run has one, and works in float32.
    """
    file = checkpoint_of(path)
    if not file.exists():
        raise FileNotFoundError(
            f"no checkpoint {file}: give the folder of a run of `ganlib train`, or its {CHECKPOINT}"
        )
    contents = load_checkpoint(file)
    with reading(str(file)):
        settings = Settings(**contents["settings"])
        check_types(asdict(settings), TYPES)
        for name, known in (("model", MODELS), ("loss", GAMES)):
            if (chosen := getattr(settings, name)) not in known:
                raise ValueError(f"{name} {chosen!r}")
        if settings.dataset not in MODELS[settings.model].datasets:
            raise ValueError(f"dataset {settings.dataset!r}")
        check_types(contents, KEPT)
        check_types(contents["state"], {"step": int})
        generator = new_networks(settings)[0]
        if settings.average:
            average = running_average(generator, settings.average)
            average.load_state_dict(contents["state"]["average"])
            generator = average.module
        else:
            generator.load_state_dict(contents["state"]["generator"])
    for name, weight in generator.state_dict().items():
        if not torch.isfinite(weight).all():
            raise ValueError(
                f"finite weights expected, but {name} of the generator in {file} is not: training "
                "had diverged; start anew with a lower --lr"
            )
    kept = {name: contents[name] for name in KEPT}
    return {"settings": settings, "generator": bare(generator), **kept}


def holds_run(path: Path) -> bool:
    """Whether a folder is that of a run, begun or finished."""
    return any((path / name).exists() for name in (CHECKPOINT, METRICS))


def open_folder(out: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a new run; refuses to mix the two up."""
    if resume:
        if not holds_run(out):
            raise FileNotFoundError(
                f"no run in {out} to go on with: leave out --resume to start one"
            )
        return load_run(out)
    if holds_run(out):
        raise ValueError(f"{out} holds a run: add --resume to go on with it, or give another --out")
    for grid in (out / "samples").glob(GRIDS):
        if not made_by("ganlib train", grid):
            raise ValueError(
                f"{grid} is there, and is not of a run: give another --out, or move it away"
            )
    return None


def make_writable(place: Path) -> None:
    """Make a folder and see that it can be written into."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OSError(f"{place} cannot be written into ({error.strerror}): take another") from error


def make_folder(out: Path) -> None:
    """Make a run's folder, without what a session left that was killed while it wrote."""
    make_writable(out)
    for names in (f".{CHECKPOINT}.*.part", f".{METRICS}.*.part", f"samples/.{GRIDS}.*.part"):
        for left in out.glob(names):
            left.unlink()


def grid_file(out: Path, step: int) -> Path:
    """The picture of a run at a step."""
    return out / "samples" / f"step-{step:06d}.png"


def made_by(command: str, file: Path) -> bool:
    """Whether a file is a picture or a table that says that `command` made it."""
    with open(file, "rb") as opened:
        head, name = opened.read(200), command.encode()
    of_picture = head.startswith(b"\x89PNG") and b"Software\0" + name in head
    return of_picture or head.startswith(b'{\n "made_by": "' + name)


def check_output(file: Path, command: str, source: Path, force: bool) -> None:
    """ValueError if `command`, which reads the run `source`, is not to write into this file.

    It writes where nothing is, or over what the same command made; with `force` over any other
    file, but never over a run's own, nor over the checkpoint that it reads.
    """
    place, name = file.resolve().parent, file.name.lower()
    own = name in (CHECKPOINT, METRICS) and holds_run(place)
    own |= place.name == "samples" and holds_run(place.parent) and fnmatch.fnmatch(name, GRIDS)
    if own or (file.exists() and source.exists() and file.samefile(source)):
        raise ValueError(f"{file} is a run's own file, which nothing may replace: write elsewhere")
    if not file.exists() or (file.is_file() and not file.stat().st_size):
        return
    if not file.is_file():
        raise ValueError(f"a file expected to write, {file} is none")
    if not force and not made_by(command, file):
        raise ValueError(
            f"{file} exists, and `{command}` did not make it: give another file, or add --force "
            "to replace it"
        )


def write_grid(path: Path, images: Tensor, command: str) -> None:
    """Write images (n, c, h, w) in [0, 1] as a PNG made by `command`, at most eight in a row."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from ganlib.plotting import image_array

    array = image_array(images, columns=min(len(images), 8))
    told = PngInfo()
    told.add_text("Software", command)
    picture = Image.fromarray((255 * array).round().astype("uint8"))
    with replacing(path) as file:
        picture.save(file, "PNG", optimize=True, pnginfo=told)


def progress_record(contents: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What metrics.json says: a run's provenance, and its history at 1,000 points at most."""
    history = {}
    for name, rows in contents["state"]["scalars"].items():
        every = math.ceil(len(rows) / POINTS)
        kept = rows[(len(rows) - 1) % every :: every].tolist()  # the last is among them
        history[name] = {"step": [int(s) for s, _ in kept], "value": [v for _, v in kept]}
    settings = contents["settings"]
    return {
        "command": contents["commands"][0],
        "resumed_by": contents["commands"][1:],
        "moved": contents["moves"],
        **provenance(device),
        "n_processes": settings["n_processes"],
        "seconds": round(contents["seconds"], 1),
        "steps": contents["state"]["step"],
        "seed": settings["seed"],
        "options": settings,
        "history": history,
    }
