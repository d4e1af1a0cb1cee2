"""Latent sizes 2 and 8: how far does the map z -> digit move while the convolutional GAN trains?

    python benchmarks/latent_sizes.py            (about 20 minutes of one CPU core)

Trains the networks of chapter 8 on mnist5k by its losses and optimizers, for each latent size and
seed, and looks at them every 300 steps: the class (by the book's classifier) of G(z) for 500 fixed
z. Writes book/results/08_latent_sizes.json with, for each run and for both the generator and its
running average,

changed      share of the z whose class differs from that at the look before
agreement    share of the z of one class at looks s and t, for all s and t
moved        distance of G(z) now and at the look before, over that of G(z) and G(z'), means

and the losses and gradient norms of the runs' last tenths (means), and for the first seed two
pictures, by the average of G: 08_latent_sizes.png, grids over Gaussian quantiles of the first two
numbers, the others 0; and 08_map.png, from top to bottom the maps of 16 x 16 latents of two
numbers after the steps in MAPS. What the file already holds is not repeated. Trained in bfloat16,
looked at in float32.
"""

import time
from itertools import pairwise
from typing import Any

import torch
from common import RESULTS, conv_pair, go_on, new_record, r1_state, verdict, write_grids
from PIL import Image
from torch import Tensor

from ganlib.data import image_sampler, load_images
from ganlib.games import gan_loss_g, r1_loss_d
from ganlib.metrics import DigitClassifier, load_digit_classifier
from ganlib.plotting import image_array
from ganlib.records import replacing, write_record
from ganlib.runs.settings import bare
from ganlib.trainer import State, generate, train

SETTINGS = {"steps": 3000, "every": 300, "batch_size": 64, "lr": 2e-3, "n_z": 500,
            "precision": "bf16 autocast"}  # fmt: skip
LATENT_DIMS, SEEDS, SHOWN = (2, 8), (0, 1, 2), (900, 1500, 2100, 3000)
MAPS = (0, 50, 100, 150, 200, 300, 400, 500, 600, 900, 1200, 1500, 2000, 2500, 3000)


def quantile_grid(side: int, latent_dim: int) -> Tensor:
    """Latents (side^2, latent_dim) at Gaussian quantiles of coordinates 0 and 1, the others 0."""
    line = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    z = torch.zeros(side, side, latent_dim)
    z[..., 0], z[..., 1] = line, line[:, None]
    return z.flatten(0, 1)


def train_one(seed: int, latent_dim: int, images: Tensor) -> State:
    """Trained; the snapshots hold G(z) and average(z) for the fixed z, and two maps."""
    state = r1_state(seed, lambda: conv_pair(latent_dim), SETTINGS["lr"])
    rng = torch.Generator().manual_seed(1000 + seed)
    z = torch.randn(SETTINGS["n_z"], latent_dim, generator=rng)
    grid, fine = quantile_grid(8, latent_dim), quantile_grid(16, latent_dim)

    def snapshot(state: State) -> dict[str, Tensor]:
        raw, average = bare(state.generator), bare(state.sampling_generator)
        return {"raw": generate(raw, z), "average": generate(average, z),
                "grid": generate(average, grid), "map": generate(average, fine)}  # fmt: skip

    every = range(SETTINGS["every"], SETTINGS["steps"] + 1, SETTINGS["every"])
    draw = image_sampler(images, SETTINGS["batch_size"], latent_dim)
    train(state, draw, r1_loss_d, gan_loss_g, until=SETTINGS["steps"], snapshot=snapshot,
          snapshot_at={*every, *MAPS})  # fmt: skip
    return state


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


def write_map(looks: dict[int, dict[str, Tensor]]) -> None:
    frames = [torch.from_numpy(image_array(looks[step]["map"], 16, pad=0)) for step in MAPS]
    array = (255 * torch.cat(frames) + 0.5).to(torch.uint8).numpy()
    with replacing(RESULTS / "08_map.png") as png:
        Image.fromarray(array).quantize(16).save(png, "PNG", optimize=True)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    images, classifier = load_images("mnist5k")[0], load_digit_classifier()
    file = RESULTS / "08_latent_sizes.json"
    record = new_record("latent_sizes.py", settings=SETTINGS, maps=MAPS, runs=[])
    record = go_on(file, record, lambda record: record["settings"])
    done = {run["seed"] for run in record["runs"]}
    for seed in [seed for seed in SEEDS if seed not in done]:
        grids = []
        for latent_dim in LATENT_DIMS:
            start = time.process_time()
            state = train_one(seed, latent_dim, images)
            looks, history = state.history.snapshots, state.history
            run: dict[str, Any] = {"seed": seed, "latent_dim": latent_dim}
            run["cpu_seconds"] = round(time.process_time() - start)
            for name in ("loss/D", "loss/G", "grad/D", "grad/G"):
                values = history.series(name)[1]
                run[name] = float(values[-max(len(values) // 10, 1) :].mean())
            seen = [look for step, look in looks.items() if step and not step % SETTINGS["every"]]
            for name in ("raw", "average"):
                run[name] = movement([look[name] for look in seen], classifier)
            record["runs"].append(run)
            grids += [looks[step]["grid"] for step in SHOWN]
            if (seed, latent_dim) == (SEEDS[0], LATENT_DIMS[0]):
                write_map(looks)
        write_record(file, record)
        if seed == SEEDS[0]:
            write_grids(file.with_suffix(".png"), grids, len(SHOWN), gaps=(0, 8))


if __name__ == "__main__":
    main()
