"""Networks that are run in bfloat16."""

import inspect
from collections.abc import Callable, ItemsView, ValuesView
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


class InBfloat16(nn.Module):
    """A network that is run in bfloat16: wrap it once, when it is made.

    Weights, gradients and outputs stay float32; products of matrices and convolutions round their
    inputs to 8 significant bits (`torch.autocast`, without its cache of rounded weights, which
    would outlive an update). What is reached through it (`pair.first(x)`, `maps["a"](x)`, a method)
    is rounded too; what is set through it is set in `network`, the bare one, where hooks belong.
    Rounding moved weights by 2 to 15 % of their way in 20 steps (book/results/speed.json).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return in_bfloat16(self.network, *inputs, **options)

    def __getattr__(self, name: str) -> Any:
        network = self.__dict__.get("_modules", {}).get("network")
        if name == "network" or network is None or name.startswith("__"):  # None: not made yet
            return super().__getattr__(name)
        found = getattr(network, name)
        if inspect.ismethod(found):
            return partial(in_bfloat16, found)
        return InBfloat16(found) if isinstance(found, nn.Module) else found

    def __setattr__(self, name: str, value: Any) -> None:
        mine = name in ("network", "training") or name.startswith("_")
        (super().__setattr__ if mine else partial(setattr, self.network))(name, value)

    def __getitem__(self, key: Any) -> Any:
        return InBfloat16(self.network[key])  # pyright: ignore[reportIndexIssue]


def in_bfloat16(function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """A network or its method, rounded: tensors come out in float32, networks wrapped."""
    network: Any = getattr(function, "__self__", function)
    leaves = tree_leaves((inputs, options, next(network.parameters(), torch.empty(0))))
    device = next(x.device.type for x in leaves if isinstance(x, Tensor))
    with torch.autocast(device, torch.bfloat16, cache_enabled=False):
        outputs = function(*inputs, **options)

    def leave(x: Any) -> Any:
        if isinstance(x, nn.Module):
            return InBfloat16(x)
        return x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x

    return tree_map(leave, [*outputs] if isinstance(outputs, ItemsView | ValuesView) else outputs)
