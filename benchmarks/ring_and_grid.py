"""Three GANs on PacGAN's ring of 8 and grid of 25 Gaussians, 10 seeds: are all modes found?

    python benchmarks/ring_and_grid.py        (about 75 to 105 minutes of one CPU core)

Writes book/results/10_ring_and_grid.json: a row for each target, method and seed (modes found and
high-quality share of 2,500 samples as in PacGAN, the share of the rarest mode, process time per
seed), their curves over training, 500 points of the first seed of each target and method, and the
provenance. A row that the file already holds is not run again: an interrupted call goes on when it
is made again.

All share networks, batch and number of steps, and each has the same settings on both targets.
`nonsaturating` is `recipe` with the non-saturating loss of G instead of the sum of its two losses.
The settings come from trials on seeds 100 to 107; `recipe` had not been run on seeds 20 to 29
before. (Seeds 10 to 19 had been seen by earlier versions, `nonsaturating` among them, which found
24 of 25 modes of the grid on one of them.)
A group of seeds is trained at once: weight w of all of them is one tensor (seeds, ...), and since
every seed draws from an `rng` of its own and the loss is the sum of the seeds' losses, no seed
sees another. Trained at torch's matmul precision "medium": bfloat16 factors on a CPU with AMX.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu_, softplus
from torch.optim import Adam, Optimizer

from ganlib.data import grid_of_gaussians, ring_of_gaussians
from ganlib.metrics import mode_coverage
from ganlib.runs import provenance

FILE = Path(__file__).parents[1] / "book" / "results" / "10_ring_and_grid.json"
STEPS, BATCH, LATENT_DIM, WIDTH_G, WIDTH_D = 60_000, 256, 2, 128, 128
SEEDS, GROUP = list(range(20, 30)), 5  # five seeds at once
CHECKPOINTS, BLOCK = 20, 50  # curves have 20 points; numbers are drawn for 50 steps at once
TARGETS = {"ring": ring_of_gaussians, "grid": grid_of_gaussians}


@dataclass(frozen=True)
class Settings:
    """What differs between the methods.

    G minimizes the mean of -logit if `both_losses`, which is the sum of the minimax and the
    non-saturating loss, log(1 - D) - log D; else the non-saturating one. Both learning rates fall
    to 0 along half a cosine if `decay`. Real and generated points get Gaussian noise (in units of
    the data's root mean square coordinate) whose width falls from `noise` to `noise_last` by an
    equal factor a step until the share `noise_until` of the steps, and then stays. Samples come
    from a running average of G's weights with decay `average`; 0 is G itself.
    """

    both_losses: bool
    lr_g: float
    lr_d: float
    betas: tuple[float, float]
    decay: bool
    noise: float
    noise_last: float
    noise_until: float
    average: float


METHODS = {
    "recipe": Settings(True, 1e-3, 1e-3, (0.0, 0.999), True, 0.3, 0.02, 0.8, 0.999),
    "plain": Settings(False, 2e-4, 2e-4, (0.5, 0.999), False, 0.0, 0.0, 1.0, 0.0),
    "nonsaturating": Settings(False, 1e-3, 1e-3, (0.0, 0.999), True, 0.3, 0.02, 0.8, 0.999),
}


def stacked_mlp(sizes: list[int], rngs: list[torch.Generator]) -> list[Tensor]:
    """Weights (seeds, in, out), He-uniform, and zero biases (seeds, 1, out), one pair a layer."""
    weights = []
    for n_in, n_out in pairwise(sizes):
        bound = math.sqrt(6 / n_in)
        w = torch.stack([2 * torch.rand(n_in, n_out, generator=rng) - 1 for rng in rngs]) * bound
        weights += [w.requires_grad_(), torch.zeros(len(rngs), 1, n_out, requires_grad=True)]
    return weights


def forward(weights: list[Tensor], x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """(seeds, n, in) to (seeds, n, out); the last layer is linear."""
    *hidden, (w, b) = zip(weights[::2], weights[1::2], strict=True)
    for w_hidden, b_hidden in hidden:
        x = activation(torch.baddbmm(b_hidden, x, w_hidden))
    return torch.baddbmm(b, x, w)


def generator(weights: list[Tensor], z: Tensor) -> Tensor:
    return forward(weights, z, torch.relu_)


def discriminator(weights: list[Tensor], x: Tensor) -> Tensor:
    """Logits (seeds, n)."""
    return forward(weights, x, lambda h: leaky_relu_(h, 0.2)).squeeze(2)


def update(loss: Tensor, weights: list[Tensor], optimizer: Optimizer) -> None:
    for w, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        w.grad = gradient
    optimizer.step()


def train_group(target: str, settings: Settings, seeds: list[int], steps: int) -> list[dict]:
    """Train one GAN for each seed, all at once; a record of each, with a sample of 500 points."""
    start = time.process_time()
    mixture = TARGETS[target]().component_distribution
    centers, std = mixture.mean, mixture.stddev[0, 0].item()
    scale = (centers.square().mean() + std**2).sqrt()  # the networks see data of variance 1
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    g = stacked_mlp([LATENT_DIM, WIDTH_G, WIDTH_G, WIDTH_G, 2], rngs)
    d = stacked_mlp([2, WIDTH_D, WIDTH_D, WIDTH_D, 1], rngs)
    opt_g = Adam(g, lr=settings.lr_g, betas=settings.betas, fused=True)
    opt_d = Adam(d, lr=settings.lr_d, betas=settings.betas, fused=True)
    g_average = [w.detach().clone() for w in g]
    test_rngs = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    test_z = torch.stack([torch.randn(2500, LATENT_DIM, generator=rng) for rng in test_rngs])
    curves = [[] for _ in seeds]

    def draw_block() -> tuple[Tensor, list[Tensor]]:
        """Real points, and six normal draws of width 2 a step, each (BLOCK, seeds, BATCH, 2)."""
        shape = (BLOCK, BATCH)
        mode = torch.stack([torch.randint(len(centers), shape, generator=r) for r in rngs], 1)
        normal = torch.stack([torch.randn(*shape, 12, generator=r) for r in rngs], 1).split(2, 3)
        return (centers[mode] + std * normal[0]) / scale, list(normal[1:])

    for step in range(steps):
        if step % BLOCK == 0:
            block_real, block_normal = draw_block()
        x_real = block_real[step % BLOCK]
        noise_real, z_d, noise_d, z_g, noise_g = (n[step % BLOCK] for n in block_normal)
        noise = settings.noise
        if noise:
            share = min(1.0, step / (settings.noise_until * steps))
            noise *= (settings.noise_last / settings.noise) ** share
        if settings.decay:
            factor = (1 + math.cos(math.pi * step / steps)) / 2
            opt_g.param_groups[0]["lr"] = settings.lr_g * factor
            opt_d.param_groups[0]["lr"] = settings.lr_d * factor

        # L_D and L_G as in ganlib.losses, a mean per seed, summed over the seeds.
        with torch.no_grad():
            x_fake = generator(g, z_d)
        both = torch.cat([x_real + noise * noise_real, x_fake + noise * noise_d], dim=1)
        real_logits, fake_logits = discriminator(d, both).split(BATCH, dim=1)
        update((softplus(-real_logits) + softplus(fake_logits)).mean(1).sum(), d, opt_d)
        fake_logits = discriminator(d, generator(g, z_g) + noise * noise_g)
        losses_g = -fake_logits if settings.both_losses else softplus(-fake_logits)
        update(losses_g.mean(1).sum(), g, opt_g)

        with torch.no_grad():
            keep = settings.average if step else 0.0  # the first update copies G
            for average, w in zip(g_average, g, strict=True):
                average.lerp_(w, 1 - keep)
            if (step + 1) % max(1, steps // CHECKPOINTS) == 0 or step + 1 == steps:
                points = scale * generator(g_average, test_z)
                found = [mode_coverage(x, centers, std) for x in points]
                for curve, (modes, high_quality) in zip(curves, found, strict=True):
                    curve.append([step + 1, modes, round(high_quality, 4)])
                modes, quality = (sum(f[i] for f in found) / len(found) for i in (0, 1))
                print(f"{step + 1:6d} steps: {modes:.1f} modes, {quality:.3f}", flush=True)
    seconds = (time.process_time() - start) / len(seeds)
    shares = [rarest_share(x, centers, std) for x in points]
    rounded = [[[round(u, 3) for u in point] for point in x[:500].tolist()] for x in points]
    return [
        {"seed": seed, "steps": steps, "modes": curve[-1][1], "high_quality": curve[-1][2],
         "rarest": round(share, 4), "cpu_seconds": round(seconds, 1), "curve": curve, "points": xy}
        for seed, curve, share, xy in zip(seeds, curves, shares, rounded, strict=True)
    ]  # fmt: skip


def rarest_share(samples: Tensor, centers: Tensor, std: float) -> float:
    """Share of the samples that are high-quality ones of the rarest mode, times modes (1: even)."""
    distance, nearest = torch.cdist(samples, centers).min(1)
    counts = nearest[distance <= 3 * std].bincount(minlength=len(centers))
    return counts.min().item() * len(centers) / len(samples)


def mean_curves(rows: list[dict]) -> list[dict]:
    """For each target and method: [step, modes, high quality] over training, mean over seeds."""
    curves = []
    for target, method in dict.fromkeys((row["target"], row["method"]) for row in rows):
        runs = [r["curve"] for r in rows if (r["target"], r["method"]) == (target, method)]
        mean = torch.tensor(runs, dtype=torch.float64).mean(0).tolist()
        curve = [[int(step), round(modes, 2), round(share, 4)] for step, modes, share in mean]
        curves.append({"target": target, "method": method, "mean_of": len(runs), "curve": curve})
    return curves


def write(record: dict, file: Path) -> None:
    """One line for each key and for each element of a list, moved into place when complete."""
    lines = []
    for key, value in record.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n  " + ",\n  ".join(json.dumps(v) for v in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    part = file.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    os.replace(part, file)


def read(file: Path) -> dict | None:
    return json.loads(file.read_text()) if file.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", choices=[*TARGETS, "both"], default="both")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--file", type=Path, default=FILE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # Hidden products in bfloat16 where the CPU has them: 1.4 times as many steps a second.
    torch.set_float32_matmul_precision("medium")
    record = {
        "command": "python benchmarks/ring_and_grid.py",
        **provenance(torch.device("cpu")),
        "networks": f"G {LATENT_DIM}-{WIDTH_G}-{WIDTH_G}-{WIDTH_G}-2 ReLU, "
        f"D 2-{WIDTH_D}-{WIDTH_D}-{WIDTH_D}-1 LeakyReLU 0.2, batch {BATCH}",
        "settings": {name: asdict(settings) for name, settings in METHODS.items()},
        "total_cpu_seconds": 0.0,
        "rows": [],
        "curves": [],
        "points": [],
    }
    if (before := read(args.file)) is not None:
        same = json.loads(json.dumps(record))  # tuples as lists
        if any(before[key] != same[key] for key in ("networks", "settings")):
            raise SystemExit(f"{args.file} holds runs with other settings: move it away first")
    for method, settings in METHODS.items():
        for target in TARGETS if args.target == "both" else [args.target]:
            what = {"target": target, "method": method}
            record = read(args.file) or record
            done = [r["seed"] for r in record["rows"] if what.items() <= r.items()]
            left = [seed for seed in args.seeds if seed not in done]
            for seeds in (left[i : i + GROUP] for i in range(0, len(left), GROUP)):
                print(target, method, "seeds", *seeds, flush=True)
                new = [what | run for run in train_group(target, settings, seeds, args.steps)]
                points = [what | {"seed": r["seed"], "points": r.pop("points")} for r in new]
                record = read(args.file) or record  # the other target may run beside this one
                if not done and seeds[0] == left[0]:
                    record["points"].append(points[0])
                rows = record["rows"]
                rows += new
                record["curves"] = mean_curves(rows)
                record["total_cpu_seconds"] = round(sum(r["cpu_seconds"] for r in rows), 1)
                write(record, args.file)


if __name__ == "__main__":
    main()
