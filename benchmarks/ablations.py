"""Well-known tips for training GANs, each tried alone on the grid of 25 Gaussians and on mnist5k.

    python benchmarks/ablations.py            (about half an hour of one CPU core)

Writes book/results/10_ablations.json after each row; rows that the file already holds are kept (a
file of another seed is refused). A row is one tip on one task: several runs, whose seeds are the
same for every tip, so that tips which leave the networks' shapes as they are begin with the same
weights. Outcomes of a run on the grid: modes found and high-quality share (`mode_coverage`, 2,500
samples); on the digits: how many of the ten have a share of at least 2 % by the classifier, and the
Fréchet distance of its features from those of the training images (2,500 samples). The base and the
strength of each tip were chosen on other runs, with --seed 100 and fewer of them.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from common import RESULTS, go_on, new_record, scale_lr
from torch import Tensor, nn
from torch.func import grad
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam

from ganlib.data import grid_of_gaussians, load_images, sample_mixture
from ganlib.losses import fake_loss, minimax_generator_loss, nonsaturating_generator_loss, real_loss
from ganlib.metrics import (
    classifier_features,
    frechet_distance,
    judge_digits,
    load_digit_classifier,
    mode_coverage,
)
from ganlib.models import MLPGenerator, mlp
from ganlib.records import write_record
from ganlib.seeds import train_seeds
from ganlib.trainer import Loss, State, generate, running_average, train, weights_of

OUT = RESULTS / "10_ablations.json"
FACTS = ("steps", "runs", "batch_size", "lr", "latent_dim", "hidden", "base")


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


TIPS: dict[str, dict[str, Any]] = {
    "base": {},
    "beta1-09": {"beta1": 0.9},
    "beta1-0": {"beta1": 0.0},
    "minimax": {"minimax": True},
    "both-losses": {"both_losses": True},
    "smoothing": {"real_target": 0.9},
    "noise": {"noise": 0.3},
    "k-5": {"n_critic": 5},
    "fast-d": {"speed_d": 4},
    "fast-g": {"speed_g": 4},
    "decay": {"decay": True},
    "average": {"average": 0.995},
    "dropout": {"dropout": 0.3},
    "batch-norm": {"batch_norm": True},
    "relu": {"slope": 0.0},
    "uniform-z": {"uniform_z": True},
    "clip": {"clip": 1.0},
    "r1": {"r1": 0.1},
    "wide-d": {"widen_d": 4},
    "pack": {"pack": 2},
    "together": {"noise": 0.3, "speed_d": 4, "average": 0.995, "decay": True},
}


@dataclass(frozen=True)
class Task:
    steps: int
    runs: int
    together: bool  # all runs at once, worth it where the networks are small
    batch_size: int
    lr: float
    latent_dim: int
    hidden: int  # units in each of the two hidden layers of G and of D
    data_dim: int
    draw: Callable[[int, torch.Generator], Tensor]
    evaluate: Callable[[Tensor], dict[str, float]]
    output: Callable[[], nn.Module] = nn.Identity
    base: dict[str, Any] = field(default_factory=dict)  # what its base has of the tips already

    def settings(self, tip: str) -> Settings:
        """The base with one tip; a tip of which the base has its own form is taken away."""
        changes = {k: v for k, v in TIPS[tip].items() if k not in self.base}
        kept = {k: v for k, v in self.base.items() if k not in TIPS[tip]}
        return Settings(**kept, **changes)


def new_state(task: Task, settings: Settings, seed: int) -> State:
    """Networks for points (n, data_dim), and their optimizers."""
    torch.manual_seed(seed)
    dim, width = task.data_dim, task.hidden * settings.widen_d
    hidden, norms = 2 * [task.hidden], settings.batch_norm
    layers = MLPGenerator(task.latent_dim, hidden, (1, 1, dim), batch_norm=norms).layers
    generator = nn.Sequential(layers, task.output())

    def activation() -> nn.Module:
        return nn.Sequential(nn.LeakyReLU(settings.slope), nn.Dropout(settings.dropout))

    judge = mlp([settings.pack * dim, width, width, 1], activation)
    packs = nn.Unflatten(0, (-1, settings.pack))
    discriminator = nn.Sequential(packs, nn.Flatten(), judge, nn.Flatten(0))
    opt_g, opt_d = (
        Adam(network.parameters(), task.lr * speed, (settings.beta1, 0.999), fused=True)
        for network, speed in ((generator, settings.speed_g), (discriminator, settings.speed_d))
    )
    if settings.clip < math.inf:
        for opt in (opt_g, opt_d):
            opt.register_step_pre_hook(partial(clip, settings.clip))
    state = State(generator, discriminator, opt_g, opt_d, torch.Generator().manual_seed(seed))
    if settings.average:
        state.average = running_average(generator, settings.average)
    return state


def clip(largest: float, optimizer: Adam, *_: Any) -> None:
    clip_grad_norm_(weights_of(optimizer), largest)


def game(settings: Settings, level: Tensor) -> tuple[Loss, Loss]:
    """D's loss and G's; the noise on D's inputs has the width `level`."""

    def noisy(x: Tensor) -> Tensor:
        return x + level * torch.randn_like(x) if settings.noise else x

    def loss_d(generator: nn.Module, discriminator: nn.Module, batch: Any) -> Any:
        x_real, z = noisy(batch[0]), batch[1]
        with torch.no_grad():
            x_fake = noisy(generator(z))
        real_logits, fake_logits = discriminator(x_real), discriminator(x_fake)
        loss = settings.real_target * real_loss(real_logits) + fake_loss(fake_logits)
        loss = loss + (1 - settings.real_target) * fake_loss(real_logits)
        if settings.r1:
            slope = grad(lambda x: discriminator(x).sum())(x_real)
            loss = loss + settings.r1 / 2 * slope.square().sum(1).mean()
        return loss, {}

    def loss_g(generator: nn.Module, discriminator: nn.Module, batch: Any) -> Any:
        logits = discriminator(noisy(generator(batch[1])))
        minimax, usual = minimax_generator_loss(logits), nonsaturating_generator_loss(logits)
        if settings.both_losses:
            return minimax + usual, {}
        return minimax if settings.minimax else usual, {}

    return loss_d, loss_g


