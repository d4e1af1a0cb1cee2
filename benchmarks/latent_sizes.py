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
file already holds is not repeated. Forward passes run in bfloat16 (autocast).
"""

import json
import os
import time
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

import ganlib
from ganlib.data import image_sampler, load_images
from ganlib.losses import gan_loss_d, gan_loss_g
from ganlib.metrics import judge_digits, load_digit_classifier
from ganlib.models import ConvDiscriminator, ConvGenerator, DigitClassifier
from ganlib.plotting import image_array
from ganlib.trainer import State, generate, running_average, train, train_step

SETTINGS = {"steps": 2000, "every": 200, "batch_size": 32, "lr_g": 2e-3, "lr_d": 5e-4,
            "decay": 0.995, "n_z": 500, "precision": "bf16 autocast"}  # fmt: skip
LATENT_DIMS, SEEDS, SHOWN = (2, 8), (0, 1, 2), (800, 1200, 1600, 2000)
FOLDER = Path(__file__).parents[1] / "book" / "results"


def quantile_grid(side: int, latent_dim: int) -> torch.Tensor:
    """Latents (side^2, latent_dim) at Gaussian quantiles of coordinates 0 and 1, the others 0."""
    line = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    z = torch.zeros(side, side, latent_dim)
    z[..., 0], z[..., 1] = line, line[:, None]
    return z.flatten(0, 1)


def bf16_step(*args: object) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        return train_step(*args)  # type: ignore[arg-type]


def train_one(seed: int, latent_dim: int, images: torch.Tensor) -> State:
    """The trained state; its snapshots hold G(z) and average(z) for the fixed z, and a grid."""
    torch.manual_seed(seed)
    networks = ConvGenerator(latent_dim, bias=True), ConvDiscriminator()
    opt_g, opt_d = (
        torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999), fused=True)
        for network, lr in zip(networks, (SETTINGS["lr_g"], SETTINGS["lr_d"]), strict=True)
    )
    state = State(*networks, opt_g, opt_d, torch.Generator().manual_seed(seed))
    state.average = running_average(state.generator, SETTINGS["decay"])
    rng = torch.Generator().manual_seed(1000 + seed)
    z = torch.randn(SETTINGS["n_z"], latent_dim, generator=rng)
    grid = quantile_grid(8, latent_dim)

    def snapshot(average: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {"raw": generate(state.generator, z), "average": generate(average, z),
                "grid": generate(average, grid)}  # fmt: skip

    every = range(SETTINGS["every"], SETTINGS["steps"] + 1, SETTINGS["every"])
    draw = image_sampler(images, SETTINGS["batch_size"], latent_dim)
    train(state, draw, gan_loss_d, gan_loss_g, until=SETTINGS["steps"], step=bf16_step,
          snapshot=snapshot, snapshot_at=every)  # fmt: skip
    return state


def movement(frames: list[torch.Tensor], classifier: DigitClassifier) -> dict[str, object]:
    with torch.no_grad():
        classes = torch.stack([classifier(x).argmax(1) for x in frames])
    agreement = (classes[:, None] == classes).double().mean(2)
    moved = []
    for before, now in pairwise(frames):
        between = (now - now.roll(1, 0)).flatten(1).norm(dim=1).mean()
        moved.append(((now - before).flatten(1).norm(dim=1).mean() / between).item())
    confidence, shares = judge_digits(frames[-1], classifier)
    return {"changed": (1 - agreement.diagonal(1)).tolist(), "agreement": agreement.tolist(),
            "moved": moved, "confidence": confidence, "shares": shares.tolist()}  # fmt: skip


def save(record: dict[str, object]) -> None:
    part = FOLDER / ".08_latent_sizes.part"
    text = json.dumps(record, indent=1)
    part.write_text(text + "\n")
    os.replace(part, FOLDER / "08_latent_sizes.json")


def main() -> None:
    torch.set_num_threads(1)
    images, _ = load_images("mnist5k")
    classifier, path = load_digit_classifier(), FOLDER / "08_latent_sizes.json"
    record = {
        "command": "python benchmarks/latent_sizes.py",
        "date": time.strftime("%Y-%m-%d"),
        "device": "1 thread of a CPU",
        "torch": torch.__version__,
        "ganlib": ganlib.__version__,
        "settings": SETTINGS,
        "runs": [],
    }
    if path.exists():
        old = json.loads(path.read_text())
        record["runs"] = old["runs"] if old["settings"] == SETTINGS else []
    done = {run["seed"] for run in record["runs"]}
    for seed in [seed for seed in SEEDS if seed not in done]:
        grids = []
        for latent_dim in LATENT_DIMS:
            start = time.process_time()
            looks = list(train_one(seed, latent_dim, images).history.snapshots.values())
            seconds = round(time.process_time() - start)
            run: dict[str, object] = {
                "seed": seed,
                "latent_dim": latent_dim,
                "cpu_seconds": seconds,
            }
            for name in ("raw", "average"):
                run[name] = movement([look[name] for look in looks], classifier)
            record["runs"].append(run)
            grids += [looks[step // SETTINGS["every"] - 1]["grid"] for step in SHOWN]
        save(record)
        if seed == SEEDS[0]:
            tiles = [torch.from_numpy(image_array(x, columns=8, pad=0)) for x in grids]
            array = image_array(torch.stack(tiles)[:, None], columns=len(SHOWN), pad=8)
            picture = Image.fromarray((255 * array + 0.5).astype("uint8")).quantize(16)
            picture.save(FOLDER / "08_latent_sizes.png", optimize=True)


if __name__ == "__main__":
    main()
