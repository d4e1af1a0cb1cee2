"""GANs on PacGAN's ring of 8 and grid of 25 Gaussians, 10 seeds: are all modes found?

    python benchmarks/ring_and_grid.py        (about two and a half hours of one CPU core)

Writes book/results/10_ring_and_grid.json: a row for each target, method and seed (modes found and
high-quality share of 2,500 samples as in PacGAN, the share of the rarest mode, process time per
seed), the mean curves over training, 500 points of the first seed of each target and method, and
the provenance. A row that the file already holds is not run again: an interrupted call goes on when
it is made again; two calls, one a target, may run beside each other.

All methods share networks, batch and number of steps, and each has the same settings on both
targets. `nonsaturating` is `recipe` with the non-saturating loss of G instead of the sum of its two
losses. The settings come from trials on seeds 100 to 107; no method had been run on seeds 30 to 39
before. All ten seeds are trained at once (`ganlib.seeds`), with products of matrices in bfloat16.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, go_on, new_record, scale_lr
from torch import Tensor, nn
from torch.optim import Adam

from ganlib.data import grid_of_gaussians, ring_of_gaussians
from ganlib.games import gan_loss_d
from ganlib.losses import minimax_generator_loss, nonsaturating_generator_loss
from ganlib.metrics import mode_coverage, squared_distances
from ganlib.models import mlp
from ganlib.records import write_record
from ganlib.rounding import InBfloat16
from ganlib.seeds import train_seeds
from ganlib.trainer import State, generate, running_average

FILE = RESULTS / "10_ring_and_grid.json"
STEPS, BATCH, WIDTH, SEEDS = 60_000, 256, 128, list(range(30, 40))
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
    lr: float
    betas: tuple[float, float]
    decay: bool
    noise: float
    noise_last: float
    noise_until: float
    average: float


METHODS = {
    "recipe": Settings(True, 1e-3, (0.0, 0.999), True, 0.3, 0.02, 0.8, 0.999),
    "plain": Settings(False, 2e-4, (0.5, 0.999), False, 0.0, 0.0, 1.0, 0.0),
    "nonsaturating": Settings(False, 1e-3, (0.0, 0.999), True, 0.3, 0.02, 0.8, 0.999),
}


def new_state(settings: Settings, seed: int) -> State:
    """The networks of one seed, their optimizers and, if wanted, the running average."""
    torch.manual_seed(seed)
    generator = mlp([2, WIDTH, WIDTH, WIDTH, 2], nn.ReLU)
    discriminator = mlp([2, WIDTH, WIDTH, WIDTH, 1], partial(nn.LeakyReLU, 0.2))
    for layer in [*generator, *discriminator]:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    generator = InBfloat16(generator)
    discriminator = InBfloat16(discriminator.append(nn.Flatten(0)))
    opt_g, opt_d = (
        Adam(network.parameters(), settings.lr, settings.betas, fused=True)
        for network in (generator, discriminator)
    )
    state = State(generator, discriminator, opt_g, opt_d, torch.Generator().manual_seed(seed))
    if settings.average:
        state.average = running_average(generator, settings.average)
    return state


def loss_d(generator: Any, discriminator: Any, batch: tuple[Tensor, ...]) -> Any:
    """L_D on noisy real points and on generated ones with noise."""
    x_real, z, noise = batch
    noisy: Any = lambda z: generator(z) + noise  # noqa: E731
    return gan_loss_d(noisy, discriminator, (x_real, z))


def loss_g(generator: Any, discriminator: Any, batch: tuple[Tensor, ...], both: bool) -> Any:
    """The non-saturating L_G, or its sum with the minimax one."""
    _, z, noise = batch
    logits = discriminator(generator(z) + noise)
    loss = nonsaturating_generator_loss(logits)
    return loss + minimax_generator_loss(logits) if both else loss, {}


def train_group(target: str, settings: Settings, seeds: list[int], steps: int) -> list[dict]:
    """Train one GAN for each seed, all at once; a record of each, with a sample of 500 points."""
    start = time.process_time()
    components = TARGETS[target]().component_distribution
    centers, std = components.mean, components.stddev[0, 0].item()
    scale = (centers.square().mean() + std**2).sqrt()  # the networks see data of variance 1
    states, level = [new_state(settings, seed) for seed in seeds], torch.tensor(settings.noise)
    rngs = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    test_z = {id(s): torch.randn(2500, 2, generator=r) for s, r in zip(states, rngs, strict=True)}

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        mode = torch.randint(len(centers), (BATCH,), generator=rng)
        spread, noise_real, z, noise_fake = torch.randn(4, BATCH, 2, generator=rng)
        x_real = (centers[mode] + std * spread) / scale
        return x_real + level * noise_real, z, level * noise_fake

    def before_step(state: State) -> None:
        if settings.noise:
            share = min(1.0, state.step / (settings.noise_until * steps))
            level.fill_(settings.noise * (settings.noise_last / settings.noise) ** share)
        if settings.decay:
            scale_lr(state, (1 + math.cos(math.pi * state.step / steps)) / 2)

    def points(state: State) -> Tensor:
        return scale * generate(state.sampling_generator, test_z[id(state)], batch_size=2500)

    every = max(1, steps // 20)
    train_seeds(states, draw, loss_d, partial(loss_g, both=settings.both_losses), until=steps,
                before_step=before_step, snapshot=points, log_every=every,
                snapshot_at=[*range(every, steps, every), steps])  # fmt: skip
    seconds = round((time.process_time() - start) / len(seeds), 1)
    looks = [state.history.snapshots for state in states]
    return [row(seed, x, centers, std, seconds) for seed, x in zip(seeds, looks, strict=True)]


def row(seed: int, looks: dict[int, Tensor], centers: Tensor, std: float, seconds: float) -> dict:
    """What is recorded of one seed, from its samples at some steps; `rarest` is 1 if all are even.

    `rarest` is the share of high-quality samples at the rarest mode, times the number of modes.
    """
    curve = [[step, *mode_coverage(x, centers, std)] for step, x in looks.items()]
    curve = [[step, modes, round(share, 4)] for step, modes, share in curve]
    steps, modes, high_quality = curve[-1]
    squared, nearest = squared_distances(looks[steps], centers).min(1)
    counts = nearest[squared <= (3 * std) ** 2].bincount(minlength=len(centers))
    rarest = round(counts.min().item() * len(centers) / len(nearest), 4)
    xy = [[round(u, 3) for u in point] for point in looks[steps][:500].tolist()]
    return {"seed": seed, "steps": steps, "modes": modes, "high_quality": high_quality,
            "rarest": rarest, "cpu_seconds": seconds, "curve": curve, "points": xy}  # fmt: skip


def mean_curves(rows: list[dict]) -> list[dict]:
    """For each target and method: [step, modes, high quality] over training, mean over seeds."""
    curves = []
    for target, method in dict.fromkeys((row["target"], row["method"]) for row in rows):
        runs = [r["curve"] for r in rows if (r["target"], r["method"]) == (target, method)]
        mean = torch.tensor(runs, dtype=torch.float64).mean(0).tolist()
        curve = [[int(step), round(modes, 2), round(share, 4)] for step, modes, share in mean]
        curves.append({"target": target, "method": method, "mean_of": len(runs), "curve": curve})
    return curves


def add_rows(record: dict, new: list[dict], file: Path) -> None:
    """Add rows to those that the file holds by now, since another call may have written to it."""
    record = json.loads(file.read_text()) if file.exists() else record
    record["points"].append({k: new[0][k] for k in ("target", "method", "seed", "points")})
    record["rows"] += [{k: v for k, v in row.items() if k != "points"} for row in new]
    record["curves"] = mean_curves(record["rows"])
    record["total_cpu_seconds"] = round(sum(row["cpu_seconds"] for row in record["rows"]), 1)
    write_record(file, record)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--file", type=Path, default=FILE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    networks = f"G 2-{WIDTH}-{WIDTH}-{WIDTH}-2 ReLU, D 2-{WIDTH}-{WIDTH}-{WIDTH}-1 LeakyReLU 0.2"
    networks += f", batch {BATCH}, products in bfloat16"
    record = new_record(
        "ring_and_grid.py", networks=networks, settings={n: asdict(m) for n, m in METHODS.items()},
        total_cpu_seconds=0.0, rows=[], curves=[], points=[],
    )  # fmt: skip
    record = go_on(args.file, record, lambda r: (r["networks"], r["settings"]))
    for method in args.method:
        for target in args.target:
            what = {"target": target, "method": method}
            done = [r["seed"] for r in record["rows"] if what.items() <= r.items()]
            if seeds := [seed for seed in args.seeds if seed not in done]:
                print(target, method, "seeds", *seeds, flush=True)
                rows = train_group(target, METHODS[method], seeds, args.steps)
                add_rows(record, [what | row for row in rows], args.file)


if __name__ == "__main__":
    main()
