"""ganlib.losses and ganlib.games against formulas written out in float64, and in the limits."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganlib.games import (
    gan_loss_d,
    gan_loss_g,
    least_squares_loss_d,
    least_squares_loss_g,
    minimax_loss_g,
    r1_loss_d,
)
from ganlib.losses import (
    discriminator_loss,
    fake_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    minimax_generator_loss,
    nonsaturating_generator_loss,
    real_loss,
)
from ganlib.theory import optimal_discriminator, value

REAL = [0.3, -1.7, 2.2, 4.0]
FAKE = [-0.6, 1.9, -3.1]
LOG_2 = math.log(2)


def sigmoid(logits: list[float] | np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.array(logits, dtype=np.float64)))


def tensor(logits: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(logits, dtype=dtype, requires_grad=True)


# Each loss of one set of logits, its formula, and its derivative for one logit, times n.
ONE_SIDED = {
    "real": (real_loss, lambda d: -np.log(d).mean(), lambda d: -(1 - d)),
    "fake": (fake_loss, lambda d: -np.log(1 - d).mean(), lambda d: d),
    "minimax": (minimax_generator_loss, lambda d: np.log(1 - d).mean(), lambda d: -d),
    "nonsaturating": (
        nonsaturating_generator_loss,
        lambda d: -np.log(d).mean(),
        lambda d: -(1 - d),
    ),
}


@pytest.mark.parametrize("name", ONE_SIDED)
def test_loss_and_derivative_equal_their_formulas(name):
    loss, formula, derivative = ONE_SIDED[name]
    logits = tensor(FAKE)
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    assert loss(logits).shape == ()
    assert loss(logits).item() == pytest.approx(formula(sigmoid(FAKE)), abs=1e-12)
    assert gradient.tolist() == pytest.approx(list(derivative(sigmoid(FAKE)) / 3), abs=1e-12)


def test_discriminator_loss_equals_minus_the_value_of_the_game():
    expected = -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean()
    assert discriminator_loss(tensor(REAL), tensor(FAKE)).item() == pytest.approx(expected)


def test_discriminator_loss_at_the_optimal_logits_equals_minus_the_value_of_the_theory():
    # A sample that is the distribution itself: outcome i occurs real[i] or fake[i] times.
    real, fake = torch.tensor([1, 4, 3]), torch.tensor([5, 2, 3])
    p, q = real / 8, fake / 10
    logits = torch.log(p / q).double()
    sampled = discriminator_loss(logits.repeat_interleave(real), logits.repeat_interleave(fake))
    expected = -value(optimal_discriminator(p, q), p, q, dx=1.0)
    assert sampled.item() == pytest.approx(expected.item(), abs=1e-6)


def test_losses_at_equilibrium():
    zeros, more = torch.zeros(3), torch.zeros(5)
    assert discriminator_loss(zeros, more).item() == pytest.approx(2 * LOG_2, abs=1e-6)
    assert real_loss(zeros).item() == pytest.approx(LOG_2, abs=1e-6)
    assert fake_loss(zeros).item() == pytest.approx(LOG_2, abs=1e-6)
    assert nonsaturating_generator_loss(zeros).item() == pytest.approx(LOG_2, abs=1e-6)
    assert minimax_generator_loss(zeros).item() == pytest.approx(-LOG_2, abs=1e-6)


def test_rejected_samples_starve_the_minimax_generator_but_not_the_nonsaturating_one():
    logits = tensor([-4.0])
    (starved,) = torch.autograd.grad(minimax_generator_loss(logits), logits)
    (fed,) = torch.autograd.grad(nonsaturating_generator_loss(logits), logits)
    assert starved.item() == pytest.approx(-0.017986, abs=1e-6)
    assert fed.item() == pytest.approx(-0.982014, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "logit", "expected", "slope"),
    [
        ("real", 1e4, 0.0, 0.0),
        ("real", -1e4, 1e4, -1.0),
        ("fake", 1e4, 1e4, 1.0),
        ("fake", -1e4, 0.0, 0.0),
        ("minimax", 1e4, -1e4, -1.0),
        ("minimax", -1e4, 0.0, 0.0),
        ("nonsaturating", 1e4, 0.0, 0.0),
        ("nonsaturating", -1e4, 1e4, -1.0),
    ],
)
def test_loss_and_derivative_are_exact_at_huge_logits(name, logit, expected, slope, dtype):
    logits = tensor([logit, logit], dtype)
    loss = ONE_SIDED[name][0](logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == expected
    assert gradient.tolist() == [slope / 2, slope / 2]


@pytest.mark.parametrize("name", ["real", "nonsaturating"])
def test_derivative_survives_in_float32_where_the_sigmoid_rounds_to_0(name):
    logits = tensor([-110.0], torch.float32)  # sigmoid(-110) is 0 in float32
    (gradient,) = torch.autograd.grad(ONE_SIDED[name][0](logits), logits)
    assert torch.sigmoid(logits).item() == 0
    assert gradient.item() == -1.0


@pytest.mark.parametrize("name", ["fake", "minimax"])
def test_small_loss_in_float32_is_the_exponential_of_the_logit(name):
    found = ONE_SIDED[name][0](torch.tensor([-30.0])).item()
    assert abs(found) == pytest.approx(math.exp(-30), rel=1e-5)


@pytest.mark.parametrize("name", ONE_SIDED)
@pytest.mark.parametrize("shape", [(4, 1), (), (0,), (2, 3)])
def test_logits_of_another_shape_are_refused_and_quoted(name, shape):
    with pytest.raises(ValueError) as caught:
        ONE_SIDED[name][0](torch.zeros(shape))
    assert f"shape (n,) with n >= 1 expected, got {shape}" in str(caught.value)


def test_discriminator_loss_refuses_wrong_logits_on_either_side():
    with pytest.raises(ValueError, match=r"got \(4, 1\)"):
        discriminator_loss(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match=r"got \(3, 1\)"):
        discriminator_loss(torch.zeros(4), torch.zeros(3, 1))


# Least squares, of estimates of the label


def test_least_squares_losses_and_slopes_equal_their_formulas():
    real, fake = np.array(REAL), np.array(FAKE)
    x, y = tensor(REAL), tensor(FAKE)
    loss = least_squares_discriminator_loss(x, y)
    assert loss.item() == pytest.approx(((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2)
    slopes = torch.autograd.grad(loss, (x, y))
    assert slopes[0].tolist() == pytest.approx(list((real - 1) / 4))
    assert slopes[1].tolist() == pytest.approx(list(fake / 3))
    loss = least_squares_generator_loss(y)
    assert loss.item() == pytest.approx(((fake - 1) ** 2).mean() / 2)
    assert torch.autograd.grad(loss, y)[0].tolist() == pytest.approx(list((fake - 1) / 3))


def test_least_squares_losses_are_lowest_at_the_labels_and_known_half_way():
    one, none, half = torch.ones(3), torch.zeros(5), torch.full((4,), 0.5)
    assert least_squares_discriminator_loss(one, none).item() == 0
    assert least_squares_discriminator_loss(half, half).item() == 0.25
    assert least_squares_generator_loss(one).item() == 0
    assert least_squares_generator_loss(half).item() == 0.125


@pytest.mark.parametrize("shape", [(4, 1), (), (0,)])
def test_least_squares_losses_refuse_and_quote_other_shapes(shape):
    good, bad = torch.zeros(4), torch.zeros(shape)
    for call in (
        lambda: least_squares_generator_loss(bad),
        lambda: least_squares_discriminator_loss(bad, good),
        lambda: least_squares_discriminator_loss(good, bad),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert f"expected, got {shape}" in str(caught.value)


# The losses as the trainer reads them


@pytest.fixture
def game() -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    generator = nn.Linear(2, 3).double()
    discriminator = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    batch = (torch.randn(5, 3).double() + 1, torch.randn(4, 2).double())
    return generator, discriminator, batch


def logits(game) -> tuple[np.ndarray, np.ndarray]:
    """D's logits of x and of G(z) written out in numpy."""
    generator, discriminator, (x, z) = game
    w, b = (p.detach().numpy() for p in generator.parameters())
    v, c = (p.detach().numpy() for p in discriminator.parameters())
    x_fake = z.numpy() @ w.T + b
    return x.numpy() @ v[0] + c[0], x_fake @ v[0] + c[0]


