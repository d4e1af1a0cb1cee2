"""What several benchmarks share."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Adam

from ganlib.metrics import DigitClassifier, judge_digits
from ganlib.models import ConvDiscriminator, ConvGenerator, MaxoutDiscriminator, MLPGenerator
from ganlib.plotting import image_array
from ganlib.records import provenance, replacing
from ganlib.rounding import InBfloat16
from ganlib.trainer import State, running_average

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "book" / "results"


def new_record(script: str, **facts: Any) -> dict[str, Any]:
    """A record begun: the script that makes it, its provenance, and the facts."""
    return {"command": f"python benchmarks/{script}", **provenance(), **facts}


def go_on(file: Path, record: dict[str, Any], fixed: Callable[[dict], Any]) -> dict[str, Any]:
    """The record that the file holds already, to be added to, else `record`.

    SystemExit where `fixed(record)`, which all rows of a record must have in common, differs.
    """
    if not file.exists():
        return record
    old = json.loads(file.read_text())
    if fixed(old) != fixed(json.loads(json.dumps(record, allow_nan=False))):
        raise SystemExit(f"{file} holds runs of another seed or setup: move it away first")
    return old


def verdict(images: Tensor, classifier: DigitClassifier) -> dict[str, Any]:
    """The classifier's mean confidence and class shares, for a record."""
    confidence, shares = judge_digits(images, classifier)
    return {"confidence": confidence, "shares": shares.tolist()}


def maxout_pair(
    images: Tensor, dropout: tuple[float, float] = (0.0, 0.0)
) -> tuple[nn.Module, nn.Module]:
    """Chapter 7's networks; the untrained G paints the mean of the uint8 images."""
    pixel_means = images.float().mean(0) / 255
    return MLPGenerator(batch_norm=True, pixel_means=pixel_means), MaxoutDiscriminator(
        dropout=dropout
    )


def adam_state(
    seed: int,
    pair: Callable[[], tuple[nn.Module, nn.Module]],
    lr_g: float,
    lr_d: float,
    *,
    betas: tuple[float, float] = (0.5, 0.999),
    average: float = 0.995,
) -> State:
    """A new pair from `seed`, Adam for both, and G's running average."""
    torch.manual_seed(seed)
    generator, discriminator = pair()
    opt_g, opt_d = (
        Adam(network.parameters(), lr, betas=betas, fused=True)
        for network, lr in ((generator, lr_g), (discriminator, lr_d))
    )
    rng = torch.Generator().manual_seed(seed)
    return State(
        generator, discriminator, opt_g, opt_d, rng, average=running_average(generator, average)
    )


def r1_state(
    seed: int,
    pair: Callable[[], tuple[nn.Module, nn.Module]],
    lr: float,
    *,
    average: float = 0.995,
) -> State:
    """The same by the settings that go with the R1 penalty: chapters 7 and 8."""
    return adam_state(seed, pair, lr, lr, betas=(0.0, 0.99), average=average)


def conv_pair(latent_dim: int = 64) -> tuple[nn.Module, nn.Module]:
    """Chapter 8's networks, in bfloat16, which costs less on most CPUs."""
    generator = ConvGenerator(latent_dim, 16, bias=latent_dim < 16)
    return InBfloat16(generator), InBfloat16(ConvDiscriminator(batch_norm=False, hidden=256))


def scale_lr(state: State, factor: float) -> None:
    """Set both learning rates to `factor` times those that the optimizers were made with."""
    for optimizer in (state.opt_g, state.opt_d):
        optimizer.param_groups[0]["lr"] = factor * optimizer.defaults["lr"]


def seconds_of(file: Path) -> int:
    """What a file of weights says about the time of its training."""
    with safe_open(file, "pt") as opened:
        return int(opened.metadata()["cpu_seconds"])


def k_means(images: Tensor, n: int, seed: int) -> Tensor:
    """n images such that each of `images`, of shape (m, 1, 28, 28), is near to one of them."""
    from sklearn.cluster import MiniBatchKMeans

    k_means = MiniBatchKMeans(n, batch_size=20_000, max_iter=10, n_init=1,  # pyright: ignore
                              init="random", random_state=seed)  # fmt: skip
    centers = k_means.fit(images.flatten(1).numpy()).cluster_centers_
    return torch.from_numpy(centers).float().reshape(-1, *images.shape[1:])


def write_grids(
    file: Path, sets: Iterable[Tensor], columns: int, *, gaps: tuple[int, int] = (1, 12)
) -> None:
    """Write a PNG of sets of equally many images: each a grid of 8 columns, `columns` in a row.

    The gaps, in pixels, are between images and between grids.
    """
    grids = [torch.from_numpy(image_array(images, 8, gaps[0])) for images in sets]
    array = image_array(torch.stack(grids)[:, None], columns, gaps[1])
    picture = Image.fromarray((255 * array + 0.5).astype("uint8")).quantize(24)
    with replacing(file) as png:
        picture.save(png, "PNG", optimize=True)
