"""Recipes for digits in equal time: perceptrons and convolutions, dropout or batch norm or R1 in D.

    python benchmarks/digits.py          (about an hour of one CPU core)

Each recipe of RECIPES trains on mnist5k for SECONDS of processor time with each seed, in batches of
64, at constant learning rates. Writes book/results/07_digits.json, for G itself and for the running
average of its weights (decay .998; with dropout .995) at the end of each run:

distance, precision, recall     of 4,500 samples and the 4,500 training images, on the features of
                                the book's digit classifier, k = 3
confidence, shares              the classifier's, of 1,000 samples
lit                             the largest share of 1,000 samples that light (above 0.1) one of the
                                pixels which fewer than one in a thousand real digits light

with the same of mnist5k's 500 test images, and 07_digits.png: 40 samples of each recipe, first
seed, below 40 real digits. What the file holds already is not repeated. The settings were chosen on
seed 100. In bfloat16 where a recipe says so; judged in float32.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import (
    RESULTS,
    adam_state,
    conv_pair,
    go_on,
    maxout_pair,
    new_record,
    verdict,
    write_grids,
)
from torch import Tensor, nn
from torch.nn.functional import softplus

from ganlib import metrics
from ganlib.data import image_sampler, load_images
from ganlib.games import LossAndLogs, gan_loss_d, gan_loss_g, r1_loss_d
from ganlib.models import ConvDiscriminator
from ganlib.records import write_record
from ganlib.rounding import InBfloat16
from ganlib.runs.settings import bare
from ganlib.trainer import State, generate, train

SECONDS, SEEDS, BATCH = 120, (0, 1, 2), 64


def relativistic_loss_d(g: nn.Module, d: nn.Module, batch: Any) -> LossAndLogs:
    """D's loss on pairs of a real and a generated image, and R1 + R2, as of `r1_loss_d`."""
    x_real, z = batch
    with torch.no_grad():
        x_fake = g(z)
    loss = softplus(d(x_fake) - d(x_real)).mean()
    for x in (x_real, x_fake):
        few = x[: len(x) // 4].detach().requires_grad_()
        (slope,) = torch.autograd.grad(d(few).sum(), few, create_graph=True)
        loss = loss + slope.flatten(1).square().sum(1).mean() / 2
    return loss, {}


def relativistic_loss_g(g: nn.Module, d: nn.Module, batch: Any) -> LossAndLogs:
    x_real, z = batch
    return softplus(d(x_real) - d(g(z))).mean(), {}


@dataclass(frozen=True)
class Recipe:
    """Networks, losses and optimizers: what a recipe changes beside the seed."""

    pair: Callable[[Tensor], tuple[nn.Module, nn.Module]]
    latent_dim: int
    lr: tuple[float, float]  # G's and D's
    loss_d: Any = r1_loss_d
    loss_g: Any = gan_loss_g
    betas: tuple[float, float] = (0.0, 0.99)
    average: float = 0.998


def old_pair(batch_norm: bool) -> Callable[[Tensor], tuple[nn.Module, nn.Module]]:
    """Chapter 8's G against a D without a hidden layer."""
    return lambda _: (conv_pair()[0], InBfloat16(ConvDiscriminator(batch_norm=batch_norm)))


DROPOUT: dict[str, Any] = {"loss_d": gan_loss_d, "betas": (0.5, 0.999), "average": 0.995}
BY_THE_RULES: dict[str, Any] = {"pair": old_pair(True), "latent_dim": 64, "loss_d": gan_loss_d}
RECIPES = {
    "perceptrons, dropout": Recipe(
        lambda x: maxout_pair(x, (0.2, 0.5)), 100, (8e-4, 4e-4), **DROPOUT
    ),
    "perceptrons, R1": Recipe(maxout_pair, 100, (1e-3, 1e-3)),
    "convolutions by the rules": Recipe(lr=(2e-4, 2e-4), betas=(0.5, 0.999), **BY_THE_RULES),
    "+ Adam 0.002, betas (0, 0.99)": Recipe(lr=(2e-3, 2e-3), **BY_THE_RULES),
    "+ R1 for batch norm in D": Recipe(old_pair(False), 64, (2e-3, 2e-3)),
    "+ a hidden layer in D": Recipe(lambda _: conv_pair(), 64, (2e-3, 2e-3)),
    "+ relativistic pairs, R1 + R2": Recipe(
        lambda _: conv_pair(), 64, (2e-3, 2e-3), relativistic_loss_d, relativistic_loss_g
    ),
}


def train_one(recipe: Recipe, seed: int, images: Tensor, seconds: float) -> State:
    state = adam_state(
        seed, lambda: recipe.pair(images), *recipe.lr, betas=recipe.betas, average=recipe.average
    )
    draw, start = image_sampler(images, BATCH, recipe.latent_dim), time.process_time()
    while time.process_time() - start < seconds:
        train(state, draw, recipe.loss_d, recipe.loss_g, until=state.step + 20, progress=False)
    return state


def judge(x: Tensor, x_real: Tensor, classifier: metrics.DigitClassifier) -> dict[str, Any]:
    real, found = (metrics.classifier_features(i, classifier) for i in (x_real, x))
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    precision, recall = metrics.precision_and_recall(real[order[: len(found)]], found)
    dark = (x_real > 0.1).float().mean(0) < 0.001
    row = {"distance": metrics.frechet_distance(real, found)}
    row |= {"precision": precision, "recall": recall, **verdict(x[:1000], classifier)}
    return row | {"lit": ((x[:1000] > 0.1).float().mean(0) * dark).max().item()}


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    images, classifier = load_images("mnist5k")[0], metrics.load_digit_classifier()
    x_real, x_test = images.float() / 255, load_images("mnist5k", "test")[0].float() / 255
    file = RESULTS / "07_digits.json"
    record = new_record("digits.py", seconds=SECONDS, batch_size=BATCH, runs=[])
    record = go_on(file, record, lambda record: record["seconds"])
    record["real"] = judge(x_test, x_real, classifier)
    done = {(run["recipe"], run["seed"]) for run in record["runs"]}
    for seed in SEEDS:
        shown = [x_real[:: len(x_real) // 40][:40]]
        for name, recipe in RECIPES.items():
            if (name, seed) in done:
                continue
            state = train_one(recipe, seed, images, SECONDS)
            rng = torch.Generator().manual_seed(1000 + seed)
            z = torch.randn(len(x_real), recipe.latent_dim, generator=rng)
            run: dict[str, Any] = {"recipe": name, "seed": seed, "steps": state.step}
            for kind, network in (("G", state.generator), ("average", state.sampling_generator)):
                x = generate(bare(network), z)
                run[kind] = judge(x, x_real, classifier)
            shown.append(x[:40])
            record["runs"].append(run)
            write_record(file, record)
            print(name, seed, state.step, run["average"], flush=True)
        write_record(file, record)
        if len(shown) == len(RECIPES) + 1 and seed == SEEDS[0]:
            write_grids(file.with_suffix(".png"), shown, 2)


if __name__ == "__main__":
    main()
