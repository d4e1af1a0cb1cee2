"""The compiled step equals the plain one, and refuses what it cannot do."""

import copy
import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import adam_state, copied, draw_points, point_state
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.models import MLPGenerator, mlp
from ganlib.rounding import InBfloat16
from ganlib.runs.compiled import compiled_step
from ganlib.trainer import State, train

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a compiler"
)


def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(12, 1, 28, 28, generator=rng), torch.randn(12, 8, generator=rng)


def both(state: State) -> Tensor:
    networks = state.generator, state.discriminator
    return torch.cat([w.flatten() for network in networks for w in copied(network)])


def statistics(network: nn.Module) -> Tensor:
    return torch.cat([buffer.detach().float().flatten() for buffer in network.buffers()])


@pytest.fixture
def traced(monkeypatch):
    """Steps that are traced as ever, but not compiled, which takes a minute."""
    whole = torch.compile

    @functools.wraps(whole)  # with its signature
    def trace(step: Any, *, mode: str | None = None, **options: Any) -> Any:
        return whole(step, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", trace)


@needs_compiler
def test_compiled_training_equals_plain_training_and_compiles_once():
    equals_plain_training(lambda network: network, 0.005, 1e-4)


def test_traced_training_in_bfloat16_equals_plain_training(traced):
    equals_plain_training(InBfloat16, 0.2, 5e-3)  # a last bit that differs is rounded to another


def equals_plain_training(wrap: Callable[[Any], Any], share: float, error: float) -> None:
    layers = nn.Sequential(nn.Flatten(), mlp([784, 40, 1], nn.LeakyReLU), nn.Flatten(0))
    pair = wrap(MLPGenerator(8, (16,), batch_norm=True)), wrap(layers)
    plain, fast = adam_state(copy.deepcopy(pair)), adam_state(pair)
    start = both(plain)

    def before_step(state: State) -> None:
        for optimizer in (state.opt_d, state.opt_g):
            optimizer.param_groups[0]["lr"] = 2e-3 / (state.step + 1)
        if state is fast and state.step == 1:
            torch.compiler.set_stance("fail_on_recompile")

    options: dict[str, Any] = {"until": 6, "n_critic": 2, "log_every": 2, "progress": False}
    options |= {"before_step": before_step}
    try:
        found = train(fast, draw, gan_loss_d, gan_loss_g, step=compiled_step(), **options)
    finally:
        torch.compiler.set_stance("default")
    expected = train(plain, draw, gan_loss_d, gan_loss_g, **options)
    way = (both(plain) - start).norm()
    assert way > 0.01
    assert (both(fast) - both(plain)).norm() < share * way
    assert torch.allclose(
        statistics(fast.generator), statistics(plain.generator), rtol=0, atol=10 * error
    )
    assert found.scalars.keys() == expected.scalars.keys()
    for name in expected.scalars:
        assert found.series(name)[1] == pytest.approx(expected.series(name)[1], abs=error), name
    assert torch.equal(fast.rng.get_state(), plain.rng.get_state())
    for optimizer in (fast.opt_d, fast.opt_g):  # their options are as they were
        assert optimizer.param_groups[0]["lr"] == 2e-3 / 6
        assert optimizer.param_groups[0]["fused"] is True


def refused(
    state: State, match: str, *, step: Callable[..., Any] | None = None, **given: Any
) -> None:
    """The step is refused with that sentence, before it has moved a weight."""
    options: dict[str, Any] = {"loss_d": gan_loss_d, "loss_g": gan_loss_g, "n_critic": 1} | given
    before, at = both(state), state.step
    with pytest.raises(ValueError, match=match):
        train(state, draw_points, until=at + 1, step=step or compiled_step(), progress=False,
              **options)  # fmt: skip
    assert state.step == at
    assert torch.equal(both(state), before)


def ignore(*_: Any) -> None:
    pass


@pytest.mark.parametrize("kind", ["register_step_pre_hook", "register_step_post_hook"])
@pytest.mark.parametrize("player", ["opt_d", "opt_g"])
def test_optimizers_with_step_hooks_are_refused(player, kind):
    state = point_state()
    getattr(getattr(state, player), kind)(ignore)
    refused(state, "optimizers without step hooks expected")


def test_step_hooks_of_all_optimizers_are_refused():
    hook = register_optimizer_step_post_hook(ignore)
    try:
        refused(point_state(), "optimizers without step hooks expected")
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "kind",
    [
        "register_forward_hook", "register_forward_pre_hook",
        "register_full_backward_hook", "register_full_backward_pre_hook",
    ],
)  # fmt: skip
def test_networks_with_hooks_are_refused(kind):
    state = point_state()
    getattr(next(iter(state.discriminator.children())), kind)(ignore)
    refused(state, "networks without hooks expected")


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_weights_with_hooks_are_refused(kind):
    state = point_state()
    getattr(next(state.generator.parameters()), kind)(ignore)
    refused(state, "weights without hooks expected")


