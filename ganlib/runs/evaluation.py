"""Pictures of a run's generator, and chapter 9's measures of them beside real images."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from ganlib.data import DIGITS, load_images
from ganlib.metrics import (
    DigitClassifier,
    classifier_features,
    frechet_distance,
    judge_digits,
    load_digit_classifier,
    nearest_neighbors,
    parzen_score,
    precision_and_recall,
)
from ganlib.trainer import generate

BLOCK = 64


def draw_latents(n: int, latent_dim: int, seed: int) -> Tensor:
    """Standard normal latents (n, latent_dim), of which the i-th depends on seed and i alone.

    Each is drawn by a call of its own: how one call of `torch.randn` takes its numbers from the
    rng depends on how many there are.
    """
    rng = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(latent_dim, generator=rng) for _ in range(n)])


def draw_pictures(generator: Module, latent_dim: int, n: int, seed: int) -> Tensor:
    """n images of a generator, of which the i-th depends on generator, seed and i alone.

    To the bit: the generator always gets whole blocks of latents, since products of matrices round
    by the number of their rows.
    """
    z = draw_latents(-(-n // BLOCK) * BLOCK, latent_dim, seed)
    device = next(generator.parameters()).device
    return generate(generator, z.to(device), batch_size=BLOCK)[:n]


def draw_samples(contents: dict[str, Any], n: int, seed: int) -> Tensor:
    """n images of a run's generator, as `draw_pictures` makes them."""
    return draw_pictures(contents["generator"], contents["settings"].latent_dim, n, seed)


class Comparison(NamedTuple):
    """One measure, of real held-out images and of generated ones, and the sizes it was taken on."""

    measure: str
    real: float
    fake: float
    sizes: str


def evaluate_images(
    x_train: Tensor,
    x_test: Tensor,
    x_fake: Tensor,
    classifier: DigitClassifier | None = None,
    *,
    rng: torch.Generator,
) -> list[Comparison]:
    """All measures of chapter 9, of generated images beside real ones; float images in [0, 1].

    Real images are held-out ones, as many as are generated or as there are; only as samples of a
    Parzen window, which is scored on those, they are training images. What depends on the number
    of images (features, Parzen window) is taken on equally many real and generated ones.
    `classifier` judges digits: without it the measures that need it are left out. `rng`, on the
    CPU, draws the images that are taken where not all are.
    """
    x_train, x_test = (x[torch.randperm(len(x), generator=rng)] for x in (x_train, x_test))
    x_real, rows = x_test[: len(x_fake)], []
    if classifier is not None:
        rows += compare_verdicts(x_real, x_fake, classifier)
        rows += compare_features(x_train, x_real, x_fake, classifier)
    rows += compare_parzen_scores(x_train, x_test, x_fake)
    rows.append(compare_distances(x_train, x_real, x_fake))
    return rows


def compare_verdicts(
    x_real: Tensor, x_fake: Tensor, classifier: DigitClassifier
) -> list[Comparison]:
    """What the classifier says about single images."""
    a, b = judge_digits(x_real, classifier), judge_digits(x_fake, classifier)
    sizes = f"{len(x_real)} real, {len(x_fake)} generated"
    return [
        Comparison("classifier confidence", a.confidence, b.confidence, sizes),
        Comparison("smallest class share", a.shares.min().item(), b.shares.min().item(), sizes),
    ]


def compare_features(
    x_train: Tensor, x_real: Tensor, x_fake: Tensor, classifier: DigitClassifier
) -> list[Comparison]:
    """Distances between sets of equally many images in the classifier's features."""
    n = len(x_real)
    reference, real, fake = (
        classifier_features(x[:n], classifier) for x in (x_train, x_real, x_fake)
    )
    sizes = f"{len(real)} real, {len(fake)} generated against {len(reference)} training images"
    distances = frechet_distance(reference, real), frechet_distance(reference, fake)
    a, b = precision_and_recall(reference, real), precision_and_recall(reference, fake)
    return [
        Comparison("Fréchet distance of features", *distances, sizes),
        Comparison("precision, k = 3", a.precision, b.precision, sizes),
        Comparison("recall, k = 3", a.recall, b.recall, sizes),
    ]


def compare_parzen_scores(x_train: Tensor, x_test: Tensor, x_fake: Tensor) -> list[Comparison]:
    """Log-likelihood of test images under windows around training and around generated ones."""
    m, half = min(len(x_train), len(x_fake)), len(x_test) // 2
    a, b = (parzen_score(x_test[:half], x_test[half:], x[:m]) for x in (x_train, x_fake))
    sizes = f"{m} samples, bandwidth by {half} test images, {len(x_test) - half} scored"
    return [
        Comparison("Parzen log-likelihood, nats", a.nats, b.nats, sizes),
        Comparison("its standard error", a.standard_error, b.standard_error, sizes),
        Comparison("its bandwidth", a.bandwidth, b.bandwidth, sizes),
    ]


def compare_distances(x_train: Tensor, x_real: Tensor, x_fake: Tensor) -> Comparison:
    """Mean distance to the nearest training image, in pixels' unit."""
    a, b = (
        torch.cat([nearest_neighbors(part, x_train)[0] for part in x.split(500)]).mean().item()
        for x in (x_real, x_fake)
    )
    sizes = f"{len(x_real)} real, {len(x_fake)} generated against {len(x_train)} training images"
    return Comparison("distance to nearest image", a, b, sizes)


def evaluate_run(
    contents: dict[str, Any], n: int, seed: int, data_dir: Path | None, download: bool
) -> list[Comparison]:
    """Chapter 9's measures of n samples; those of the digit classifier for digits only."""
    dataset = contents["settings"].dataset
    x_train, x_test = (
        load_images(dataset, split, data_dir, download=download)[0].float() / 255
        for split in ("train", "test")
    )
    classifier = load_digit_classifier() if dataset in DIGITS else None
    x_fake, rng = draw_samples(contents, n, seed), torch.Generator().manual_seed(seed)
    return evaluate_images(x_train, x_test, x_fake, classifier, rng=rng)
