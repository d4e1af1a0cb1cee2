"""What several test files build and compare: states of small networks, weights, nested contents."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ganlib.models import small_pair
from ganlib.trainer import State, running_average

Pair = tuple[nn.Module, nn.Module]


def draw_points(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch for networks on the plane with latents of three numbers."""
    return torch.randn(6, 2, generator=rng) + 1, torch.randn(5, 3, generator=rng)


def adam_state(pair: Pair, *, seed: int = 5, average: float | None = None, **options: Any) -> State:
    """A state with two Adams, of learning rates 1e-3 (G) and 2e-3 (D)."""
    options = {"fused": True} | options
    generator, discriminator = pair
    return State(
        generator,
        discriminator,
        Adam(generator.parameters(), 1e-3, **options),
        Adam(discriminator.parameters(), 2e-3, **options),
        torch.Generator().manual_seed(seed),
        average=None if average is None else running_average(generator, average),
    )


def point_state(seed: int = 3, average: float | None = None) -> State:
    """A state of two small perceptrons, for `draw_points`."""
    torch.manual_seed(seed)
    return adam_state(small_pair(data_dim=2, latent_dim=3, hidden=8), average=average)


def copied(network: nn.Module) -> list[Tensor]:
    """Copies of a network's weights."""
    return [p.detach().clone() for p in network.parameters()]


def assert_equal(a: Any, b: Any, place: str = "") -> None:
    """Bit for bit, all the way down."""
    assert type(a) is type(b), place
    if isinstance(a, Tensor):
        assert torch.equal(a, b), place
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_equal(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{place}.{i}")
    else:
        assert a == b, place