class Idle(nn.Module):
    """A generator with a layer that it does not use."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.idle = network, nn.Linear(2, 2)

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z)


def test_a_weight_that_its_players_loss_does_not_depend_on_is_refused():
    pair = point_state()
    refused(adam_state((Idle(pair.generator), pair.discriminator)), "does not depend on")


def test_a_loss_that_reads_numbers_back_is_refused():
    def reads(g, d, batch):
        loss, logs = gan_loss_d(g, d, batch)
        return (2 * loss if loss.item() > 1 else loss), logs

    refused(point_state(), "cannot trace", loss_d=reads)


def test_an_old_torch_is_refused(monkeypatch):
    def old_compile(model, *, fullgraph=False, dynamic=None, mode=None):
        raise AssertionError("called")

    monkeypatch.setattr(torch, "compile", old_compile)
    refused(point_state(), f"torch >= 2.14 expected by compiled_step, got {torch.__version__[:4]}")


def test_a_step_serves_what_it_was_made_for_only(traced):
    state, step = point_state(), compiled_step()

    def go(state: State, until: int) -> None:
        train(state, draw_points, gan_loss_d, gan_loss_g, until=until, step=step, progress=False)

    go(state, 1)
    go(state, 2)
    refused(point_state(), "serves one state", step=step)
    refused(state, "serves one state", step=step, n_critic=2)
    refused(state, "serves one state", step=step, loss_g=lambda *all: gan_loss_g(*all))
    state.opt_g.register_step_post_hook(ignore)
    refused(state, "optimizers without step hooks expected", step=step)


def test_a_number_that_changes_is_refused_as_an_attribute_and_read_as_a_buffer(traced):
    class Level(nn.Module):
        def __init__(self, level: Any):
            super().__init__()
            self.network = mlp([3, 8, 2])
            if isinstance(level, Tensor):
                self.register_buffer("level", level)
            else:
                self.level = level

        def forward(self, z: Tensor) -> Tensor:
            return self.network(z) * self.level

    def run(level: Any, step: Callable[..., Any] | None = None) -> State:
        torch.manual_seed(0)
        state = adam_state((Level(level), point_state().discriminator))
        before = lambda state: setattr(state.generator, "level", level * (state.step + 1))  # noqa: E731
        options: dict[str, Any] = {"step": step} if step else {}
        train(state, draw_points, gan_loss_d, gan_loss_g, until=12, before_step=before,
              progress=False, **options)  # fmt: skip
        return state

    with pytest.raises(ValueError, match="belongs into a buffer"):
        run(0.1, compiled_step())
    level = torch.tensor(0.1)
    assert torch.allclose(both(run(level, compiled_step())), both(run(level)), rtol=0, atol=1e-5)


def test_many_steps_in_one_process_do_not_use_up_each_others_compilations(traced):
    for _ in range(6):
        state = point_state()
        train(
            state,
            draw_points,
            gan_loss_d,
            gan_loss_g,
            until=2,
            step=compiled_step(),
            progress=False,
        )
    assert state.step == 2
