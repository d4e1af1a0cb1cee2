"""What the book measures on samples."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganlib.guards import (
    require_at_least,
    require_batch,
    require_images,
    require_points,
    require_positive,
    require_samples,
    require_values,
    require_vectors,
)
from ganlib.models import load_weights
from ganlib.trainer import generate


class DigitClassifier(nn.Module):
    """Small convolutional classifier, images (n, 1, 28, 28) in [0, 1] to logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(48 * 49, 64),
            nn.ReLU(),
        )
        self.output = nn.Sequential(nn.Dropout(0.25), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        require_batch("images", x, (1, 28, 28))
        return self.output(self.features(x))


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

    Taken in the classifier's evaluation mode. ValueError for other images or logits not finite.
    Read both: a generator that always draws the same perfect 1 has the highest confidence.
    """
    require_images(images, (1, 28, 28))
    logits = generate(classifier, images)
    require_values("finite logits of the classifier", logits)
    confidence, digits = logits.softmax(1).max(1)
    shares = torch.bincount(digits, minlength=10) / len(images)
    return DigitReport(confidence.mean().item(), shares.cpu())


def classifier_features(images: Tensor, classifier: DigitClassifier) -> Tensor:
    """What the classifier's last layer reads, (n, 64), of images (n, 1, 28, 28) in [0, 1].

    The features over which the book takes Fréchet distances, precision and recall of digits.
    """
    require_images(images, (1, 28, 28))
    features = generate(classifier.features, images)
    require_values("finite features of the classifier", features)
    return features


def wasserstein_1d(x: Tensor, y: Tensor) -> Tensor:
    """Wasserstein-1 distance between two samples on a line, both (n,), in the samples' unit.

    Samples of equal size are needed: the i-th smallest of one goes to the i-th of the other.
    ValueError for others, and for numbers that are not finite or so large that their sum is not.
    """
    require_samples(x, y)
    return (x.sort().values - y.sort().values).abs().mean()


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 of points (n, d) and (m, d): (n, m), in float64; equal points are at 0.

    As |x|^2 + |y|^2 - 2 x.y, one product of matrices. For points close to each other and far from
    the origin the terms cancel but for rounding: so they are taken in double precision and from
    the mean of y, and what rounding leaves of 0 is cleared: distances below some 4e-7 of the
    points' own distance from that mean. In few dimensions the differences themselves are squared.
    ValueError for other shapes and for points that are not finite.
    """
    require_points(x, y)
    center = y.double().mean(0)
    x, y = x.double() - center, y.double() - center
    if x.shape[1] <= 16:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    squares = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = torch.addmm(squares, x, y.T, alpha=-2)
    return squared.masked_fill_(squared < squares.mul_(1e-13), 0.0)


class ModeCoverage(NamedTuple):
    """`modes` found, and the `high_quality` share of samples within 3 std of a mode."""

    modes: int
    high_quality: float


def mode_coverage(samples: Tensor, centers: Tensor, std: float) -> ModeCoverage:
    """Modes found and high-quality share of samples (n, d), given the modes' centers (k, d).

    A sample is of high quality if it lies within 3 std of its nearest center; a mode is found if
    it is the nearest one of such a sample. A perfect sampler in the plane has a share of
    1 - exp(-9 / 2) = 0.989. Source: Lin et al. (2018), PacGAN, section 4.1.
    ValueError for other shapes, no samples, numbers that are not finite, and std <= 0.
    """
    require_points(samples, centers, least=1)
    require_positive(std=std)
    squared, nearest = squared_distances(samples, centers).min(1)
    good = squared <= (3 * std) ** 2
    return ModeCoverage(len(nearest[good].unique()), good.float().mean().item())


def parzen_log_likelihood(
    x: Tensor, samples: Tensor, bandwidth: float, *, batch_size: int = 500
) -> Tensor:
    """Log density, (n,) in nats, of x under a Gaussian of width `bandwidth` around each sample.

    Images (n, ...) and (m, ...) are taken as vectors of d pixels. log p(x) is the log mean over
    the samples s of exp(-|x - s|^2 / (2 bandwidth^2)), minus d log(bandwidth sqrt(2 pi)).
    Source: Goodfellow et al. (2014), section 5, and the code published with it.
    ValueError for other shapes, no samples, pixels that are not finite, and a bandwidth <= 0.
    """
    require_vectors(x, samples)
    require_positive(bandwidth=bandwidth)
    require_at_least(1, batch_size=batch_size)
    x, samples = x.flatten(1), samples.flatten(1)
    dim = x.shape[1]
    parts = []
    for part in x.split(batch_size):
        squared = squared_distances(part, samples)
        log_mean = (-squared / (2 * bandwidth**2)).logsumexp(1) - math.log(len(samples))
        parts.append(log_mean - dim * math.log(bandwidth * math.sqrt(2 * math.pi)))
    return torch.cat(parts)


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance squared between Gaussians fitted to features (n, d) and (m, d).

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), 0 for equal means and covariances; its
    value depends on the features, and is called FID only on those of one Inception network.
    Source: Dowson and Landau (1982); Heusel et al. (2017), equation (6).
    """
    require_points(features_a, features_b)
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError(
            f"two features or more expected, got {len(features_a)} and {len(features_b)}"
        )
    a, b = features_a.double(), features_b.double()
    squared_shift = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.atleast_2d(a.T.cov(), b.T.cov())  # on a line cov() is a single number
    # The trace of (C_a C_b)^(1/2) is the sum of the square roots of the eigenvalues of C_a C_b.
    eigenvalues = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0)
    squared = squared_shift + cov_a.trace() + cov_b.trace() - 2 * eigenvalues.sqrt().sum()
    return max(squared.item(), 0.0)  # of equal sets rounding leaves it a little below 0


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
    ValueError for other shapes, k not in 1 <= k < n, m, and features that are not finite.
    """
    require_points(real, fake)
    require_at_least(1, k=k)
    require_at_least(k + 1, real_features=len(real), fake_features=len(fake))
    return PrecisionRecall(_share_covered(fake, real, k), _share_covered(real, fake, k))


