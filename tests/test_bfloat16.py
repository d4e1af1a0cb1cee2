"""Networks run in bfloat16: what is rounded, what stays float32, and that the rest is as it was."""

import copy
import pickle
from typing import Any

import pytest
import torch
from builders import adam_state, assert_equal, copied
from torch import Tensor, nn

from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.models import ConvDiscriminator, ConvGenerator, MaxoutDiscriminator, MLPGenerator, mlp
from ganlib.rounding import InBfloat16
from ganlib.runs.checkpoint import load_checkpoint, save_checkpoint
from ganlib.runs.state import load_state_dict, state_dict
from ganlib.trainer import State, generate, train

Batch = tuple[Tensor, Tensor]


def mlp_pair() -> tuple[nn.Module, nn.Module]:
    discriminator = nn.Sequential(nn.Flatten(), mlp([784, 40, 1], nn.LeakyReLU), nn.Flatten(0))
    return MLPGenerator(8, (32, 48), batch_norm=True), discriminator


def maxout_pair() -> tuple[nn.Module, nn.Module]:
    return MLPGenerator(8, (40, 40)), MaxoutDiscriminator(hidden=16, dropout=(0.0, 0.0))


def conv_pair() -> tuple[nn.Module, nn.Module]:
    return ConvGenerator(8, channels=8), ConvDiscriminator(channels=8)


PAIRS = [mlp_pair, maxout_pair, conv_pair]


def draw(rng: torch.Generator) -> Batch:
    return torch.rand(12, 1, 28, 28, generator=rng), torch.randn(12, 8, generator=rng)


class Cast(nn.Module):
    """A network rounded by hand: autocast around each call, nothing kept between calls."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        torch.clear_autocast_cache()
        with torch.autocast("cpu", torch.bfloat16):
            y = self.network(x)
        torch.clear_autocast_cache()
        return y.float()


class Holder(nn.Module):
    """Networks reached in three ways, a number as buffer, and outputs of several kinds."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.maps = nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Linear(6, 5)})
        self.chain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5))
        self.register_buffer("level", torch.tensor(1.0))
        self.scale = 3.0

    def encode(self, x: Tensor) -> Tensor:
        return self.first(x) * self.level

    def forward(self, x: Tensor, *, kept: Tensor | None = None) -> dict[str, Any]:
        y = self.encode(x)
        return {"y": [y, y.argmax(1)], "mean": x.double().mean(), "name": "holder", "kept": kept}


