"""Well-known tips for training GANs, each tried alone on the grid of 25 Gaussians and on mnist5k.

    python benchmarks/ablations.py            (about a quarter of an hour of one CPU core)

Writes book/results/10_ablations.json after each row; rows that the file already holds are kept (a
file of another seed is refused). A row is one tip on one task: several runs, each from its own
random weights, which are the same for every tip that leaves the networks' shapes as they are.
Outcomes of a run on the grid: modes found and high-quality share (`mode_coverage`, 2,500 samples);
on the digits: the classifier's mean confidence and how many of the ten digits have a share of at
least 2 % among 1,000 samples. The base and the strength of each tip were chosen on other runs,
with --seed 100 and fewer of them.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, leaky_relu

from ganlib.data import grid_of_gaussians, load_images, sample_mixture
from ganlib.losses import (
    fake_loss,
    minimax_generator_loss,
    nonsaturating_generator_loss,
    real_loss,
)
from ganlib.metrics import judge_digits, load_digit_classifier, mode_coverage
from ganlib.runs import provenance
from ganlib.trainer import State, running_average, train_step

OUT = Path(__file__).parents[1] / "book" / "results" / "10_ablations.json"
COMMAND = "python benchmarks/ablations.py"


@dataclass(frozen=True)
class Settings:
    """The base; a tip replaces some of it."""

    beta1: float = 0.5  # of both Adams; beta2 is 0.999
    n_critic: int = 1
    minimax: bool = False
    both_losses: bool = False  # G minimizes the minimax plus the non-saturating loss
    real_target: float = 1.0
    noise: float = 0.0  # std on D's inputs at the start, falling to 0 at 60 % of the steps
    dropout: float = 0.0  # in D
    batch_norm: bool = False  # in G
    slope: float = 0.2  # of D's LeakyReLU; 0 is ReLU
    widen_d: int = 1  # factor on D's hidden units
    uniform_z: bool = False  # of the same mean and variance as the normal one
    average: float = 0.0  # decay of the running average of G that is judged
    speed_g: float = 1.0  # factor on G's learning rate
    speed_d: float = 1.0
    decay: bool = False  # both learning rates fall to 0 along a half cosine
    clip: float = math.inf  # largest gradient norm of a network
    r1: float = 0.0  # D pays r1 / 2 times the mean squared slope of its logit at real data
    pack: int = 1  # samples that D judges at once


TIPS: dict[str, Settings] = {
    "base": Settings(),
    "beta1-09": Settings(beta1=0.9),
    "beta1-0": Settings(beta1=0.0),
    "minimax": Settings(minimax=True),
    "both-losses": Settings(both_losses=True),
    "smoothing": Settings(real_target=0.9),
    "noise": Settings(noise=0.1),
    "k-5": Settings(n_critic=5),
    "fast-d": Settings(speed_d=4),
    "fast-g": Settings(speed_g=4),
    "decay": Settings(decay=True),
    "average": Settings(average=0.995),
    "dropout": Settings(dropout=0.3),
    "batch-norm": Settings(batch_norm=True),
    "relu": Settings(slope=0.0),
    "uniform-z": Settings(uniform_z=True),
    "clip": Settings(clip=1.0),
    "r1": Settings(r1=0.1),
    "wide-d": Settings(widen_d=4),
    "pack": Settings(pack=2),
    "together": Settings(noise=0.1, speed_d=4, average=0.995, decay=True),
}


@dataclass(frozen=True)
class Task:
    steps: int
    runs: int
    at_once: int  # runs trained side by side, worth it where the networks are small
    batch_size: int
    lr: float
    latent_dim: int
    hidden: int  # units in each of the two hidden layers of G and of D
    data_dim: int
    draw: Callable[[int, torch.Generator], Tensor]
    evaluate: Callable[[Tensor], dict[str, float]]
    output: Callable[[Tensor], Tensor] = lambda x: x


class Linears(nn.Module):
    """A linear layer for each of several runs, (runs, n, n_in) to (runs, n, n_out)."""

    def __init__(self, runs: int, n_in: int, n_out: int):
        super().__init__()
        bound = n_in**-0.5  # as torch.nn.Linear draws its weights
        self.weight = nn.Parameter(torch.empty(runs, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(runs, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Generators(nn.Module):
    """Latents (runs, n, latent_dim) to samples (runs, n, data_dim)."""

    def __init__(self, task: Task, settings: Settings):
        super().__init__()
        sizes = [task.latent_dim, task.hidden, task.hidden, task.data_dim]
        self.linears = nn.ModuleList(Linears(task.at_once, *pair) for pair in pairwise(sizes))
        units = task.at_once * task.hidden
        self.norms = nn.ModuleList(nn.BatchNorm1d(units) for _ in range(2 * settings.batch_norm))
        self.output = task.output

    def forward(self, z: Tensor) -> Tensor:
        h = z
        for i, linear in enumerate(self.linears[:-1]):
            h = linear(h)
            if len(self.norms):  # one batch norm over the units of all runs
                runs, n, width = h.shape
                flat = self.norms[i](h.transpose(0, 1).reshape(n, runs * width))
                h = flat.reshape(n, runs, width).transpose(0, 1)
            h = h.relu()
        return self.output(self.linears[-1](h))


class Discriminators(nn.Module):
    """Samples (runs, n, data_dim) to logits (runs, n / pack)."""

    def __init__(self, task: Task, settings: Settings):
        super().__init__()
        hidden = task.hidden * settings.widen_d
        sizes = [settings.pack * task.data_dim, hidden, hidden, 1]
        self.linears = nn.ModuleList(Linears(task.at_once, *pair) for pair in pairwise(sizes))
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        h = x.reshape(len(x), -1, self.settings.pack * x.shape[2])
        for linear in self.linears[:-1]:
            h = leaky_relu(linear(h), self.settings.slope)
            if self.settings.dropout:
                h = dropout(h, self.settings.dropout)
        return self.linears[-1](h).squeeze(2)


def per_run(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Sum over runs of each run's mean loss, so that no run changes another's gradient."""
    return len(logits) * loss(logits.flatten())