def _share_covered(points: Tensor, manifold: Tensor, k: int) -> float:
    # The nearest neighbor of a point in its own set is the point itself: k + 1.
    radii = squared_distances(manifold, manifold).kthvalue(k + 1).values
    inside = (squared_distances(points, manifold) <= radii).any(1)
    return inside.float().mean().item()


def nearest_neighbors(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance to, and index of, the nearest of `others` (m, ...) for each of `images`.

    Both results have shape (n,). Distances are over pixels, in the images' unit.
    ValueError for other shapes, no others, and pixels that are not finite.
    """
    require_vectors(images, others)
    squared, index = squared_distances(images.flatten(1), others.flatten(1)).min(1)
    return squared.sqrt(), index


class ParzenScore(NamedTuple):
    """Mean log-likelihood in nats, its standard error, and the bandwidth it was taken at."""

    nats: float
    standard_error: float
    bandwidth: float


def parzen_score(x_choose: Tensor, x_score: Tensor, samples: Tensor) -> ParzenScore:
    """Parzen window score of samples: bandwidth chosen on `x_choose`, then taken on `x_score`.

    The bandwidth is the best in the mean of ten from 0.1 to 1, equally spaced in the logarithm,
    as in the code published with Goodfellow et al. (2014). Images in [0, 1], one or more to choose
    by and two or more to score. ValueError for fewer, and as in `parzen_log_likelihood`.
    """
    require_vectors(x_choose, samples, least=1)
    require_vectors(x_score, samples, least=2)
    bandwidths = torch.logspace(-1, 0, 10).tolist()
    means = [parzen_log_likelihood(x_choose, samples, b).mean().item() for b in bandwidths]
    best = bandwidths[max(range(len(means)), key=means.__getitem__)]
    values = parzen_log_likelihood(x_score, samples, best)
    return ParzenScore(values.mean().item(), (values.std() / len(values) ** 0.5).item(), best)
