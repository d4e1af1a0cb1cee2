"""Metrics of distances agree with float64 differences, far from the origin, for any n."""

import math

import pytest
import torch
from torch import Tensor

from ganlib.data import grid_of_gaussians, ring_of_gaussians, sample_mixture
from ganlib.metrics import (
    frechet_distance,
    judge_digits,
    load_digit_classifier,
    mode_coverage,
    nearest_neighbors,
    parzen_log_likelihood,
    precision_and_recall,
    squared_distances,
)


def by_differences(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 in double precision, each from its own differences."""
    return torch.stack([(row - y.double()).square().sum(1) for row in x.double()])


@pytest.mark.parametrize("d", [1, 2, 16, 17, 64, 784])
@pytest.mark.parametrize("n", [1, 3, 25, 26, 60])
@pytest.mark.parametrize("shift", [0.0, 100.0, 1e4])
def test_squared_distances_are_those_of_float64(d, n, shift, rng):
    x, y = (torch.randn(m, d, generator=rng) + shift for m in (n, 30))
    found = squared_distances(x, y)
    assert found.dtype == torch.float64
    assert torch.allclose(found, by_differences(x, y), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_copies_are_at_distance_exactly_zero(digits, shift):
    images = digits["train"][0].float() / 255 + shift
    distance, index = nearest_neighbors(images[:300], images)
    assert (distance == 0).all()
    assert torch.equal(images[index], images[:300])


@pytest.mark.parametrize(
    ("mixture", "std"),
    [(ring_of_gaussians(), 0.01), (grid_of_gaussians(spacing=200.0), 0.05)],
    ids=["ring", "wide grid"],
)
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_high_quality_share_does_not_depend_on_where_the_modes_lie(mixture, std, shift, rng):
    centers = mixture.component_distribution.mean.double() + shift
    samples = sample_mixture(mixture, 5000, rng).double() + shift
    squared = by_differences(samples.float(), centers.float()).amin(1)
    expected = (squared <= (3 * std) ** 2).double().mean().item()
    found = mode_coverage(samples.float(), centers.float(), std)
    assert found == (len(centers), pytest.approx(expected, abs=1e-6))
    assert expected == pytest.approx(1 - math.exp(-4.5), abs=0.01)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_parzen_of_shifted_points_is_that_of_float64(shift, rng):
    x, samples = (torch.randn(n, 40, generator=rng) + shift for n in (30, 50))
    terms = -by_differences(x, samples) / (2 * 0.5**2)
    expected = terms.logsumexp(1) - math.log(50) - 40 * math.log(0.5 * math.sqrt(2 * math.pi))
    found = parzen_log_likelihood(x, samples, 0.5, batch_size=7)
    assert torch.allclose(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_precision_and_recall_are_those_of_float64(d, shift, rng):
    real, fake = (torch.randn(200, d, generator=rng) + shift for _ in range(2))
    fake[:100] = fake[:100] / 3 + 2 * shift / 3

    def covered(points: Tensor, manifold: Tensor) -> float:
        radii = by_differences(manifold, manifold).kthvalue(4).values
        return (by_differences(points, manifold) <= radii).any(1).double().mean().item()

    found = precision_and_recall(real, fake, k=3)
    assert found == pytest.approx((covered(fake, real), covered(real, fake)), abs=1e-6)


def test_a_collapsed_generator_reaches_no_real_point_but_a_copied_one_counts():
    real = torch.arange(12.0).reshape(12, 1).repeat(1, 40)
    fake = real[5].repeat(10, 1)
    assert precision_and_recall(real, fake, k=3) == (1.0, pytest.approx(1 / 12))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_points_that_are_not_finite_are_refused(bad):
    x = torch.tensor([[0.0, 1.0], [bad, 2.0]])
    with pytest.raises(ValueError, match="finite"):
        squared_distances(torch.zeros(3, 2), x)
    with pytest.raises(ValueError, match="finite"):
        mode_coverage(x, torch.zeros(1, 2), 0.1)


def test_coverage_of_no_samples_or_of_modes_without_width_is_refused():
    with pytest.raises(ValueError, match=r"1 points \(n, d\) or more expected, got \(0, 2\)"):
        mode_coverage(torch.zeros(0, 2), torch.zeros(1, 2), 0.1)
    with pytest.raises(ValueError, match=r"std from 1e-75 to 1e\+75 expected, got 0"):
        mode_coverage(torch.zeros(3, 2), torch.zeros(1, 2), 0.0)


def test_digits_in_another_range_are_not_judged(digits):
    classifier, images = load_digit_classifier(), digits["test"][0][:20]
    for wrong in (images.float(), images / 127.5 - 1):
        with pytest.raises(ValueError, match=r"in \[0, 1\] expected, got values from"):
            judge_digits(wrong, classifier)
    unfinished = images / 255
    unfinished[3, 0, 5, 5] = math.nan
    with pytest.raises(ValueError, match="nan"):
        judge_digits(unfinished, classifier)


def test_the_frechet_distance_of_equal_sets_is_0_and_one_feature_is_too_few(rng):
    features = torch.rand(300, 64, generator=rng)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features) >= 0
    with pytest.raises(ValueError, match="got 1 and 300"):
        frechet_distance(features[:1], features)
