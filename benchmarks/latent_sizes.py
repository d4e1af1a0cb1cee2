"""Latent sizes 2 and 8: how far does the map z -> digit move while the convolutional GAN trains?

    python benchmarks/latent_sizes.py            (about 7 minutes of one CPU core)

Trains the networks of chapter 8 on mnist5k with its optimizer settings, but at constant learning
rates, for each latent size and seed, and looks at them every 200 steps: the class (by the book's
classifier) of G(z) for 500 fixed z, and images of those z. Writes book/results/
08_latent_sizes.json with, for each run and for both the generator and its running average,

changed      share of the z whose class differs from that at the checkpoint before
agreement    share of the z of one class at checkpoints s and t, for all s and t
moved        distance of G(z) now and at the checkpoint before, over that of G(z) and G(z'), means

and 08_latent_sizes.png: grids over Gaussian quantiles for the first seed. A seed that the
file already holds is not repeated. Trained in bfloat16, looked at in float32.
"""

import time
from itertools import pairwise
from typing import Any

import torch
from common import RESULTS, adam_state, go_on, new_record, verdict, write_grids
from torch import Tensor

from ganlib.data import image_sampler, load_images
from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.metrics import DigitClassifier, load_digit_classifier
from ganlib.models import ConvDiscriminator, ConvGenerator
from ganlib.records import write_record
from ganlib.rounding import InBfloat16
from ganlib.runs.settings import bare
from ganlib.trainer import State, generate, train

SETTINGS = {"steps": 2000, "every": 200, "batch_size": 32, "lr_g": 2e-3, "lr_d": 5e-4,
            "decay": 0.995, "n_z": 500, "precision": "bf16 autocast"}  # fmt: skip
LATENT_DIMS, SEEDS, SHOWN = (2, 8), (0, 1, 2), (800, 1200, 1600, 2000)


def quantile_grid(side: int, latent_dim: int) -> Tensor:
    """Latents (side^2, latent_dim) at Gaussian quantiles of coordinates 0 and 1, the others 0."""
    line = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    z = torch.zeros(side, side, latent_dim)
    z[..., 0], z[..., 1] = line, line[:, None]
    return z.flatten(0, 1)


def train_one(seed: int, latent_dim: int, images: Tensor) -> dict[int, dict[str, Tensor]]:
    """At each look, G(z) and average(z) for the fixed z, and a grid."""

    def pair() -> tuple[InBfloat16, InBfloat16]:
        return InBfloat16(ConvGenerator(latent_dim, bias=True)), InBfloat16(ConvDiscriminator())

    state = adam_state(seed, pair, SETTINGS["lr_g"], SETTINGS["lr_d"])
    rng = torch.Generator().manual_seed(1000 + seed)
    z = torch.randn(SETTINGS["n_z"], latent_dim, generator=rng)
    grid = quantile_grid(8, latent_dim)

    def snapshot(state: State) -> dict[str, Tensor]:
        raw, average = bare(state.generator), bare(state.sampling_generator)
        return {"raw": generate(raw, z), "average": generate(average, z),
                "grid": generate(average, grid)}  # fmt: skip

    every = range(SETTINGS["every"], SETTINGS["steps"] + 1, SETTINGS["every"])
    draw = image_sampler(images, SETTINGS["batch_size"], latent_dim)
    train(state, draw, gan_loss_d, gan_loss_g, until=SETTINGS["steps"], snapshot=snapshot,
          snapshot_at=every)  # fmt: skip
    return state.history.snapshots


def movement(frames: list[Tensor], classifier: DigitClassifier) -> dict[str, Any]:
    with torch.no_grad():
        classes = torch.stack([classifier(x).argmax(1) for x in frames])
    agreement = (classes[:, None] == classes).double().mean(2)
    moved = []
    for before, now in pairwise(frames):
        between = (now - now.roll(1, 0)).flatten(1).norm(dim=1).mean()
        moved.append(((now - before).flatten(1).norm(dim=1).mean() / between).item())
    changed = (1 - agreement.diagonal(1)).tolist()
    found = {"changed": changed, "agreement": agreement.tolist(), "moved": moved}
    return found | verdict(frames[-1], classifier)


def main() -> None:
    torch.set_num_threads(1)
    images, classifier = load_images("mnist5k")[0], load_digit_classifier()
    file = RESULTS / "08_latent_sizes.json"
    record = new_record("latent_sizes.py", settings=SETTINGS, runs=[])
    record = go_on(file, record, lambda record: record["settings"])
    done = {run["seed"] for run in record["runs"]}
    for seed in [seed for seed in SEEDS if seed not in done]:
        grids = []
        for latent_dim in LATENT_DIMS:
            start = time.process_time()
            looks = train_one(seed, latent_dim, images)
            run: dict[str, Any] = {"seed": seed, "latent_dim": latent_dim}
            run["cpu_seconds"] = round(time.process_time() - start)
            for name in ("raw", "average"):
                run[name] = movement([look[name] for look in looks.values()], classifier)
            record["runs"].append(run)
            grids += [looks[step]["grid"] for step in SHOWN]
        write_record(file, record)
        if seed == SEEDS[0]:
            write_grids(file.with_suffix(".png"), grids, len(SHOWN), gaps=(0, 8))


if __name__ == "__main__":
    main()
