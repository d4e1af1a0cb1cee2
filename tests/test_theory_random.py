"""ganlib.theory on random distributions, against sums written out in plain Python, and scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from torch import Tensor

from ganlib.theory import js_divergence, kl_divergence, optimal_discriminator, value

LOG_2, LOG_4 = math.log(2), math.log(4)

# Probabilities of 2 to 6 outcomes, zeros and the smallest floats among them.
WEIGHTS = st.one_of(
    st.floats(0, 1), st.sampled_from([0.0, 5e-324, 1e-322, 1.5e-322, 3e-322, 1e-310, 1e-300])
)
OUTPUTS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 1e-40]))  # of a discriminator


@st.composite
def distributions(draw: st.DrawFn, count: int, weights: st.SearchStrategy = WEIGHTS):
    n = draw(st.integers(2, 6))
    rows = []
    for _ in range(count):
        w = np.array([draw(weights) for _ in range(n)])
        w[draw(st.integers(0, n - 1))] += 1.0
        rows.append(torch.from_numpy(w / w.sum()))
    return rows


def naive_kl(p: Tensor, q: Tensor) -> float:
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        if a > 0:
            total += a * (math.log(a) - math.log(b)) if b > 0 else math.inf
    return total


def naive_js(p: Tensor, q: Tensor) -> float:
    """Each term by its logarithm relative to the mean (scipy's is infinite at subnormal floats)."""
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        for c in (a, b):
            if c > 0:
                total += c * (LOG_2 + math.log(c) - math.log(a + b)) / 2
    return total


def naive_value(d: Tensor, p: Tensor, q: Tensor) -> float:
    total = 0.0
    for t, a, b in zip(d.tolist(), p.tolist(), q.tolist(), strict=True):
        log_d = max(math.log(t), -100) if t > 0 else -100
        log_not_d = max(math.log1p(-t), -100) if t < 1 else -100
        total += a * log_d + b * log_not_d
    return total


@given(distributions(2))
def test_swapping_data_and_generated_turns_the_optimal_discriminator_into_one_minus_it(pair):
    p, q = pair
    total = optimal_discriminator(p, q) + optimal_discriminator(q, p)
    assert total.tolist() == pytest.approx([1.0] * len(p), abs=1e-12)


@given(
    distributions(2),
    st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0, 1e-40]), min_size=6, max_size=6),
)
def test_value_equals_the_sum_written_out_and_is_highest_at_the_optimal_discriminator(
    pair, outputs
):
    p, q = pair
    best = value(optimal_discriminator(p, q), p, q, dx=1.0).item()
    d = torch.tensor(outputs[: len(p)], dtype=torch.float64)
    found = value(d, p, q, dx=1.0).item()
    assert found == pytest.approx(naive_value(d, p, q), rel=1e-9, abs=1e-12)
    assert found <= best + 1e-12


@given(distributions(2))
def test_value_at_the_optimum_is_minus_log_4_plus_twice_the_jsd_on_any_alphabet(pair):
    p, q = pair
    best = value(optimal_discriminator(p, q), p, q, dx=1.0).item()
    assert best == pytest.approx(-LOG_4 + 2 * js_divergence(p, q, dx=1.0).item(), abs=1e-9)


@given(distributions(2))
def test_kl_equals_the_sum_written_out_and_is_never_negative(pair):
    p, q = pair
    found = kl_divergence(p, q, dx=1.0).item()
    assert found == pytest.approx(naive_kl(p, q), rel=1e-9, abs=1e-12)
    assert found >= 0


def almost_equal(seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    p = torch.rand(5, generator=rng, dtype=torch.float64)
    q = p * (1 + 1e-9 * torch.rand(5, generator=rng, dtype=torch.float64))
    return p / p.sum(), q / q.sum()


def test_divergences_of_almost_equal_densities_are_never_negative():
    # Rounding leaves the sums below 0 for two of five such pairs, and their roots would be NaN.
    pairs = [almost_equal(seed) for seed in range(100)]
    assert all(kl_divergence(p, q, 1.0) >= 0 for p, q in pairs)
    assert all(js_divergence(p, q, 1.0).sqrt() < 1e-7 for p, q in pairs)
    below = [(torch.xlogy(p, p) - torch.xlogy(p, q)).sum() < 0 for p, q in pairs]
    assert 10 < sum(below) < 90


def test_where_rounding_is_cleared_the_derivatives_stay():
    for seed in range(20):
        p, q = almost_equal(seed)
        q.requires_grad_()
        (of_kl,) = torch.autograd.grad(kl_divergence(p, q, 1.0), q)
        (of_js,) = torch.autograd.grad(js_divergence(p, q, 1.0), q)
        assert torch.allclose(of_kl, -p / q.detach(), rtol=1e-12)
        assert of_js.abs().max() < 1e-8


@given(distributions(2, st.floats(0.01, 1)))
def test_kl_exceeds_half_the_squared_total_variation_norm(pair):  # Pinsker: 0 only if equal
    p, q = pair
    norm = (p - q).abs().sum().item()
    assert kl_divergence(p, q, 1.0).item() >= norm**2 / 2 - 1e-12


@given(distributions(2))
def test_jsd_equals_its_definition_is_symmetric_and_lies_between_0_and_log_2(pair):
    p, q = pair
    found = js_divergence(p, q, dx=1.0).item()
    assert found == pytest.approx(naive_js(p, q), abs=1e-12)
    assert found == pytest.approx(js_divergence(q, p, dx=1.0).item(), abs=1e-15)
    assert 0 <= found <= LOG_2 + 1e-12


@given(distributions(2, st.floats(0.05, 1)))
def test_jsd_is_at_least_an_eighth_of_the_squared_total_variation_norm(pair):  # 0 only if equal
    p, q = pair
    assert js_divergence(p, q, 1.0).item() >= (p - q).abs().sum().item() ** 2 / 8 - 1e-12


@given(distributions(3))
def test_square_root_of_jsd_obeys_the_triangle_inequality(three):
    def distance(a: Tensor, b: Tensor) -> float:
        return math.sqrt(js_divergence(a, b, dx=1.0).item())

    p, q, r = three
    assert distance(p, r) <= distance(p, q) + distance(q, r) + 1e-7


def test_divergences_of_400_random_mixtures_equal_scipys():
    random, dx = np.random.default_rng(4), 0.04
    x = np.arange(-30, 30, dx)
    for _ in range(400):
        densities = []
        for _ in range(2):
            k = random.integers(1, 5)
            means, stds = random.uniform(-6, 6, k), random.uniform(0.3, 2.5, k)
            parts = stats.norm.pdf(x[:, None], means, stds)
            p = parts @ random.dirichlet(np.ones(k))
            densities.append(np.maximum(p, 1e-290) / (p.sum() * dx))
        p, q = densities
        kl = kl_divergence(torch.from_numpy(p), torch.from_numpy(q), dx).item()
        js = js_divergence(torch.from_numpy(p), torch.from_numpy(q), dx).item()
        assert kl == pytest.approx(rel_entr(p, q).sum() * dx, rel=1e-9, abs=1e-12)
        assert js == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-9, abs=1e-12)


def test_jsd_is_finite_where_the_densities_are_the_smallest_floats():
    for tiny in (5e-324, 1e-322, 1.5e-322, 2e-322, 1e-310):
        p = torch.tensor([1.0, tiny, 0.0], dtype=torch.float64)
        q = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        assert js_divergence(p, q, 1.0).item() == pytest.approx(LOG_2, abs=1e-12)
        assert js_divergence(q, p, 1.0).item() == pytest.approx(LOG_2, abs=1e-12)