def by_hand(function: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return function(x).float()


@pytest.mark.parametrize("pair", PAIRS)
def test_outputs_and_gradients_are_float32_and_those_of_autocast_bit_for_bit(pair):
    for network, x in zip(pair(), draw(torch.Generator().manual_seed(3))[::-1], strict=True):
        plain, wrapped, exact = copy.deepcopy(network), InBfloat16(network), copy.deepcopy(network)
        found, expected = wrapped(x), Cast(plain)(x)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
        assert 0 < (found - exact(x)).abs().max() < 0.03
        found.square().sum().backward()
        expected.square().sum().backward()
        for weight, other in zip(wrapped.parameters(), plain.parameters(), strict=True):
            assert weight.dtype == torch.float32
            assert weight.grad is not None
            assert weight.grad.dtype == torch.float32
            assert torch.equal(weight.grad, other.grad)  # pyright: ignore


@pytest.mark.parametrize("pair", PAIRS)
def test_20_steps_equal_a_loop_that_keeps_no_rounded_weights(pair):
    networks = pair()
    g, d = (copy.deepcopy(network) for network in networks)
    found = adam_state((InBfloat16(g), InBfloat16(d)))
    g, d = (copy.deepcopy(network) for network in networks)
    expected = adam_state((Cast(g), Cast(d)))
    exact = adam_state(networks)
    start = copied(networks[0])
    for state in (found, expected, exact):
        train(state, draw, gan_loss_d, gan_loss_g, until=20, progress=False)
    for a, b in zip(copied(found.generator), copied(expected.generator), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(copied(found.discriminator), copied(expected.discriminator), strict=True):
        assert torch.equal(a, b)
    way, off = (
        torch.cat([(a - b).flatten() for a, b in zip(copied(exact.generator), other, strict=True)])
        for other in (start, copied(found.generator))
    )
    assert 1e-3 * way.norm() < off.norm() < way.norm()


def test_an_update_inside_an_outer_autocast_is_seen_by_the_next_pass():
    network, x = nn.Linear(6, 1), torch.randn(4, 6)
    wrapped = InBfloat16(network)
    with torch.autocast("cpu", torch.bfloat16):
        before = wrapped(x)
        with torch.no_grad():
            network.weight += 1
        after = wrapped(x)
    assert torch.allclose(after - before, x.sum(1, keepdim=True), rtol=0, atol=0.1)


def test_what_is_reached_through_the_wrapper_is_rounded_too():
    holder, x = Holder(), torch.randn(7, 6)
    wrapped = InBfloat16(holder)
    for found, function in (
        (wrapped.first(x), holder.first),
        (wrapped.maps["a"](x), holder.maps["a"]),
        (dict(wrapped.maps.items())["b"](x), holder.maps["b"]),
        (wrapped.chain[2](wrapped.first(x)), lambda x: holder.chain[2](holder.first(x).float())),
        (wrapped.chain[:2](x), holder.chain[:2]),
        (wrapped.encode(x), holder.encode),
        (next(iter(wrapped.maps.values()))(x), holder.maps["a"]),
        (next(layer(x) for layer in wrapped.chain), holder.chain[0]),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, by_hand(function, x))
        assert not torch.equal(found, function(x))


def test_only_what_was_rounded_changes_its_type_on_the_way_out():
    x = torch.randn(7, 6)
    found = InBfloat16(Holder())(x, kept=x.double())
    y, index = found["y"]
    types = [t.dtype for t in (y, index, found["mean"], found["kept"])]
    assert types == [torch.float32, torch.int64, torch.float64, torch.float64]
    assert found["name"] == "holder"


def test_what_is_set_through_the_wrapper_is_set_in_the_network():
    holder, x = Holder(), torch.randn(7, 6)
    wrapped = InBfloat16(holder)
    before = wrapped.encode(x)
    wrapped.level = torch.tensor(2.0)
    wrapped.scale = 4.0
    assert holder.level.item() == 2
    assert holder.scale == wrapped.scale == 4
    assert torch.equal(wrapped.encode(x), 2 * before)
    assert "network.level" in wrapped.state_dict()
    wrapped.eval()
    assert not holder.maps["a"].training
    wrapped.first.train()
    assert holder.first.training
    assert not holder.training
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = wrapped.no_such_name


def test_copies_and_pickles_are_wrapped_and_apart():
    wrapped, x = InBfloat16(Holder()), torch.randn(7, 6)
    expected = wrapped.first(x)
    unpickled = pickle.loads(pickle.dumps(wrapped))  # noqa: S301 (its own bytes)
    for other in (copy.deepcopy(wrapped), unpickled):
        assert torch.equal(other.first(x), expected)
        with torch.no_grad():
            other.first.weight.zero_()
        assert torch.equal(wrapped.first(x), expected)


def test_hooks_on_modules_of_the_network_run():
    seen = []
    holder = Holder()
    wrapped = InBfloat16(holder)
    holder.first.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    wrapped(torch.randn(7, 6))
    assert seen == [torch.bfloat16]


def test_the_gradient_of_a_gradient_penalty_is_that_of_autocast():
    critic = mlp([6, 40, 1])
    x = torch.randn(30, 6, requires_grad=True)

    def gradient(network: nn.Module) -> Tensor:
        (slope,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(
            penalty, list(critic.parameters()), allow_unused=True) if g is not None])  # fmt: skip

    exact, expected, found = (gradient(net) for net in (critic, Cast(critic), InBfloat16(critic)))
    assert torch.equal(found, expected)
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()


def test_a_rounded_run_with_a_running_average_resumes_bit_for_bit(tmp_path):
    def new_state() -> State:
        torch.manual_seed(7)
        generator, discriminator = mlp_pair()
        return adam_state((InBfloat16(generator), InBfloat16(discriminator)), average=0.9)

    whole, half, rest = new_state(), new_state(), new_state()
    train(whole, draw, gan_loss_d, gan_loss_g, until=6, log_every=3, progress=False)
    train(half, draw, gan_loss_d, gan_loss_g, until=3, progress=False)
    save_checkpoint(tmp_path / "c.pt", state_dict(half))
    load_state_dict(rest, load_checkpoint(tmp_path / "c.pt"))
    train(rest, draw, gan_loss_d, gan_loss_g, until=6, log_every=3, progress=False)
    assert_equal(state_dict(rest), state_dict(whole))
    z = torch.randn(5, 8)
    found = generate(whole.sampling_generator, z)
    average: Any = whole.sampling_generator
    assert torch.equal(found, by_hand(average.network.eval(), z))
    assert not torch.equal(found, generate(whole.generator, z))
