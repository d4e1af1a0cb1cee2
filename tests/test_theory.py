"""ganlib.theory against sums written out, scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import rel_entr
from torch import Tensor

from ganlib.theory import (
    js_divergence,
    kl_divergence,
    normalize,
    optimal_discriminator,
    value,
)

DX = 0.01
X = np.arange(-30, 30, DX) + DX / 2  # no grid point at 0, so that "half the line" is exact
LOG_2, LOG_4 = math.log(2), math.log(4)
P, Q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.6, 0.3])


def gaussian(mean: float, std: float = 1.0) -> Tensor:
    return torch.from_numpy(stats.norm.pdf(X, mean, std))


def on_grid(p: np.ndarray) -> Tensor:
    return torch.from_numpy(p / (p.sum() * DX))


def point_mass(at: int) -> Tensor:
    p = torch.zeros(len(X), dtype=torch.float64)
    p[at] = 1 / DX
    return p


PAIRS = {
    "gaussians of different width": (gaussian(0), gaussian(2.5, 1.7)),
    "bimodal against gaussian": (0.3 * gaussian(-3, 0.6) + 0.7 * gaussian(2, 0.9), gaussian(1, 2)),
    "equal": (gaussian(1.2, 0.8), gaussian(1.2, 0.8)),
    "disjoint supports": (
        on_grid(stats.uniform.pdf(X, -2, 1)),
        on_grid(stats.uniform.pdf(X, 3, 2)),
    ),
    "zero on half the line": (on_grid(stats.expon.pdf(X)), on_grid(stats.laplace.pdf(X, 0.5))),
    "cauchy": (on_grid(stats.cauchy.pdf(X)), gaussian(-1, 2)),
    "far gaussians": (gaussian(-15), gaussian(15, 0.5)),
    "two point masses": (point_mass(100), point_mass(4000)),
    "point mass against density": (point_mass(3000), gaussian(0)),
}

# The optimal discriminator


def test_optimal_discriminator_is_the_share_of_the_data_density():
    d = optimal_discriminator(P, Q)
    assert d.tolist() == pytest.approx([5 / 6, 1 / 3, 2 / 5], rel=1e-7)
    assert d.dtype == torch.float64


def test_optimal_discriminator_is_0_or_1_where_one_density_vanishes_and_half_where_both_do():
    d = optimal_discriminator(torch.tensor([0.4, 0.0, 0.0, 0.6]), torch.tensor([0, 0.9, 0, 0.1]))
    assert d[:3].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("change", [-0.05, 0.05])
def test_moving_the_optimal_discriminator_at_any_one_point_lowers_the_value(change):
    best = optimal_discriminator(P, Q)
    for i in range(3):
        moved = best.clone()
        moved[i] += change
        assert value(moved, P, Q, dx=1.0) < value(best, P, Q, dx=1.0) - 1e-4


# The value function


def test_value_equals_the_sum_written_out():
    d = torch.tensor([0.9, 0.25, 0.6], dtype=torch.float64)
    p, q = P.double(), Q.double()
    expected = 0.5 * math.log(0.9) + 0.3 * math.log(0.25) + 0.2 * math.log(0.6)
    expected += 0.1 * math.log(0.1) + 0.6 * math.log(0.75) + 0.3 * math.log(0.4)
    assert value(d, p, q, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert value(d, p / 0.5, q / 0.5, 0.5).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_value_of_an_undecided_discriminator_is_minus_log_4_whatever_the_densities(name):
    p, q = PAIRS[name]
    assert value(torch.full_like(p, 0.5), p, q, DX).item() == pytest.approx(-LOG_4, abs=1e-9)


def test_value_clamps_each_logarithm_at_minus_100():
    p, q = torch.tensor([0.75, 0.25]), torch.tensor([0.5, 0.5])
    assert value(torch.tensor([0.0, 0.0]), p, q, 1.0).item() == pytest.approx(-100, rel=1e-12)
    assert value(torch.tensor([1.0, 0.0]), p, q, 1.0).item() == pytest.approx(-75, rel=1e-12)
    d = torch.tensor([1e-40, 0.5], dtype=torch.float64)  # above the clamp: log is -92.1
    expected = 0.75 * math.log(1e-40) + 0.25 * math.log(0.5) + 0.5 * math.log(0.5)
    assert value(d, p, q, 1.0).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("m", "expected"), [(0, -1.386294), (1, -1.163451), (3, -0.332740), (6, -0.007698)]
)
def test_value_at_the_optimum_for_unit_gaussians_at_distance_m(m, expected):
    p, q = gaussian(0), gaussian(m)
    assert value(optimal_discriminator(p, q), p, q, DX).item() == pytest.approx(expected, abs=1e-6)


def test_value_at_the_optimum_equals_quadrature_of_the_integrand():
    def integrand(x: float) -> float:
        a, b = float(stats.norm.pdf(x, 0, 1)), float(stats.norm.pdf(x, 2.5, 1.7))
        return a * math.log(a / (a + b)) + b * math.log(b / (a + b))

    expected, _ = integrate.quad(integrand, -12, 18, epsabs=1e-11)
    p, q = PAIRS["gaussians of different width"]
    assert value(optimal_discriminator(p, q), p, q, DX).item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", PAIRS)
def test_value_at_the_optimum_is_minus_log_4_plus_twice_the_jsd(name):
    p, q = PAIRS[name]
    a, b, mean = p.numpy(), q.numpy(), (p + q).numpy() / 2
    expected = -LOG_4 + (rel_entr(a, mean) + rel_entr(b, mean)).sum() * DX
    assert value(optimal_discriminator(p, q), p, q, DX).item() == pytest.approx(expected, abs=1e-9)
    assert -LOG_4 + 2 * js_divergence(p, q, DX).item() == pytest.approx(expected, abs=1e-9)


# KL and Jensen-Shannon divergence


def test_kl_of_gaussians_equals_its_closed_form_in_both_directions():
    p, q = gaussian(0.5, 0.8), gaussian(-1.0, 1.6)
    forward = math.log(1.6 / 0.8) + (0.8**2 + 1.5**2) / (2 * 1.6**2) - 0.5
    backward = math.log(0.8 / 1.6) + (1.6**2 + 1.5**2) / (2 * 0.8**2) - 0.5
    assert kl_divergence(p, q, DX).item() == pytest.approx(forward, abs=1e-9)
    assert kl_divergence(q, p, DX).item() == pytest.approx(backward, abs=1e-9)


def test_kl_counts_0_log_0_as_0_and_is_infinite_where_only_the_second_density_vanishes():
    p, q = torch.tensor([0.25, 0.75, 0.0]), torch.tensor([0.5, 0.25, 0.25])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(3)
    assert kl_divergence(p, q, 1.0).item() == pytest.approx(expected, abs=1e-12)
    assert kl_divergence(q, p, 1.0).item() == math.inf


@pytest.mark.parametrize("name", ["disjoint supports", "two point masses", "far gaussians"])
def test_jsd_of_distributions_that_do_not_overlap_is_log_2(name):
    p, q = PAIRS[name]
    assert js_divergence(p, q, DX).item() == pytest.approx(LOG_2, abs=1e-9)


# Gradients in the space of distributions


def test_gradient_of_the_criterion_is_the_log_of_q_over_the_mean():
    p, q = P.double(), Q.double().requires_grad_()
    expected = torch.log(2 * q / (p + q)).detach()
    (by_jsd,) = torch.autograd.grad(2 * js_divergence(p, q, 1.0), q)
    d = optimal_discriminator(p, q).detach()  # D* held fixed: the envelope theorem
    (by_value,) = torch.autograd.grad(value(d, p, q, 1.0), q)
    assert by_jsd.tolist() == pytest.approx(expected.tolist(), abs=1e-7)
    assert (by_value + LOG_2).tolist() == pytest.approx(expected.tolist(), abs=1e-7)


def test_a_mirror_descent_step_of_size_1_halves_the_distance_to_the_data():
    p = torch.tensor([0.4, 0.1, 0.0, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.05, 0.25, 0.3, 0.1, 0.3], dtype=torch.float64)
    for _ in range(12):
        q = q.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(2 * js_divergence(p, q, 1.0), q)
        moved = q.detach() * torch.exp(-gradient)
        moved = moved / moved.sum()
        assert moved.tolist() == pytest.approx(((p + q.detach()) / 2).tolist(), abs=1e-12)
        q = moved
    assert (q - p).abs().max().item() == pytest.approx(0.35 / 2**12, rel=1e-6)


# Mass, and what is refused


def test_normalize_gives_mass_1_and_keeps_the_shape():
    p = normalize(torch.tensor([1.0, 3.0, 4.0]), dx=0.5)
    assert p.tolist() == pytest.approx([0.25, 0.75, 1.0], rel=1e-12)
    assert p.dtype == torch.float64


def test_a_cauchy_density_cut_at_30_lacks_two_percent_of_its_mass_and_is_refused():
    cut = torch.from_numpy(stats.cauchy.pdf(X))
    with pytest.raises(ValueError, match=r"mass 1 expected, got mass 0\.97878.*normalize\(p, dx\)"):
        js_divergence(cut, gaussian(0), DX)
    assert js_divergence(normalize(cut, DX), gaussian(0), DX).isfinite()


@pytest.mark.parametrize("scale", [1 - 0.9e-3, 1 + 0.9e-3])
def test_a_mass_within_a_thousandth_of_1_is_accepted(scale):
    kl = 0.5 * math.log(5) + 0.3 * math.log(0.5) + 0.2 * math.log(2 / 3)
    expected = scale * (math.log(scale) + kl)
    assert kl_divergence(P * scale, Q, 1.0).item() == pytest.approx(expected, abs=1e-6)


CALLS = {
    "optimal_discriminator": optimal_discriminator,
    "kl_divergence": lambda p, q: kl_divergence(p, q, 1.0),
    "js_divergence": lambda p, q: js_divergence(p, q, 1.0),
    "value": lambda p, q: value(torch.full((3,), 0.5), p, q, 1.0),
}
IMPROPER = [
    (torch.tensor([0.9, -0.25, 0.35]), "without negative values expected, got -0.25"),
    (torch.tensor([0.5, math.nan, 0.5]), "finite values expected, got nan"),
    (torch.tensor([0.5, math.inf, 0.5]), "finite values expected, got inf"),
]
OTHER_SHAPE = (torch.tensor([0.5, 0.5]), r"one grid expected, got shapes \[\(2,\), \(3,\)\]")
WRONG_MASS = [
    (torch.tensor([0.5, 0.3, 0.2015]), "mass 1 expected, got mass 1.0015"),
    (torch.tensor([0.5, 0.3, 0.1985]), "mass 1 expected, got mass 0.9985"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("p", "message"), [*IMPROPER, OTHER_SHAPE])
def test_an_improper_density_is_refused_and_quoted_in_either_place(call, p, message):
    with pytest.raises(ValueError, match=message):
        CALLS[call](p, Q)
    with pytest.raises(ValueError, match=message):
        CALLS[call](Q, p)


@pytest.mark.parametrize("call", ["kl_divergence", "js_divergence", "value"])
@pytest.mark.parametrize(("p", "message"), WRONG_MASS)
def test_a_wrong_mass_is_refused_and_quoted_in_either_place(call, p, message):
    with pytest.raises(ValueError, match=message):
        CALLS[call](p, Q)
    with pytest.raises(ValueError, match=message):
        CALLS[call](Q, p)


@pytest.mark.parametrize(("p", "message"), [*IMPROPER, (torch.tensor([]), "got no values")])
def test_normalize_refuses_an_improper_density(p, message):
    with pytest.raises(ValueError, match=message):
        normalize(p, 1.0)


def test_normalize_refuses_a_density_without_mass():
    with pytest.raises(ValueError, match="positive mass expected, got mass 0"):
        normalize(torch.zeros(3), 1.0)


@pytest.mark.parametrize("dx", [0.0, -0.5, math.nan, math.inf])
def test_a_spacing_that_is_not_positive_is_refused_and_quoted(dx):
    with pytest.raises(ValueError, match=rf"dx from 1e-75 to 1e\+75 expected, got {dx}"):
        kl_divergence(P, Q, dx)


@pytest.mark.parametrize("bad", [-0.001, 1.001, math.nan])
def test_a_discriminator_outside_0_and_1_is_refused_and_quoted(bad):
    with pytest.raises(ValueError, match=rf"D in \[0, 1\] expected, got {bad}"):
        value(torch.tensor([0.0, 1.0, bad]), P, Q, 1.0)


def test_a_discriminator_on_another_grid_is_refused_and_quoted():
    with pytest.raises(ValueError, match=r"grid expected, got \(2,\) and \(3,\)"):
        value(torch.tensor([0.5, 0.5]), P, Q, 1.0)


def test_a_mass_of_1e_300_is_none_and_one_above_it_is():
    least = torch.tensor([1e-300], dtype=torch.float64)
    with pytest.raises(ValueError, match="positive mass expected, got mass 1e-300"):
        normalize(least, 1.0)
    assert normalize(2 * least, 1.0).item() == pytest.approx(1, rel=1e-15)


def test_a_discriminator_in_float32_is_valued_in_float64():
    d = torch.tensor([0.3, 0.6, 0.7])
    assert value(d, P, Q, 1.0).item() == value(d.double(), P, Q, 1.0).item()
