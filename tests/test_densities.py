"""The samplers and the 1-D and 2-D densities of ganlib.data, against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from ganlib.data import (
    gaussian_mixture,
    grid_of_gaussians,
    image_sampler,
    ring_of_gaussians,
    sample_mixture,
)


def test_image_sampler_draws_images_with_replacement_and_scales_them(rng):
    images = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 2, 5) * 100
    x_real, z = image_sampler(images, batch_size=3000, latent_dim=4)(rng)
    assert x_real.shape == (3000, 1, 2, 5)
    assert z.shape == (3000, 4)
    drawn = (x_real[:, 0, 0, 0] * 255 / 100).round()
    assert torch.bincount(drawn.long()).tolist() == pytest.approx([1000] * 3, abs=110)
    assert torch.allclose(x_real[:, 0, 1, 4], drawn * 100 / 255)
    assert z.mean(0).tolist() == pytest.approx([0] * 4, abs=0.08)
    assert z.std(0).tolist() == pytest.approx([1] * 4, abs=0.06)


def test_image_sampler_draws_anew_each_time_and_from_its_rng_only():
    draw = image_sampler(torch.arange(250, dtype=torch.uint8).reshape(-1, 1, 1, 1), 8, 2)
    before = torch.get_rng_state()
    a, b = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    first, second = draw(a), draw(a)
    again = draw(b)
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_image_sampler_gives_each_image_its_own_label_and_the_same_images_as_without():
    images = torch.arange(200, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    labels = torch.arange(200) % 7
    a, b = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    x_real, z, y = image_sampler(images, 50, 2, labels=labels)(a)
    assert torch.equal(y, (x_real.flatten() * 255).round().long() % 7)
    assert len(y.unique()) == 7
    plain = image_sampler(images, 50, 2)(b)
    assert len(plain) == 2
    assert torch.equal(plain[0], x_real)
    assert torch.equal(plain[1], z)


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (torch.zeros(4), r"each of 5 images on cpu expected, got \(4,\) on cpu"),
        (torch.zeros(5, 1), r"got \(5, 1\) on cpu"),
        (torch.zeros(5, device="meta"), r"got \(5,\) on meta"),
    ],
)
def test_image_sampler_refuses_and_quotes_labels_that_do_not_fit(labels, shown):
    with pytest.raises(ValueError, match=shown):
        image_sampler(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), 4, 2, labels=labels)


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        (torch.zeros(5, 1, 2, 2), r"got torch.float32 \(5, 1, 2, 2\)"),
        (torch.zeros(5, 2, 2, dtype=torch.uint8), r"got torch.uint8 \(5, 2, 2\)"),
    ],
)
def test_image_sampler_refuses_and_quotes_other_images(images, shown):
    with pytest.raises(ValueError, match=shown):
        image_sampler(images, 4, 2)


def test_log_density_of_a_mixture_on_a_line_equals_scipys():
    parameters = np.array([[-1.0, 0.5, 3.0], [0.3, 1.2, 0.7], [0.2, 0.5, 0.3]])
    means, stds, weights = parameters
    mixture = gaussian_mixture(*torch.from_numpy(parameters))
    x = np.linspace(-5, 6, 41)
    parts = np.log(weights) + stats.norm.logpdf(x[:, None], means, stds)
    found = mixture.log_prob(torch.from_numpy(x)).numpy()
    assert found == pytest.approx(logsumexp(parts, axis=1), abs=1e-9)


def test_log_density_of_a_mixture_in_the_plane_equals_scipys():
    means = np.array([[-1.0, 0.5], [2.0, 3.0]])
    stds, weights = np.array([[0.3, 1.2], [0.7, 0.4]]), np.array([0.35, 0.65])
    mixture = gaussian_mixture(*(torch.from_numpy(a) for a in (means, stds, weights)))
    x = np.random.default_rng(0).normal(1, 2, (30, 2))
    parts = [
        math.log(w) + stats.norm.logpdf(x, m, s).sum(axis=1)
        for m, s, w in zip(means, stds, weights, strict=True)
    ]
    found = mixture.log_prob(torch.from_numpy(x)).numpy()
    assert found == pytest.approx(logsumexp(parts, axis=0), abs=1e-9)
    assert sample_mixture(mixture, 6, torch.Generator()).shape == (6, 2)


def test_ring_lies_at_equal_angles_on_its_circle():
    found = ring_of_gaussians(n=6, radius=2.5, std=0.1).component_distribution
    angles = 2 * np.pi * np.arange(6) / 6
    expected = 2.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert np.allclose(found.mean.numpy(), expected, atol=1e-6)
    assert np.allclose(found.stddev.numpy(), 0.1)


def test_grid_has_its_corners_and_spacing():
    found = grid_of_gaussians(side=3, spacing=1.5, std=0.2).component_distribution
    places = {tuple(p) for p in found.mean.tolist()}
    assert places == {(x, y) for x in (-1.5, 0.0, 1.5) for y in (-1.5, 0.0, 1.5)}
    assert np.allclose(found.stddev.numpy(), 0.2)


def test_default_ring_and_grid_are_those_of_pacgan():
    ring, grid = ring_of_gaussians(), grid_of_gaussians()
    assert ring.component_distribution.mean.norm(dim=1).tolist() == pytest.approx([1.0] * 8)
    assert ring.component_distribution.stddev.unique().tolist() == pytest.approx([0.01])
    places = {tuple(p) for p in grid.component_distribution.mean.tolist()}
    assert places == {(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)}
    assert grid.component_distribution.stddev.unique().tolist() == pytest.approx([0.05])
    for mixture, k in ((ring, 8), (grid, 25)):
        assert mixture.mixture_distribution.probs.tolist() == pytest.approx([1 / k] * k)


def test_samples_of_a_mixture_follow_its_distribution_function(rng):
    means, stds, weights = np.array([-1.0, 3.0]), np.array([0.3, 0.7]), np.array([0.25, 0.75])
    mixture = gaussian_mixture(*(torch.from_numpy(a) for a in (means, stds, weights)))
    samples = sample_mixture(mixture, 20_000, rng).numpy()
    test = stats.kstest(samples, lambda x: stats.norm.cdf(x[:, None], means, stds) @ weights)
    assert test.statistic < 1.63 / math.sqrt(20_000)  # the 1 % point


def test_coordinates_of_samples_in_the_plane_vary_independently(rng):
    means, stds = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 2.0]])
    samples = sample_mixture(gaussian_mixture(means, stds, torch.ones(1)), 20_000, rng)
    assert samples.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.05)
    expected = np.diag([0.25, 4.0])
    assert np.cov(samples.numpy().T) == pytest.approx(expected, abs=0.15)
    inside = ((samples - means) / stds).norm(dim=1) < 3
    assert inside.double().mean().item() == pytest.approx(1 - math.exp(-4.5), abs=0.003)  # 98.9 %


def test_samples_of_a_mixture_use_the_rng_they_are_given_and_nothing_else():
    mixture, before = ring_of_gaussians(), torch.get_rng_state()
    a, b = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    first = sample_mixture(mixture, 50, a)
    assert torch.equal(first, sample_mixture(mixture, 50, b))
    assert not torch.equal(first, sample_mixture(mixture, 50, a))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("shapes", "shown"),
    [
        (((2,), (3,), (2,)), r"\(2,\), \(3,\) and \(2,\)"),
        (((2, 2), (2, 2), (3,)), r"\(2, 2\), \(2, 2\) and \(3,\)"),
        (((2,), (2,), (2, 1)), r"\(2,\), \(2,\) and \(2, 1\)"),
    ],
)
def test_mixtures_of_unequal_shapes_are_refused_and_quoted(shapes, shown):
    with pytest.raises(ValueError, match=shown):
        gaussian_mixture(*(torch.ones(shape) for shape in shapes))
