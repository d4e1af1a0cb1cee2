"""What the book measures on samples."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ganlib.models import DigitClassifier, load_weights


class DigitReport(NamedTuple):
    """What the digit classifier says about a set of images.

    `confidence` is the mean over images of the largest class probability, in [0.1, 1];
    `shares`, of shape (10,), holds the share of images assigned to each digit.
    """

    confidence: float
    shares: Tensor


def load_digit_classifier(device: torch.device | str = "cpu") -> DigitClassifier:
    """The book's judge of digits, trained on MNIST's 60,000 training images, in evaluation mode.

    `benchmarks/train_classifier.py` made its weights; their file carries its test accuracy.
    """
    classifier = DigitClassifier()
    load_weights(classifier, "digit_classifier")
    return classifier.to(device).eval()


def judge_digits(images: Tensor, classifier: DigitClassifier) -> DigitReport:
    """Mean confidence and class shares of images (n, 1, 28, 28), float in [0, 1].

    Read both: a generator that always draws the same perfect 1 has the highest confidence.
    """
    shape = tuple(images.shape)
    if shape[1:] != (1, 28, 28) or not len(images) or not images.is_floating_point():
        raise ValueError(
            f"float images (n >= 1, 1, 28, 28) in [0, 1] expected, got {images.dtype} {shape}"
        )
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in images.split(1000)])
    confidence, digits = logits.softmax(1).max(1)
    shares = torch.bincount(digits, minlength=10) / len(images)
    return DigitReport(confidence.mean().item(), shares.cpu())


def wasserstein_1d(x: Tensor, y: Tensor) -> Tensor:
    """Wasserstein-1 distance between two samples on a line, both (n,), in the samples' unit.

    Samples of equal size are needed: the i-th smallest of one goes to the i-th of the other.
    """
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(
            f"two samples (n,) of equal size expected, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return (x.sort().values - y.sort().values).abs().mean()


class ModeCoverage(NamedTuple):
    """`modes` found, and the `high_quality` share of samples within 3 std of a mode."""

    modes: int
    high_quality: float


def mode_coverage(samples: Tensor, centers: Tensor, std: float) -> ModeCoverage:
    """Modes found and high-quality share of samples (n, d), given the modes' centers (k, d).

    A sample is of high quality if it lies within 3 std of its nearest center; a mode is found if
    it is the nearest one of such a sample. A perfect sampler in the plane has a share of
    1 - exp(-9 / 2) = 0.989. Source: Lin et al. (2018), PacGAN, section 4.1.
    """
    if samples.ndim != 2 or centers.ndim != 2 or samples.shape[1] != centers.shape[1]:
        raise ValueError(
            "samples (n, d) and centers (k, d) expected, got "
            f"{tuple(samples.shape)} and {tuple(centers.shape)}"
        )
    distance, nearest = torch.cdist(samples, centers).min(1)
    good = distance <= 3 * std
    return ModeCoverage(len(nearest[good].unique()), good.float().mean().item())


def parzen_log_likelihood(
    x: Tensor, samples: Tensor, bandwidth: float, *, batch_size: int = 100
) -> Tensor:
    """Log density, (n,) in nats, of x under a Gaussian of width `bandwidth` around each sample.

    Images (n, ...) and (m, ...) are taken as vectors of d pixels. log p(x) is the log mean over
    the samples s of exp(-|x - s|^2 / (2 bandwidth^2)), minus d log(bandwidth sqrt(2 pi)).
    Source: Goodfellow et al. (2014), section 5, and the code published with it.
    """
    x, samples = x.flatten(1), samples.flatten(1)
    if x.shape[1] != samples.shape[1] or not len(samples) or bandwidth <= 0:
        raise ValueError(
            "points of one dimension and a bandwidth > 0 expected, got shapes "
            f"{tuple(x.shape)} and {tuple(samples.shape)}, bandwidth {bandwidth}"
        )
    dim = x.shape[1]
    parts = []
    for part in x.split(batch_size):
        squared = torch.cdist(part, samples) ** 2
        log_mean = (-squared / (2 * bandwidth**2)).logsumexp(1) - math.log(len(samples))
        parts.append(log_mean - dim * math.log(bandwidth * math.sqrt(2 * math.pi)))
    return torch.cat(parts)


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance squared between Gaussians fitted to features (n, d) and (m, d).

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), 0 for equal means and covariances; its
    value depends on the features, and is called FID only on those of one Inception network.
    Source: Dowson and Landau (1982); Heusel et al. (2017), equation (6).
    """
    if features_a.ndim != 2 or features_a.shape[1:] != features_b.shape[1:]:
        raise ValueError(
            "features (n, d) and (m, d) expected, got "
            f"{tuple(features_a.shape)} and {tuple(features_b.shape)}"
        )
    a, b = features_a.double(), features_b.double()
    squared_shift = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.atleast_2d(a.T.cov(), b.T.cov())  # on a line cov() is a single number
    # The trace of (C_a C_b)^(1/2) is the sum of the square roots of the eigenvalues of C_a C_b.
    eigenvalues = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0)
    return (squared_shift + cov_a.trace() + cov_b.trace() - 2 * eigenvalues.sqrt().sum()).item()


