"""Ten kinds of GAN through the unchanged trainer: each equal to a plain loop, or refused.

Each is trained eagerly, resumed through a file, rounded to bfloat16, with two seeds at once and
compiled, and for one step on torch's `meta` device, where tensors of two devices do not mix.
"""

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import assert_equal
from ten_games import GAMES, Game, new_state
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ganlib.rounding import InBfloat16
from ganlib.runs.checkpoint import load_checkpoint, save_checkpoint
from ganlib.runs.compiled import compiled_step
from ganlib.runs.state import load_state_dict, state_dict
from ganlib.seeds import train_seeds
from ganlib.trainer import State, train, train_step

STEPS, N_CRITIC = 3, 2
of_each_game = pytest.mark.parametrize("game", GAMES.values(), ids=list(GAMES))


def run(state: State, game: Game, until: int = STEPS, **options: Any) -> State:
    options = {"n_critic": N_CRITIC, "log_every": 2, "progress": False} | options
    train(state, game.draw, game.loss_d, game.loss_g, until=until, before_step=game.before_step,
          **options)  # fmt: skip
    return state


def plain_loop(state: State, game: Game, g: Any, d: Any, steps: int = STEPS) -> None:
    """The game as anybody would write it: backward over everything, then one player's step."""
    for state.step in range(steps):
        if game.before_step:
            game.before_step(state)
        for player in ["D"] * N_CRITIC + ["G"]:
            loss_function, optimizer = (
                (game.loss_d, state.opt_d) if player == "D" else (game.loss_g, state.opt_g)
            )
            state.generator.zero_grad()
            state.discriminator.zero_grad()
            loss_function(g, d, game.draw(state.rng))[0].backward()
            mine = {id(w) for w in optimizer.param_groups[0]["params"]}
            for weight in [*state.generator.parameters(), *state.discriminator.parameters()]:
                weight.grad = weight.grad if id(weight) in mine else None
            optimizer.step()


def parameters(state: State) -> list[Tensor]:
    return [w.detach() for net in (state.generator, state.discriminator) for w in net.parameters()]


def tensors(state: State) -> list[Tensor]:
    """Weights and buffers."""
    networks = (state.generator, state.discriminator)
    return [t.detach() for network in networks for t in network.state_dict().values()]


def distance(found: State, expected: State) -> float:
    pairs = zip(tensors(found), tensors(expected), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@of_each_game
def test_training_equals_the_plain_loop_and_moves_every_weight(game):
    found, expected, start = new_state(game), new_state(game), new_state(game)
    run(found, game)
    plain_loop(expected, game, expected.generator, expected.discriminator)
    assert distance(found, expected) < 1e-6
    for before, after in zip(parameters(start), parameters(found), strict=True):
        if before.ndim > 1:  # a critic's last bias has no slope
            assert (after - before).abs().max() > 1e-3


@of_each_game
def test_a_run_resumed_from_a_file_equals_an_uninterrupted_one_bit_for_bit(game, tmp_path):
    half = run(new_state(game), game, 2)
    save_checkpoint(tmp_path / "c.pt", state_dict(half))
    rest = new_state(game, seed=99)
    load_state_dict(rest, load_checkpoint(tmp_path / "c.pt"))
    whole = run(new_state(game), game, 4)
    assert_equal(state_dict(run(rest, game, 4)), state_dict(whole))


def rounded(network: Any, reached: tuple[str, ...]) -> Any:
    """A network, and what is reached in it, each under autocast."""

    def of(function: Callable[..., Tensor]) -> Any:
        def call(*inputs: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return function(*inputs).float()

        return call

    if isinstance(network, nn.ModuleDict):
        return {name: of(part) for name, part in network.items()}
    view = of(network)
    for name in reached:
        if hasattr(network, name):
            setattr(view, name, of(getattr(network, name)))
    return view


@of_each_game
def test_networks_in_bfloat16_equal_the_plain_loop_under_autocast(game):
    found, expected, exact = new_state(game, wrap=InBfloat16), new_state(game), new_state(game)
    run(found, game)
    g, d = (rounded(net, game.reached) for net in (expected.generator, expected.discriminator))
    plain_loop(expected, game, g, d)
    assert distance(found, expected) < 1e-6
    assert distance(run(exact, game), expected) > 1e-4


@of_each_game
def test_two_seeds_at_once_equal_lone_runs_or_are_refused(game):
    states, lone = ([new_state(game, seed) for seed in (3, 4)] for _ in range(2))
    options: dict[str, Any] = {"until": STEPS, "n_critic": N_CRITIC, "progress": False}

    def at_once() -> None:
        train_seeds(states, game.draw, game.loss_d, game.loss_g, **options)

    if game.not_at_once:
        with pytest.raises(ValueError, match=game.not_at_once):
            at_once()
        return
    at_once()
    for found, expected in zip(states, lone, strict=True):
        run(expected, game)
        assert distance(found, expected) < 1e-5
        for name in ("loss/D", "loss/G"):
            values = expected.history.series(name)[1]
            assert found.history.series(name)[1] == pytest.approx(values, abs=1e-5)


compiler = shutil.which("g++") or shutil.which("clang++")
REAL = {"progressive growing"} if compiler else set()


@pytest.mark.parametrize("name", GAMES)
def test_the_compiled_step_equals_the_eager_one_or_is_refused(name, monkeypatch):
    if name not in REAL:  # traced as for the compiler, and run without it, which takes its time
        traced = functools.partial(torch.compile, backend="aot_eager")
        functools.update_wrapper(traced, torch.compile)
        monkeypatch.setattr(torch, "compile", traced)
    game = GAMES[name]
    found, expected = new_state(game), new_state(game)
    if game.not_compiled:
        with pytest.raises(ValueError, match=game.not_compiled):
            run(found, game, step=compiled_step())
        assert distance(found, expected) == 0
        return
    run(found, game, n_critic=1, step=compiled_step())
    assert distance(found, run(expected, game, n_critic=1)) < 1e-5


@of_each_game
def test_a_step_on_the_meta_device_mixes_no_devices(game):
    state = new_state(game, device="meta", average=False)
    if game.before_step:
        game.before_step(state)

    def to_meta(rng: torch.Generator) -> Any:
        return tree_map(lambda tensor: tensor.to("meta"), game.draw(rng))

    logs = train_step(state, to_meta, game.loss_d, game.loss_g, 1)
    assert {value.device.type for value in logs.values()} == {"meta"}
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|device"):
        train_step(state, game.draw, game.loss_d, game.loss_g, 1)