def train_runs(task: Task, settings: Settings, seed: int) -> list[dict[str, float]]:
    """Train the runs, seeds `seed`, `seed` + 1, ..., and return the outcome of each."""
    seeds, level = range(seed, seed + task.runs), torch.tensor(settings.noise)
    states = [new_state(task, settings, seed) for seed in seeds]

    def latents(n: int, rng: torch.Generator) -> Tensor:
        if settings.uniform_z:
            return (2 * torch.rand(n, task.latent_dim, generator=rng) - 1) * math.sqrt(3)
        return torch.randn(n, task.latent_dim, generator=rng)

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return task.draw(task.batch_size, rng), latents(task.batch_size, rng)

    def before_step(state: State) -> None:
        level.fill_(settings.noise * max(0.0, 1 - state.step / (0.6 * task.steps)))
        if settings.decay:
            scale_lr(state, (1 + math.cos(math.pi * state.step / task.steps)) / 2)

    # Running means, and a hook that clips, belong to one run: such runs go one by one.
    together = task.together and not settings.batch_norm and settings.clip == math.inf
    loss_d, loss_g = game(settings, level)
    go: Any = partial(
        train_seeds if together else train, draw=draw, loss_d=loss_d, loss_g=loss_g,
        until=task.steps, n_critic=settings.n_critic, before_step=before_step,
        log_every=task.steps, progress=False,
    )  # fmt: skip
    for part in [states] if together else states:
        go(part)
    test_z = [latents(2500, torch.Generator().manual_seed(1000 + seed)) for seed in seeds]
    pairs = zip(states, test_z, strict=True)
    return [task.evaluate(generate(state.sampling_generator, z)) for state, z in pairs]


def grid_task() -> Task:
    """The grid of 25, divided by the standard deviation of its coordinates, sqrt 8."""
    grid, scale, std = grid_of_gaussians(), math.sqrt(8), 0.05
    centers = grid.component_distribution.mean
    return Task(2500, 10, True, 128, 1e-3, 2, 64, 2,
                lambda n, rng: sample_mixture(grid, n, rng) / scale,
                lambda samples: mode_coverage(samples * scale, centers, std)._asdict())  # fmt: skip


def digits_task() -> Task:
    images = load_images("mnist5k")[0].float().reshape(-1, 784) / 255
    classifier = load_digit_classifier()
    real = classifier_features(images.reshape(-1, 1, 28, 28), classifier)

    def draw(n: int, rng: torch.Generator) -> Tensor:
        return images[torch.randint(len(images), (n,), generator=rng)]

    def evaluate(samples: Tensor) -> dict[str, float]:
        fakes = samples.reshape(-1, 1, 28, 28)
        digits = int((judge_digits(fakes, classifier).shares >= 0.02).sum())
        distance = frechet_distance(real, classifier_features(fakes, classifier))
        return {"digits": digits, "distance": distance}

    base = {"batch_norm": True, "r1": 1.0}
    return Task(800, 5, False, 64, 1e-3, 32, 128, 784, draw, evaluate, nn.Sigmoid, base)


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
    tasks = {"grid": grid_task(), "digits": digits_task()}
    facts = {name: {fact: getattr(task, fact) for fact in FACTS} for name, task in tasks.items()}
    facts = {name: {**task, "rows": {}} for name, task in facts.items()}
    command = "ablations.py" + (f" --seed {seed}" if seed else "")
    record = go_on(OUT, new_record(command, seed=seed, cpu_seconds=0, tasks=facts), setup)
    for name, task in tasks.items():
        rows = record["tasks"][name]["rows"]
        for tip in TIPS:
            if tip in rows:
                continue
            start = time.process_time()
            outcomes = train_runs(task, task.settings(tip), seed)
            seconds = time.process_time() - start
            rows[tip] = {"cpu_seconds": round(seconds, 1)}
            for key in outcomes[0]:
                rows[tip][key] = [round(run[key], 4) for run in outcomes]
            record["cpu_seconds"] = round(record["cpu_seconds"] + seconds)
            write_record(OUT, record)
            print(name, tip, rows[tip], flush=True)


if __name__ == "__main__":
    main()
