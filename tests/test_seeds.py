"""ganlib.seeds: several seeds at once are what each would have been alone."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import adam_state, copied
from torch import Tensor, nn

from ganlib.games import (
    gan_loss_d,
    gan_loss_g,
    least_squares_loss_d,
    least_squares_loss_g,
    minimax_loss_g,
)
from ganlib.models import small_pair
from ganlib.rounding import InBfloat16
from ganlib.seeds import train_seeds
from ganlib.trainer import State, generate, simultaneous_step, train

SEEDS = (3, 4, 5)
Z = torch.randn(4, 3, generator=torch.Generator().manual_seed(8))


def new_state(seed: int, dim: int = 2, average: float | None = 0.5, **options: Any) -> State:
    torch.manual_seed(seed)
    return adam_state(small_pair(dim, 3, 8), seed=seed, average=average, **options)


def draw_in(dim: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randn(6, dim, generator=rng) + 1, torch.randn(6, 3, generator=rng)

    return draw


def assert_close(found: list[State], lone: list[State]) -> None:
    """Within rounding, which is far less than the seeds differ by."""
    for a, b in zip(found, lone, strict=True):
        assert a.step == b.step
        networks = [(a.generator, b.generator), (a.discriminator, b.discriminator)]
        if a.average is not None and b.average is not None:
            networks.append((a.average.module, b.average.module))
            assert a.average.n_averaged == b.average.n_averaged
        for x, y in networks:
            for p, q in zip(copied(x), copied(y), strict=True):
                assert torch.allclose(p, q, rtol=0, atol=2e-6)
        assert torch.equal(a.rng.get_state(), b.rng.get_state())
        assert a.history.scalars.keys() == b.history.scalars.keys()
        for name in b.history.scalars:
            (at, values), (expected_at, expected) = a.history.series(name), b.history.series(name)
            assert at.tolist() == expected_at.tolist()
            assert values == pytest.approx(expected, rel=1e-4, abs=2e-6), name
        assert a.history.snapshots.keys() == b.history.snapshots.keys()
        for step, points in b.history.snapshots.items():
            assert torch.allclose(a.history.snapshots[step], points, rtol=0, atol=1e-5)
    spread = copied(found[0].generator)[0] - copied(found[1].generator)[0]
    assert spread.abs().max() > 0.1


def falling(state: State) -> None:
    for optimizer in (state.opt_g, state.opt_d):
        optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] / (1 + state.step)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(
    ("losses", "options"),
    [
        ((gan_loss_d, gan_loss_g), {"log_every": 3}),
        ((gan_loss_d, minimax_loss_g), {"n_critic": 2, "step": simultaneous_step}),
        ((least_squares_loss_d, least_squares_loss_g), {"n_critic": 2, "snapshot_at": {0, 4}}),
        ((gan_loss_d, gan_loss_g), {"before_step": falling, "log_every": 1}),
    ],
)
def test_seeds_at_once_equal_lone_runs(losses, options, dim):
    def snapshot(state: State) -> Tensor:
        return generate(state.sampling_generator, Z)

    together, lone = ([new_state(seed, dim) for seed in SEEDS] for _ in range(2))
    start = copied(together[1].generator)
    options = {"until": 7, "snapshot": snapshot, "progress": False} | options
    found = train_seeds(together, draw_in(dim), *losses, **options)
    assert all(a is b for a, b in zip(found, together, strict=True))
    for state in lone:
        train(state, draw_in(dim), *losses, **options)
    assert_close(together, lone)
    assert (copied(together[1].generator)[0] - start[0]).abs().max() > 1e-3


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_any_optimizer_works_with_all_its_options(make):
    def state_of(seed: int) -> State:
        state = new_state(seed, average=None)
        state.opt_g = make(state.generator.parameters(), lr=0.02, weight_decay=0.1)
        state.opt_d = make(state.discriminator.parameters(), lr=0.01)
        return state

    together, lone = ([state_of(seed) for seed in SEEDS] for _ in range(2))
    train_seeds(together, draw_in(2), gan_loss_d, gan_loss_g, until=5, progress=False)
    for state in lone:
        train(state, draw_in(2), gan_loss_d, gan_loss_g, until=5, progress=False)
    assert_close(together, lone)


def test_networks_in_bfloat16_are_rounded_at_once_as_much_as_alone():
    # Not in the same places: alone a product and its bias are rounded once, at once twice.
    def state_of(seed: int, wrap: Callable[[nn.Module], nn.Module]) -> State:
        torch.manual_seed(seed)
        g, d = small_pair(2, 3, 8)
        return adam_state((wrap(g), wrap(d)), seed=seed)

    together, lone = ([state_of(seed, InBfloat16) for seed in SEEDS] for _ in range(2))
    exact = [state_of(seed, lambda network: network) for seed in SEEDS]
    start = [copied(state.generator) for state in exact]
    train_seeds(together, draw_in(2), gan_loss_d, gan_loss_g, until=20, progress=False)
    for state in lone + exact:
        train(state, draw_in(2), gan_loss_d, gan_loss_g, until=20, progress=False)

    def apart(a: list[Tensor], b: list[Tensor]) -> float:
        return math.hypot(*((p - q).norm().item() for p, q in zip(a, b, strict=True)))

    for a, b, c, before in zip(together, lone, exact, start, strict=True):
        way = apart(copied(c.generator), before)
        assert 1e-4 * way < apart(copied(a.generator), copied(c.generator)) < 0.05 * way
        assert 1e-4 * way < apart(copied(b.generator), copied(c.generator)) < 0.05 * way
        losses = a.history.series("loss/D")[1]
        assert losses == pytest.approx(b.history.series("loss/D")[1], rel=0.01)
        assert abs(losses[0] - c.history.series("loss/D")[1][0]) > 1e-5


def test_a_frozen_weight_stays_and_each_optimizer_moves_its_own():
    # G's optimizer holds D's last layer: neither the layer nor the frozen bias may change hands.
    def state_of(seed: int) -> State:
        state = new_state(seed, average=None)
        g, d = state.generator, state.discriminator
        next(p for n, p in d.named_parameters() if n.endswith("bias")).requires_grad_(False)
        last = list(d.parameters())[-2:]
        state.opt_g = torch.optim.Adam([*g.parameters(), *last], 0.01)
        state.opt_d = torch.optim.Adam(list(d.parameters())[:-2], 0.003)
        return state

    together, lone = ([state_of(seed) for seed in SEEDS] for _ in range(2))
    frozen = [copied(state.discriminator)[1] for state in together]
    train_seeds(together, draw_in(2), gan_loss_d, gan_loss_g, until=4, progress=False)
    for state in lone:
        train(state, draw_in(2), gan_loss_d, gan_loss_g, until=4, progress=False)
    assert_close(together, lone)
    for state, before in zip(together, frozen, strict=True):
        assert torch.equal(copied(state.discriminator)[1], before)
        assert not list(state.discriminator.parameters())[1].requires_grad


def test_the_weights_of_each_state_are_todays_at_every_moment():
    states, seen = [new_state(seed) for seed in SEEDS], []

    def snapshot(state: State) -> int:
        seen.append((states.index(state), state.step, copied(state.generator)[0]))
        return 0

    train_seeds(states, draw_in(2), gan_loss_d, gan_loss_g, until=2, log_every=1,
                snapshot=snapshot, progress=False)  # fmt: skip
    order = [(i, step) for step in range(3) for i in range(3)]
    assert [(i, step) for i, step, _ in seen] == order
    lone = new_state(SEEDS[1])
    train(lone, draw_in(2), gan_loss_d, gan_loss_g, until=1, progress=False)
    assert torch.allclose(seen[4][2], copied(lone.generator)[0], rtol=0, atol=1e-6)


def run(states: list[State], loss_d: Any = gan_loss_d, **options: Any) -> None:
    options = {"until": 2, "progress": False} | options
    train_seeds(states, draw_in(2), loss_d, gan_loss_g, **options)


def test_a_number_that_is_not_finite_stops_all_and_each_keeps_its_history():
    states = [new_state(seed) for seed in SEEDS]

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x_real, z = draw_in(2)(rng)
        return (x_real * math.nan if rng is states[1].rng and calls else x_real), z

    calls: list[int] = []
    with pytest.raises(FloatingPointError, match=r"loss/D is \[.*nan.*\] at step 3"):
        train_seeds(states, draw, gan_loss_d, gan_loss_g, until=9, log_every=2, progress=False,
                    before_step=lambda s: calls.append(0) if s.step == 2 else None)  # fmt: skip
    assert [state.step for state in states] == [4, 4, 4]
    for state in states:
        assert state.history.series("loss/D")[0].tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"states at step 0 expected, got steps \[4, 4, 4\]"):
        run(states)


# What is refused


def test_no_states_and_states_that_have_begun_are_refused():
    with pytest.raises(ValueError, match=r"states at step 0 expected, got steps \[\]"):
        run([])
    states = [new_state(seed) for seed in SEEDS]
    train(states[1], draw_in(2), gan_loss_d, gan_loss_g, until=2, progress=False)
    with pytest.raises(ValueError, match=r"states at step 0 expected, got steps \[0, 2, 0\]"):
        run(states)


def test_networks_with_buffers_are_refused_by_the_buffers_name():
    def state_of(seed: int) -> State:
        g, d = small_pair(2, 3, 8)
        return adam_state((nn.Sequential(g, nn.BatchNorm1d(2)), d), seed=seed)

    with pytest.raises(ValueError, match=r"without buffers expected, got 1\.running_mean"):
        run([state_of(seed) for seed in SEEDS])


def test_networks_of_another_make_are_refused_even_where_their_weights_fit():
    def state_of(layer: nn.Module) -> State:
        g, d = small_pair(2, 3, 8)
        return adam_state((nn.Sequential(g, layer), d))

    for layer, shown in (
        (nn.LeakyReLU(0.5), r"attribute 1\.negative_slope is 0\.5 in one state and 0\.2 in the"),
        (nn.Tanh(), "layer 1 is Tanh in one state and LeakyReLU in the first"),
        (nn.Linear(2, 2), r"tensor 1\.weight is \(2, 2\) in one state and None in the first"),
    ):
        with pytest.raises(ValueError, match=shown):
            run([state_of(nn.LeakyReLU(0.2)), state_of(layer)])


def test_optimizers_with_hooks_groups_other_options_or_other_weights_are_refused():
    for kind in ("pre", "post"):
        for name in ("opt_g", "opt_d"):
            states = [new_state(seed) for seed in SEEDS]
            hook = getattr(getattr(states[2], name), f"register_step_{kind}_hook")
            hook(lambda *_: None)
            with pytest.raises(ValueError, match="without step hooks expected"):
                run(states)
    states = [new_state(seed) for seed in SEEDS]
    halves = [{"params": list(states[2].generator.parameters())[i::2]} for i in range(2)]
    states[2].opt_g = torch.optim.Adam(halves)
    with pytest.raises(ValueError, match="one group of weights expected, got 2"):
        run(states)
    states = [new_state(seed) for seed in SEEDS]
    states[1].opt_d.param_groups[0]["lr"] = 0.125
    with pytest.raises(ValueError, match=r"that of state 1 has other weights or options.*0\.125"):
        run(states)
    states = [new_state(seed) for seed in SEEDS]
    for state in states[:2]:
        next(state.generator.parameters()).requires_grad_(False)
    with pytest.raises(RuntimeError, match="requires_grad"):
        run(states)


def test_swapped_optimizers_are_named_as_in_a_lone_run():
    states = [new_state(seed) for seed in SEEDS]
    states[1].opt_g, states[1].opt_d = states[1].opt_d, states[1].opt_g
    with pytest.raises(ValueError, match="are the optimizers swapped"):
        run(states)


def test_a_running_average_of_some_states_only_is_refused():
    with pytest.raises(ValueError, match="average of each of the states expected, or of none"):
        run([new_state(3), new_state(4, average=None)])


def slope_by_autograd(g: Any, d: Any, batch: Any) -> Any:
    x = batch[0] + 0 * next(d.parameters()).sum()
    (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    return slope.square().sum(), {}


def branching(g: Any, d: Any, batch: Any) -> Any:
    loss, logs = gan_loss_d(g, d, batch)
    return (loss if loss > 1 else 2 * loss), logs


def slope_by_func(g: Any, d: Any, batch: Any) -> Any:
    loss, logs = gan_loss_d(g, d, batch)
    slope = torch.func.grad(lambda x: d(x).sum())(batch[0])
    return loss + slope.square().sum(1).mean(), logs


@pytest.mark.parametrize("loss_d", [slope_by_autograd, branching])
def test_a_loss_that_torch_cannot_apply_to_all_is_refused_with_the_remedy(loss_d):
    with pytest.raises(ValueError) as caught:
        run([new_state(seed) for seed in SEEDS], loss_d)
    message = str(caught.value)
    assert message.startswith(f"{loss_d.__name__} cannot be applied to several seeds at once: ")
    for remedy in ("torch.func.grad", "torch.where", "`train`"):
        assert remedy in message


def test_a_gradient_penalty_by_torch_func_equals_lone_runs():
    together, lone = ([new_state(seed) for seed in SEEDS] for _ in range(2))
    plain = copy.deepcopy(lone[0])
    run(together, slope_by_func, until=4)
    for state in lone:
        train(state, draw_in(2), slope_by_func, gan_loss_g, until=4, progress=False)
    assert_close(together, lone)
    train(plain, draw_in(2), gan_loss_d, gan_loss_g, until=4, progress=False)
    pairs = zip(copied(plain.discriminator), copied(lone[0].discriminator), strict=True)
    assert max((p - q).abs().max() for p, q in pairs) > 1e-4