def outputs(game) -> tuple[np.ndarray, np.ndarray]:
    """D(x) and D(G(z))."""
    real, fake = logits(game)
    return sigmoid(real), sigmoid(fake)


def test_gan_loss_d_is_the_discriminator_loss_of_the_batch_and_logs_its_parts(game):
    d_real, d_fake = outputs(game)
    loss, logs = gan_loss_d(*game)
    parts = {
        "loss/real": -np.log(d_real).mean(),
        "loss/fake": -np.log(1 - d_fake).mean(),
        "D(x)": d_real.mean(),
        "D(G(z))": d_fake.mean(),
    }
    assert loss.item() == pytest.approx(parts["loss/real"] + parts["loss/fake"], abs=1e-12)
    assert {k: v.item() for k, v in logs.items()} == pytest.approx(parts, abs=1e-12)
    assert not any(v.requires_grad for v in logs.values())


def test_least_squares_loss_d_is_that_of_the_batch_and_logs_ds_mean_outputs(game):
    real, fake = logits(game)
    loss, logs = least_squares_loss_d(*game)
    assert loss.item() == pytest.approx(((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2)
    means = {"D(x)": real.mean(), "D(G(z))": fake.mean()}
    assert {k: v.item() for k, v in logs.items()} == pytest.approx(means, abs=1e-12)
    assert not any(v.requires_grad for v in logs.values())


class Quadratic(nn.Module):
    """D whose logit is the sum over pixels of a x^2 / 2 + b x, so that its slope is a x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[[0.5, -1.0, 2.0], [0.0, 0.3, -0.7]]]).double())
        self.b = nn.Parameter(torch.tensor([[[1.0, 0.2, -0.4], [0.6, 0.0, 0.9]]]).double())

    def forward(self, x: Tensor) -> Tensor:
        return (self.a * x.square() / 2 + self.b * x).flatten(1).sum(1)


def quadratic_game(n: int) -> tuple[nn.Module, Quadratic, tuple[Tensor, Tensor]]:
    """Images of 2 x 3 pixels, n real and four generated ones."""
    generator = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (1, 2, 3))).double()
    batch = torch.randn(n, 1, 2, 3).double() + 1, torch.randn(4, 2).double()
    return generator, Quadratic(), batch


@pytest.mark.parametrize(("n", "quarter"), [(1, 1), (3, 1), (8, 2)])
def test_r1_is_the_mean_squared_slope_on_a_quarter_of_the_real_batch_and_half_of_it_is_paid(
    n, quarter
):
    generator, discriminator, batch = quadratic_game(n)
    loss, logs = r1_loss_d(generator, discriminator, batch)
    x, a, b = (t.detach().numpy() for t in (batch[0][:quarter], discriminator.a, discriminator.b))
    penalty = ((a * x + b) ** 2).sum((1, 2, 3)).mean()
    plain, plain_logs = gan_loss_d(generator, discriminator, batch)
    assert loss.item() == pytest.approx(plain.item() + penalty / 2, rel=1e-12)
    assert {name: v.item() for name, v in logs.items()} == pytest.approx(
        {name: v.item() for name, v in plain_logs.items()} | {"R1": penalty}, rel=1e-12
    )
    assert not any(v.requires_grad for v in logs.values())
    weights = list(discriminator.parameters())
    found = torch.autograd.grad(loss, weights)
    rest = torch.autograd.grad(plain, weights)
    for slope, other, derivative in zip(found, rest, [(a * x + b) * x, a * x + b], strict=True):
        expected = derivative.mean(0)
        assert np.allclose((slope - other).numpy(), expected, rtol=1e-10, atol=1e-12)
    assert not batch[0].requires_grad


@pytest.mark.parametrize("i", [0, 7])  # in the quarter whose slope is taken, and out of it
def test_a_nan_in_a_real_sample_or_in_d_is_a_nan_in_the_loss_with_r1(i):
    generator, discriminator, batch = quadratic_game(8)
    assert r1_loss_d(generator, discriminator, batch)[0].isfinite()
    batch[0][i, 0, 1, 0] = math.nan
    loss, logs = r1_loss_d(generator, discriminator, batch)
    assert loss.isnan()
    assert logs["R1"].isnan() == (i == 0)
    generator, discriminator, batch = quadratic_game(8)
    discriminator.b.data[0, 1, 2] = math.nan
    assert r1_loss_d(generator, discriminator, batch)[0].isnan()


@pytest.mark.parametrize("loss_d", [gan_loss_d, r1_loss_d, least_squares_loss_d])
def test_ds_loss_gives_gradients_to_the_discriminator_only(loss_d, game):
    generator, discriminator, _ = game
    loss_d(*game)[0].backward()
    assert all(p.grad is None for p in generator.parameters())
    assert all(p.grad is not None for p in discriminator.parameters())


@pytest.mark.parametrize(
    ("loss_g", "formula"),
    [
        (gan_loss_g, lambda logit: -np.log(sigmoid(logit)).mean()),
        (minimax_loss_g, lambda logit: np.log(1 - sigmoid(logit)).mean()),
        (least_squares_loss_g, lambda logit: ((logit - 1) ** 2).mean() / 2),
    ],
)
def test_generator_losses_equal_their_formulas_and_descend_them(game, loss_g, formula):
    generator, discriminator, batch = game
    loss, logs = loss_g(*game)
    loss.backward()
    assert loss.item() == pytest.approx(formula(logits(game)[1]), abs=1e-12)
    assert logs == {}
    weight = generator.weight
    for i, j in ((0, 0), (2, 1)):  # the derivative by finite differences of the formula
        values = []
        for change in (1e-5, -1e-5):
            moved = copy.deepcopy(generator)
            moved.weight.data[i, j] += change
            values.append(formula(logits((moved, discriminator, batch))[1]))
        expected = (values[0] - values[1]) / 2e-5
        assert weight.grad[i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("loss", [case[0] for case in ONE_SIDED.values()])
def test_what_is_no_tensor_of_real_numbers_is_refused_as_logits(loss):
    with pytest.raises(TypeError, match=r"^logits in a tensor expected, got \[1\.0\]$"):
        loss([1.0])