def losses(settings: Settings, noise: Callable[[], float]) -> tuple[Callable, Callable]:
    """D's loss and G's, as `train_step` reads them."""

    def noisy(x: Tensor) -> Tensor:
        return x + noise() * torch.randn_like(x) if settings.noise else x

    def loss_d(generators: nn.Module, discriminators: nn.Module, batch: tuple) -> tuple:
        x_real, z = batch
        with torch.no_grad():
            x_fake = noisy(generators(z))
        x_real = noisy(x_real).requires_grad_(settings.r1 > 0)
        logits = discriminators(torch.cat([x_real, x_fake], dim=1))
        real_logits, fake_logits = logits.tensor_split(2, dim=1)
        loss = settings.real_target * per_run(real_loss, real_logits)
        loss = loss + (1 - settings.real_target) * per_run(fake_loss, real_logits)
        loss = loss + per_run(fake_loss, fake_logits)
        if settings.r1:
            (slope,) = torch.autograd.grad(real_logits.sum(), x_real, create_graph=True)
            loss = loss + settings.r1 / 2 * slope.square().sum(2).mean(1).sum()
        return loss, {}

    def loss_g(generators: nn.Module, discriminators: nn.Module, batch: tuple) -> tuple:
        logits = discriminators(noisy(generators(batch[1])))
        minimax = per_run(minimax_generator_loss, logits)
        nonsaturating = per_run(nonsaturating_generator_loss, logits)
        if settings.both_losses:
            return minimax + nonsaturating, {}
        return minimax if settings.minimax else nonsaturating, {}

    return loss_d, loss_g


def clip_each_run(optimizer: torch.optim.Optimizer, largest: float) -> None:
    gradients = [p.grad for p in optimizer.param_groups[0]["params"]]
    norm = torch.stack([g.square().sum((1, 2)) for g in gradients]).sum(0).sqrt()
    factor = (largest / norm.clamp(min=1e-12)).clamp(max=1)
    for g in gradients:
        g.mul_(factor[:, None, None])


