"""ganlib.trainer's two steps against games solved by hand and updates written out."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganlib.games import gan_loss_d, gan_loss_g, minimax_loss_g
from ganlib.models import mlp
from ganlib.trainer import State, compute_gradients, simultaneous_step, train_step, weights_of

STEPS = [train_step, simultaneous_step]


class Number(nn.Module):
    """A player with one weight: as generator it puts its samples there, as critic it is a slope."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def sgd_state(generator: nn.Module, discriminator: nn.Module, lr_g: float, lr_d: float) -> State:
    return State(
        generator,
        discriminator,
        torch.optim.SGD(generator.parameters(), lr_g),
        torch.optim.SGD(discriminator.parameters(), lr_d),
        torch.Generator().manual_seed(1),
    )


def gradients(network: nn.Module) -> list[Tensor]:
    """Copies of the gradients that the weights hold, without those that hold none."""
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def weights(state: State) -> list[float]:
    return [p.item() for net in (state.generator, state.discriminator) for p in net.parameters()]


# The bilinear game V = theta * phi: G descends it, D ascends.


def bilinear_d(generator: Any, discriminator: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    loss = -generator.weight.detach() * discriminator.weight
    return loss, {"V": -loss.detach()}


def bilinear_g(generator: Any, discriminator: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return generator.weight * discriminator.weight, {}


@pytest.mark.parametrize(
    ("step", "n_critic", "expected"),
    [
        (train_step, 1, [0.0, 4.0]),
        (simultaneous_step, 1, [0.5, 4.0]),
        (train_step, 2, [-0.5, 5.0]),
        (simultaneous_step, 2, [0.0, 5.0]),
    ],
)
def test_order_of_updates_in_the_bilinear_game(step, n_critic, expected):
    state = sgd_state(Number(2.0), Number(3.0), lr_g=0.5, lr_d=0.5)
    step(state, lambda rng: None, bilinear_d, bilinear_g, n_critic)
    assert weights(state) == expected


def test_values_returned_are_those_before_each_update():
    state = sgd_state(Number(2.0), Number(3.0), lr_g=0.5, lr_d=0.5)
    logs = train_step(state, lambda rng: None, bilinear_d, bilinear_g, 1)
    assert {k: v.item() for k, v in logs.items()} == {"loss/D": -6, "V": 6, "loss/G": 8}
    state = sgd_state(Number(2.0), Number(3.0), lr_g=0.5, lr_d=0.5)
    logs = simultaneous_step(state, lambda rng: None, bilinear_d, bilinear_g, 1)
    assert {k: v.item() for k, v in logs.items()} == {"loss/D": -6, "V": 6, "loss/G": 6}


def test_simultaneous_steps_in_the_bilinear_game_spiral_outwards_by_a_fixed_factor():
    state = sgd_state(Number(2.0), Number(3.0), lr_g=0.1, lr_d=0.1)
    for _ in range(50):
        simultaneous_step(state, lambda rng: None, bilinear_d, bilinear_g, 1)
    assert math.hypot(*weights(state)) == pytest.approx(math.hypot(2, 3) * math.sqrt(1.01) ** 50)


def test_alternating_steps_in_the_bilinear_game_stay_on_one_ellipse():
    state = sgd_state(Number(2.0), Number(3.0), lr_g=0.1, lr_d=0.1)
    for _ in range(50):
        train_step(state, lambda rng: None, bilinear_d, bilinear_g, 1)
        theta, phi = weights(state)
        assert theta**2 + phi**2 + 0.1 * theta * phi == pytest.approx(4 + 9 + 0.1 * 6, rel=1e-9)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("loss_g", [gan_loss_g, minimax_loss_g])
def test_one_step_of_the_dirac_game_equals_its_equations(step, loss_g):
    # Data at 0, generated samples at theta, logit phi x, z = 1.
    theta, phi, lr_g, lr_d = 0.8, -1.5, 0.3, 0.7
    batch = torch.zeros(3, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    state = sgd_state(Number(theta), Number(phi), lr_g, lr_d)
    step(state, lambda rng: batch, gan_loss_d, loss_g, 1)

    def sigmoid(t: float) -> float:
        return 1 / (1 + math.exp(-t))

    new_phi = phi - lr_d * theta * sigmoid(phi * theta)
    seen = new_phi if step is train_step else phi
    d_fake = sigmoid(seen * theta)
    push = (1 - d_fake) if loss_g is gan_loss_g else d_fake
    assert weights(state) == pytest.approx([theta + lr_g * seen * push, new_phi], rel=1e-12)


# Updates of real networks, batches, and who gets gradients


def small_game() -> State:
    generator = mlp([2, 8, 3]).double()
    discriminator = nn.Sequential(mlp([3, 8, 1]), nn.Flatten(0)).double()
    return sgd_state(generator, discriminator, lr_g=0.05, lr_d=0.2)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(5, 3).double() + 1, torch.randn(4, 2).double()) for _ in range(count)]


@pytest.mark.parametrize("n_critic", [1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_steps_equal_the_same_updates_written_out(step, n_critic):
    state, fixed = small_game(), batches(2 * (n_critic + 1))
    g, d = copy.deepcopy(state.generator), copy.deepcopy(state.discriminator)
    supply = iter(fixed)
    for _ in range(2):
        step(state, lambda rng: next(supply), gan_loss_d, gan_loss_g, n_critic)

    def descend(network: nn.Module, gradients: tuple[Tensor, ...], lr: float) -> None:
        for p, gradient in zip(network.parameters(), gradients, strict=True):
            p.data -= lr * gradient

    supply, gradient_d = iter(fixed), ()
    for _ in range(2):
        for i in range(n_critic):
            x_real, z = next(supply)
            real, fake = torch.sigmoid(d(x_real)), torch.sigmoid(d(g(z).detach()))
            loss_d = -torch.log(real).mean() - torch.log(1 - fake).mean()
            gradient_d = torch.autograd.grad(loss_d, list(d.parameters()))
            if step is train_step or i < n_critic - 1:
                descend(d, gradient_d, 0.2)
        _, z = next(supply)
        loss_g = -torch.log(torch.sigmoid(d(g(z)))).mean()
        gradient_g = torch.autograd.grad(loss_g, list(g.parameters()))
        descend(g, gradient_g, 0.05)
        if step is simultaneous_step:
            descend(d, gradient_d, 0.2)
    for network, expected in ((state.generator, g), (state.discriminator, d)):
        for found, p in zip(network.parameters(), expected.parameters(), strict=True):
            assert torch.allclose(found, p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_critic", [1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_each_update_reads_a_fresh_batch_drawn_from_the_states_rng(step, n_critic):
    drawn, read = [], []

    def draw(rng: torch.Generator) -> Tensor:
        assert rng is state.rng
        drawn.append(torch.randn(3, generator=rng))
        return drawn[-1]

    def loss_d(generator, discriminator, batch):
        read.append(("D", batch))
        return bilinear_d(generator, discriminator, batch)

    def loss_g(generator, discriminator, batch):
        read.append(("G", batch))
        return bilinear_g(generator, discriminator, batch)

    state = sgd_state(Number(2.0), Number(3.0), lr_g=0.1, lr_d=0.1)
    step(state, draw, loss_d, loss_g, n_critic)
    assert [player for player, _ in read] == ["D"] * n_critic + ["G"]
    assert len(drawn) == n_critic + 1
    assert all(seen is made for (_, seen), made in zip(read, drawn, strict=True))
    assert len({tuple(batch.tolist()) for batch in drawn}) == n_critic + 1


@pytest.mark.parametrize("step", STEPS)
def test_each_players_step_leaves_the_other_players_gradients_alone(step):
    state, after_d = small_game(), []
    supply = iter(batches(2))

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        after_d.append(gradients(state.discriminator))
        assert gradients(state.generator) == []
        return next(supply)

    step(state, draw, gan_loss_d, gan_loss_g, 1)
    players = (state.generator, state.discriminator)
    assert all(p.requires_grad for network in players for p in network.parameters())
    assert all(gradient.abs().sum() > 0 for gradient in gradients(state.generator))
    found = gradients(state.discriminator)
    assert len(found) == 4
    assert all(torch.equal(a, b) for a, b in zip(found, after_d[1], strict=True))


def test_gradients_do_not_add_up_over_steps():
    state, (batch,) = small_game(), batches(1)
    compute_gradients(gan_loss_d, state, batch, state.opt_d)
    once = gradients(state.discriminator)
    loss, _ = compute_gradients(gan_loss_d, state, batch, state.opt_d)
    twice = gradients(state.discriminator)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    assert not loss.requires_grad


# An optimizer owns its weights


@pytest.mark.parametrize("step", STEPS)
def test_a_player_moves_what_its_optimizer_holds_wherever_it_lies(step):
    # G's optimizer also holds D's second weight: D's own loss must not move that one.
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.others = Number(3.0), Number(5.0)

    def loss_d(g: Any, d: Any, batch: Any) -> Any:
        return g.weight * d.own.weight * d.others.weight, {}

    def loss_g(g: Any, d: Any, batch: Any) -> Any:
        return g.weight * d.own.weight + 7 * d.others.weight, {}

    generator, discriminator = Number(2.0), Two()
    mine = [*generator.parameters(), *discriminator.others.parameters()]
    opt_g, opt_d = torch.optim.SGD(mine, 0.5), torch.optim.SGD(discriminator.own.parameters(), 0.25)
    rng = torch.Generator().manual_seed(1)
    state = State(generator, discriminator, opt_g, opt_d, rng)
    step(state, lambda rng: None, loss_d, loss_g, 1)
    seen = 0.5 if step is train_step else 3.0  # D's own weight when G's gradient is taken
    assert weights(state) == [2 - 0.5 * seen, 3 - 0.25 * 2 * 5, 5 - 0.5 * 7]


def test_a_frozen_weight_and_one_that_the_loss_does_not_read_stay_where_they_are():
    layers = mlp([3, 4, 1])
    generator, discriminator = mlp([2, 4, 3]), nn.Sequential(layers, nn.Flatten(0))
    idle = nn.Parameter(torch.ones(2))
    discriminator.register_parameter("idle", idle)
    frozen = list(layers.parameters())[1].requires_grad_(False)
    before = frozen.clone()
    opt_g, opt_d = (
        torch.optim.AdamW(network.parameters(), 0.1) for network in (generator, discriminator)
    )
    state = State(generator, discriminator, opt_g, opt_d, torch.Generator().manual_seed(1))
    batch = torch.randn(5, 3), torch.randn(5, 2)
    train_step(state, lambda rng: batch, gan_loss_d, gan_loss_g, 1)
    assert idle.grad is None
    assert torch.equal(idle, torch.ones(2))
    assert torch.equal(frozen, before)
    assert not any(w is frozen for w in weights_of(opt_d))
    assert len(weights_of(opt_d)) == 4
