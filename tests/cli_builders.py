"""What the tests of the command line share: calls, files, and what a refusal looks like."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from ganlib.runs import cli, training
from ganlib.runs.checkpoint import load_checkpoint

ROOT = Path(cli.__file__).parents[2]
SMALL = ["--batch-size", "4", "--latent-dim", "5"]


def ganlib_command(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="ganlib")


def done(*arguments: object) -> str:
    ran = ganlib_command(*arguments)
    assert ran.exit_code == 0, ran.output
    return ran.output


def interrupt_at(draw_number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when the given batch (two a step) is drawn."""
    make, count = training.image_sampler, 0

    def image_sampler(*arguments: Any) -> Any:
        inner = make(*arguments)

        def draw(rng: torch.Generator) -> Any:
            nonlocal count
            count += 1
            if count == draw_number:
                raise KeyboardInterrupt
            return inner(rng)

        return draw

    monkeypatch.setattr(training, "image_sampler", image_sampler)


def checkpoint_of(out: Path) -> dict[str, Any]:
    return load_checkpoint(out / "checkpoint.pt")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def refused(folder: Path, *arguments: object, says: tuple[str, ...]) -> None:
    """Exit code 2, all of `says` on one line, no traceback, and nothing in the folder changed."""
    before = files_of(folder)
    ran = ganlib_command(*arguments)
    assert ran.exit_code == 2, ran.output
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.output
    assert lines[0].startswith("Error: ")
    for text in says:
        assert text in lines[0]
    assert ran.stdout == ""
    assert files_of(folder) == before