def train_runs(task: Task, settings: Settings, seed: int) -> list[dict[str, float]]:
    """Train `at_once` runs and return the outcome of each."""
    torch.manual_seed(seed)
    networks = Generators(task, settings), Discriminators(task, settings)
    rates = task.lr * settings.speed_g, task.lr * settings.speed_d
    opts = [
        torch.optim.Adam(net.parameters(), lr=lr, betas=(settings.beta1, 0.999), fused=True)
        for net, lr in zip(networks, rates, strict=True)
    ]
    rng = torch.Generator().manual_seed(seed)
    state = State(networks[0], networks[1], opts[0], opts[1], rng)
    if settings.average:
        state.average = running_average(state.generator, settings.average)
    if settings.clip < math.inf:
        for opt in opts:
            opt.register_step_pre_hook(lambda opt, *_: clip_each_run(opt, settings.clip))

    def latents(n: int, rng: torch.Generator) -> Tensor:
        shape = (task.at_once, n, task.latent_dim)
        if settings.uniform_z:
            return (2 * torch.rand(shape, generator=rng) - 1) * math.sqrt(3)
        return torch.randn(shape, generator=rng)

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x = task.draw(task.at_once * task.batch_size, rng)
        return x.reshape(task.at_once, task.batch_size, -1), latents(task.batch_size, rng)

    def noise() -> float:
        return settings.noise * max(0.0, 1 - state.step / (0.6 * task.steps))

    loss_d, loss_g = losses(settings, noise)
    while state.step < task.steps:
        cosine = (1 + math.cos(math.pi * state.step / task.steps)) / 2
        for opt, lr in zip(opts, rates, strict=True):
            opt.param_groups[0]["lr"] = lr * (cosine if settings.decay else 1)
        train_step(state, draw, loss_d, loss_g, settings.n_critic)
        state.step += 1
        if state.average is not None:
            state.average.update_parameters(state.generator)
    z = latents(2500, torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        return [task.evaluate(x) for x in state.sampling_generator.eval()(z)]


def grid_task() -> Task:
    """The grid of 25, divided by the standard deviation of its coordinates, sqrt 8."""
    grid, scale, std = grid_of_gaussians(), math.sqrt(8), 0.05
    centers = grid.component_distribution.mean

    def evaluate(samples: Tensor) -> dict[str, float]:
        return mode_coverage(samples * scale, centers, std)._asdict()

    def draw(n: int, rng: torch.Generator) -> Tensor:
        return sample_mixture(grid, n, rng) / scale

    return Task(2500, 10, 10, 128, 1e-3, 2, 64, 2, draw, evaluate)


def digits_task() -> Task:
    images = load_images("mnist5k")[0].float().reshape(-1, 784) / 255
    classifier = load_digit_classifier()

    def draw(n: int, rng: torch.Generator) -> Tensor:
        return images[torch.randint(len(images), (n,), generator=rng)]

    def evaluate(samples: Tensor) -> dict[str, float]:
        confidence, shares = judge_digits(samples[:1000].reshape(-1, 1, 28, 28), classifier)
        return {"confidence": confidence, "digits": int((shares >= 0.02).sum())}

    return Task(800, 5, 1, 64, 5e-4, 32, 128, 784, draw, evaluate, torch.sigmoid)


def save(record: dict) -> None:
    OUT.parent.mkdir(exist_ok=True)
    part = OUT.with_name(f".{OUT.name}.{os.getpid()}")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, OUT)


def setup(record: dict) -> dict:
    """What all rows of a record have in common."""
    tasks = {name: {**task, "rows": None} for name, task in record["tasks"].items()}
    return {"seed": record["seed"], "tasks": tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    record = {
        "command": COMMAND + (f" --seed {seed}" if seed else ""),
        **provenance(torch.device("cpu")),
        "seed": seed,
        "cpu_seconds": 0,
        "tasks": {},
    }
    tasks = {"grid": grid_task(), "digits": digits_task()}
    facts = ("steps", "runs", "batch_size", "lr", "latent_dim", "hidden")
    for name, task in tasks.items():
        record["tasks"][name] = {fact: getattr(task, fact) for fact in facts} | {"rows": {}}
    if OUT.exists():
        new, record = record, json.loads(OUT.read_text())
        if setup(new) != setup(record):
            raise SystemExit(f"{OUT} holds runs of another seed or setup: move it away first")
    for name, task in tasks.items():
        rows = record["tasks"][name]["rows"]
        for tip, settings in TIPS.items():
            if tip in rows:
                continue
            start, outcomes = time.process_time(), []
            for first in range(0, task.runs, task.at_once):
                outcomes += train_runs(task, settings, seed + first)
            seconds = time.process_time() - start
            rows[tip] = {"cpu_seconds": round(seconds, 1)}
            for key in outcomes[0]:
                rows[tip][key] = [round(run[key], 4) for run in outcomes]
            record["cpu_seconds"] = round(record["cpu_seconds"] + seconds)
            save(record)
            print(name, tip, rows[tip], flush=True)


if __name__ == "__main__":
    main()