class PrecisionRecall(NamedTuple):
    """`precision`: share of generated points near a real one; `recall`: of real near generated."""

    precision: float
    recall: float


def precision_and_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of features (n, d) and (m, d), each in [0, 1].

    A set's manifold is the union of balls around its points, each reaching to that point's k-th
    nearest neighbor in the set. Precision is the share of fake points inside the real manifold,
    recall the share of real points inside the fake one.
    Source: Kynkaanniemi et al. (2019), equations (1) and (2).
    """
    if real.ndim != 2 or real.shape[1:] != fake.shape[1:] or not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            "features (n, d) and (m, d) and 1 <= k < n, m expected, got "
            f"{tuple(real.shape)} and {tuple(fake.shape)}, k={k}"
        )
    return PrecisionRecall(_share_covered(fake, real, k), _share_covered(real, fake, k))


def _share_covered(points: Tensor, manifold: Tensor, k: int) -> float:
    # The nearest neighbor of a point in its own set is the point itself: k + 1.
    radii = torch.cdist(manifold, manifold).kthvalue(k + 1).values
    inside = (torch.cdist(points, manifold) <= radii).any(1)
    return inside.float().mean().item()


def nearest_neighbors(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance to, and index of, the nearest of `others` (m, ...) for each of `images`.

    Both results have shape (n,). Distances are over pixels, in the images' unit.
    """
    distance, index = torch.cdist(images.flatten(1), others.flatten(1)).min(1)
    return distance, index


class ParzenScore(NamedTuple):
    """Mean log-likelihood in nats, its standard error, and the bandwidth it was taken at."""

    nats: float
    standard_error: float
    bandwidth: float


def parzen_score(samples: Tensor, x_choose: Tensor, x_score: Tensor) -> ParzenScore:
    """Parzen window score of samples: bandwidth chosen on `x_choose`, then taken on `x_score`.

    The bandwidth is the best in the mean of ten from 0.1 to 1, equally spaced in the logarithm,
    as in the code published with Goodfellow et al. (2014). Images in [0, 1].
    """
    bandwidths = torch.logspace(-1, 0, 10).tolist()
    means = [parzen_log_likelihood(x_choose, samples, b).mean().item() for b in bandwidths]
    best = bandwidths[max(range(len(means)), key=means.__getitem__)]
    values = parzen_log_likelihood(x_score, samples, best)
    return ParzenScore(values.mean().item(), (values.std() / len(values) ** 0.5).item(), best)


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
    x_real, half, m = x_test[: len(x_fake)], len(x_test) // 2, min(len(x_train), len(x_fake))
    n, rows = len(x_real), []

    def add(measure: str, real: float, fake: float, sizes: str) -> None:
        rows.append(Comparison(measure, real, fake, sizes))

    if classifier is not None:
        a, b = judge_digits(x_real, classifier), judge_digits(x_fake, classifier)
        sizes = f"{n} real, {len(x_fake)} generated"
        add("classifier confidence", a.confidence, b.confidence, sizes)
        add("smallest class share", a.shares.min().item(), b.shares.min().item(), sizes)
        with torch.no_grad():
            reference, real, fake = (
                torch.cat([classifier.features(part) for part in x[:n].split(1000)])
                for x in (x_train, x_real, x_fake)
            )
        sizes = f"{len(real)} real, {len(fake)} generated against {len(reference)} training images"
        distances = frechet_distance(reference, real), frechet_distance(reference, fake)
        add("Fréchet distance of features", *distances, sizes)
        a, b = precision_and_recall(reference, real), precision_and_recall(reference, fake)
        add("precision, k = 3", a.precision, b.precision, sizes)
        add("recall, k = 3", a.recall, b.recall, sizes)
    a, b = (parzen_score(x[:m], x_test[:half], x_test[half:]) for x in (x_train, x_fake))
    sizes = f"{m} samples, bandwidth by {half} test images, {len(x_test) - half} scored"
    add("Parzen log-likelihood, nats", a.nats, b.nats, sizes)
    add("its standard error", a.standard_error, b.standard_error, sizes)
    add("its bandwidth", a.bandwidth, b.bandwidth, sizes)
    a, b = (
        torch.cat([nearest_neighbors(part, x_train)[0] for part in x.split(500)]).mean().item()
        for x in (x_real, x_fake)
    )
    sizes = f"{n} real, {len(x_fake)} generated against {len(x_train)} training images"
    add("distance to nearest image", a, b, sizes)
    return rows
