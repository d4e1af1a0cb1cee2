"""What test files share: fixed seeds, no windows, the full data sets where they are at hand."""

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from ganlib.data import load_images

# The same examples on every machine, none stored in the repository.
settings.register_profile("book", deadline=None, derandomize=True, database=None)
settings.load_profile("book")

torch.set_num_threads(1)  # threads of several test processes on the same cores fight


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    # The command line sets "medium", which rounds to bfloat16 on some processors.
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="session")
def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Both splits of mnist5k, read once."""
    return {split: load_images("mnist5k", split) for split in ("train", "test")}


@pytest.fixture
def full_data() -> Path:
    """The folder of the full data sets; skips where $GANLIB_DATA does not name one."""
    root = Path(os.environ.get("GANLIB_DATA") or "nowhere")
    if not (root / "MNIST").exists() or not (root / "FashionMNIST").exists():
        pytest.skip("needs full MNIST and Fashion-MNIST: set GANLIB_DATA to their folder")
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps of the convolutional pair, by the command line; tests leave it as it is."""
    from cli_builders import done

    out = tmp_path_factory.mktemp("runs") / "run"
    done("train", "conv", "--device", "cpu", "--batch-size", 16, "--lr", 1e-3, "--lr-d", 5e-4,
         "--seed", 7, "--steps", 60, "--sample-every", 25, "--out", out)  # fmt: skip
    return out
