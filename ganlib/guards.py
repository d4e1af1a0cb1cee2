"""Errors in a sentence, where training would otherwise go wrong without a word."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim.swa_utils import AveragedModel


def check_players(
    generator: Module, discriminator: Module, by_g: Sequence[Tensor], by_d: Sequence[Tensor]
) -> None:
    """ValueError unless the optimizers, which move the weights `by_g` and `by_d`, share them out.

    Each trainable weight of either network is moved by one optimizer, and each optimizer moves
    some of its own player's; a weight outside both networks would be lost in a checkpoint.
    """
    of_g = {w: f"generator.{name}" for name, w in generator.named_parameters()}
    of_d = {w: f"discriminator.{name}" for name, w in discriminator.named_parameters()}
    names: dict[Tensor, str] = {**of_g, **of_d}
    g, d = set(by_g), set(by_d)
    if not g & of_g.keys() or not d & of_d.keys():
        raise ValueError(
            "opt_g moves no weight of the generator or opt_d none of the discriminator: are the "
            "optimizers swapped, or has one of the networks no trainable weight?"
        )
    idle = {w for w in names if w.requires_grad} - g - d
    for weights, what in (
        (idle, "moved by no optimizer: give them to one, or freeze them by requires_grad_(False)"),
        (g & d, "moved by both optimizers: leave them to one"),
        ((g | d) - names.keys(), "moved, but in neither network, so no checkpoint keeps them"),
    ):
        if weights:
            some = sorted(names.get(w, f"a weight {tuple(w.shape)}") for w in weights)
            raise ValueError(f"{len(weights)} weights ({', '.join(some[:3])}) are {what}")


def check_average(generator: Module, average: AveragedModel | None) -> None:
    """ValueError for a running average that is not of this generator, or no longer of its form."""
    if average is None:
        return
    if found := difference(generator, average.module):
        what, in_g, in_average = found
        hint = ": a number that changes belongs into a buffer" if "attribute" in what else ""
        raise ValueError(
            f"a running average of this generator expected, but {what} is {in_g} in G and "
            f"{in_average} in the average{hint}"
        )


def difference(network: Module, other: Module) -> tuple[str, Any, Any] | None:
    """The first difference in form between two networks, as (what, here, there), or None.

    Compared are the tensors' shapes, the layers' types and their plain attributes, such as a slope.
    """
    for kind, here, there in zip(
        ("tensor", "layer", "attribute"), _form(network), _form(other), strict=True
    ):
        for name in here | there:
            if here.get(name) != there.get(name):
                return f"{kind} {name}", here.get(name), there.get(name)
    return None


def _form(network: Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Shapes of the tensors, types of the layers and plain attributes of the layers, by name."""
    layers = dict(network.named_modules())
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    attributes = {
        f"{name}.{attribute}".lstrip("."): plain
        for name, layer in layers.items()
        for attribute, plain in vars(layer).items()
        if isinstance(plain, bool | int | float | str)
        and attribute != "training"
        and not attribute.startswith("_")
    }
    return shapes, {name: type(layer).__name__ for name, layer in layers.items()}, attributes


def require_some_gradient(loss_function: Callable[..., Any], weights: Sequence[Tensor]) -> None:
    """ValueError if a player's loss left no gradient in any of the player's weights."""
    if all(weight.grad is None for weight in weights):
        name = getattr(loss_function, "__name__", "the loss")
        raise ValueError(
            f"{name} depends on none of the {len(weights)} weights that its player's optimizer "
            "moves: are the losses, or the optimizers, swapped?"
        )


def require_at_least(least: int, **counts: int) -> None:
    """ValueError for the first of the named counts that is below `least`."""
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} >= {least} expected, got {count}")


def require_finite(name: str, number: Any, step: int) -> None:
    """FloatingPointError for a number, or one among several, that is infinite or not a number."""
    if not np.isfinite(number).all():
        raise FloatingPointError(
            f"{name} is {number} at step {step}: training stopped. Common causes: a learning rate "
            "that is too high, or a logarithm of a sigmoid in the loss"
        )


def require_points(x: Tensor, y: Tensor) -> None:
    """ValueError unless x (n, d) and y (m, d) are finite points of one dimension, m >= 1."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(y):
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"points (n, d) and (m, d), m >= 1, expected, got {shapes}")
    for points in (x, y):
        if not torch.isfinite(points).all():
            bad = points[~torch.isfinite(points)][0].item()
            raise ValueError(f"points with finite coordinates expected, got {bad}")


def require_batch(what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless x has the shape (n, *shape) that a network takes; values are not read."""
    if tuple(x.shape[1:]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{what} of shape (n, {wanted}) expected, got {tuple(x.shape)}")


def require_images(images: Tensor, shape: tuple[int, ...] | None = None) -> None:
    """ValueError unless float images (n >= 1, c, h, w), each of `shape` if given, in [0, 1]."""
    found, wanted = tuple(images.shape), "c, h, w" if shape is None else str(shape)[1:-1]
    right = len(found) == 4 if shape is None else found[1:] == shape
    if not right or not images.is_floating_point() or not images.numel():
        raise ValueError(
            f"float images (n >= 1, {wanted}) in [0, 1] expected, got {images.dtype} {found}"
        )
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # a NaN is neither
        raise ValueError(f"images in [0, 1] expected, got values from {low:g} to {high:g}")
