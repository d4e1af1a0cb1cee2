"""What the command line knows of models and of games, one table each, and a run's settings.

A new model or game is one entry here. Nothing in this module waits for torch, so that `--help` can
show the tables; what needs it is imported when a run begins.
"""

import math
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Shape = tuple[int, int, int]
Pair = tuple["Module", "Module"]
GRAY: dict[str, Shape] = dict.fromkeys(("mnist5k", "mnist", "fashion_mnist"), (1, 28, 28))
DATASETS: dict[str, Shape] = GRAY | {"cifar10": (3, 32, 32)}


@dataclass(frozen=True)
class Model:
    """A pair of networks for the command line.

    `networks(latent_dim, image_shape, pixel_means)` makes generator and discriminator; `datasets`
    are those that they can draw, with the shapes of their images.
    """

    description: str
    networks: Callable[[int, Shape, "Tensor | None"], Pair]
    datasets: dict[str, Shape]
    defaults: dict[str, Any]


@dataclass(frozen=True)
class Game:
    """D's and G's loss for the command line, each as "module:function"."""

    description: str
    loss_d: str
    loss_g: str

    def losses(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Both losses, imported."""
        return pkgutil.resolve_name(self.loss_d), pkgutil.resolve_name(self.loss_g)


def maxout_pair(latent_dim: int, shape: Shape, pixel_means: "Tensor | None") -> Pair:
    """Chapter 7's pair; `pixel_means`, of `shape`, sets G's output bias."""
    from ganlib.models import MaxoutDiscriminator, MLPGenerator

    means = pixel_means
    generator = MLPGenerator(latent_dim, image_shape=shape, batch_norm=True, pixel_means=means)
    return generator, MaxoutDiscriminator(shape, dropout=(0.0, 0.0))


def mlp_pair(latent_dim: int, shape: Shape, _: "Tensor | None") -> Pair:
    """G latent-256-512-1024-pixels with ReLU, D pixels-1024-512-256-1 with LeakyReLU."""
    from torch import nn

    from ganlib.models import MLPGenerator, mlp

    layers = mlp([math.prod(shape), 1024, 512, 256, 1], lambda: nn.LeakyReLU(0.2))
    discriminator = nn.Sequential(nn.Flatten(), layers, nn.Flatten(0))
    return MLPGenerator(latent_dim, (256, 512, 1024), shape), discriminator


def conv_pair(latent_dim: int, _: Shape, __: "Tensor | None") -> Pair:
    """Chapter 8's pair for 28 x 28 gray images."""
    from ganlib.models import ConvDiscriminator, ConvGenerator

    generator = ConvGenerator(latent_dim, channels=16)
    return generator, ConvDiscriminator(batch_norm=False, hidden=256)


def dcgan_pair(latent_dim: int, _: Shape, __: "Tensor | None") -> Pair:
    """A pair by the rules of the DCGAN for 28 x 28 gray images."""
    from ganlib.models import ConvDiscriminator, ConvGenerator

    return ConvGenerator(latent_dim), ConvDiscriminator()


USUAL: dict[str, Any] = {"beta1": 0.5, "beta2": 0.999, "average": 0.995, "loss": "non-saturating"}
WITH_R1: dict[str, Any] = {"beta1": 0.0, "beta2": 0.99, "average": 0.995, "loss": "r1"}
MODELS = {
    "maxout": Model(
        "chapter 7's: batch-norm G 100-1200-1200-784, maxout D",
        maxout_pair,
        DATASETS,
        {"latent_dim": 100, "lr_g": 1e-3, "lr_d": 1e-3, **WITH_R1},
    ),
    "mlp": Model(
        "of many tutorials: G 100-256-512-1024-784, D 784-1024-512-256-1",
        mlp_pair,
        DATASETS,
        {"latent_dim": 100, "lr_g": 2e-4, "lr_d": 2e-4, **USUAL},
    ),
    "conv": Model(
        "chapter 8's: batch norm in G; R1 and a hidden layer in D; gray images only",
        conv_pair,
        GRAY,
        {"latent_dim": 64, "lr_g": 2e-3, "lr_d": 2e-3, **WITH_R1},
    ),
    "dcgan": Model(
        "by the rules of the DCGAN: batch norm in both; gray images only",
        dcgan_pair,
        GRAY,
        {"latent_dim": 64, "lr_g": 2e-4, "lr_d": 2e-4, **USUAL},
    ),
}
GAMES = {
    "non-saturating": Game(
        "G raises log D(G(z))", "ganlib.games:gan_loss_d", "ganlib.games:gan_loss_g"
    ),
    "r1": Game(
        "non-saturating; D also pays for its slope at real data",
        "ganlib.games:r1_loss_d",
        "ganlib.games:gan_loss_g",
    ),
    "minimax": Game(
        "G lowers log(1 - D(G(z)))", "ganlib.games:gan_loss_d", "ganlib.games:minimax_loss_g"
    ),
    "least-squares": Game(
        "D estimates the label 1 or 0, G wants 1",
        "ganlib.games:least_squares_loss_d",
        "ganlib.games:least_squares_loss_g",
    ),
}
COMMON: dict[str, Any] = {
    "dataset": "mnist5k",
    "steps": 4000,
    "batch_size": 64,
    "n_critic": 1,
    "seed": 0,
    "device": "auto",
    "bf16": False,
    "compile": False,
    "sample_every": 500,
    "checkpoint_every": 1000,
}


@dataclass(frozen=True)
class Settings:
    """What determines a run; its checkpoint carries it. `steps` is the total.

    `beta1` and `beta2` are those of both players' Adam, `average` is the decay of G's running
    average, 0 for none, and `batch_size` is that of all processes together.
    """

    model: str
    dataset: str
    steps: int
    batch_size: int
    latent_dim: int
    lr_g: float
    lr_d: float
    beta1: float
    beta2: float
    average: float
    n_critic: int
    loss: str
    seed: int
    device: str
    bf16: bool
    compile: bool
    sample_every: int
    checkpoint_every: int
    n_processes: int


TYPES: dict[str, Any] = {field.name: field.type for field in fields(Settings)}


def new_networks(settings: Settings, pixel_means: "Tensor | None" = None) -> Pair:
    """The model's generator and discriminator, wrapped to run in bfloat16 if the run does."""
    from ganlib.rounding import InBfloat16

    model = MODELS[settings.model]
    shape = model.datasets[settings.dataset]
    generator, discriminator = model.networks(settings.latent_dim, shape, pixel_means)
    if settings.bf16:
        return InBfloat16(generator), InBfloat16(discriminator)
    return generator, discriminator


def bare(network: "Module") -> "Module":
    """The network without the wrapper that runs it in bfloat16."""
    from ganlib.rounding import InBfloat16

    return network.network if isinstance(network, InBfloat16) else network


def option(name: str) -> str:
    """What a setting is called on the command line."""
    return name.replace("_", "-")


def settle(
    given: dict[str, Any], old: dict[str, Any] | None, n_processes: int, out: Path
) -> dict[str, Any]:
    """The settings given, else those of the old run in `out`, else the defaults.

    ValueError for what contradicts the old run, whose total and device alone may change, and for
    what does not fit together.
    """
    if old and n_processes != old["n_processes"]:
        raise ValueError(
            f"the run in {out} was begun by {old['n_processes']} processes, got {n_processes}: "
            f"torchrun --nproc-per-node {old['n_processes']}"
        )
    for name, wanted in given.items():
        if old and name not in ("steps", "device") and wanted != old[name]:
            remedy = "leave the option out, or start a run in another --out"
            if name == "model":
                remedy = f"write ganlib train {old['model']}, or start a run in another --out"
            raise ValueError(
                f"the run in {out} has {option(name)} {old[name]}, got {wanted}: {remedy}"
            )
    values = old or COMMON | MODELS[given["model"]].defaults
    values = values | given | {"n_processes": n_processes}
    check_fit(values)
    return values


def check_fit(values: dict[str, Any]) -> None:
    """ValueError for settings that fit their own ranges, but not each other."""
    model, dataset = values["model"], values["dataset"]
    if dataset not in MODELS[model].datasets:
        c, h, w = DATASETS[dataset]
        able = " or ".join(name for name in MODELS if dataset in MODELS[name].datasets)
        raise ValueError(
            f"{model} draws no images like those of {dataset}, {h} x {w} in {c} channels: take "
            f"{able}, or another --dataset"
        )
    for name in ("lr_g", "lr_d", "beta1", "beta2", "average"):
        if not math.isfinite(values[name]):
            raise ValueError(f"a finite --{option(name)} expected, got {values[name]}")
    batch, n = values["batch_size"], values["n_processes"]
    if batch % n or batch < 2 * n:
        raise ValueError(
            f"a --batch-size expected that {n} processes share equally, 2 or more for each, got "
            f"{batch}"
        )
    if values["compile"] and n > 1:
        raise ValueError(f"--compile works in one process, got {n}: leave it out")


def processes() -> tuple[int, int]:
    """The number of this process, and how many train together: what torchrun's variables say.

    (0, 1) without torchrun, also where a RANK or an empty WORLD_SIZE is left in the environment.
    """
    told = os.environ.get("WORLD_SIZE") or "1"
    if not told.isdecimal() or told == "0":
        raise ValueError(f"an integer >= 1 in WORLD_SIZE expected, got {told!r}: unset it")
    if int(told) == 1:
        return 0, 1
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {told}, but {missing[0]} is not set: start the processes by torchrun, "
            "or unset WORLD_SIZE"
        )
    if not os.environ["RANK"].isdecimal() or int(os.environ["RANK"]) >= int(told):
        raise ValueError(f"a RANK below {told} expected, got {os.environ['RANK']!r}: unset it")
    return int(os.environ["RANK"]), int(told)
