"""Errors in a sentence, where a number would otherwise be wrong without a word.

What is checked of numbers is checked here: type, size, range, and that they are finite.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from reprlib import repr as shortened
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim.swa_utils import AveragedModel

LARGEST = 1e75  # products of four such numbers, as of two covariances, are finite in float64
TINY = 1 / LARGEST


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


def require_at_least(least: int, **counts: int | Sequence[int]) -> None:
    """ValueError for the first of the named counts, or lists of counts, that is below `least`.

    TypeError for what is no whole number: a NaN is below nothing, and 2.5 steps are never reached.
    """
    for name, count in _one_by_one(counts):
        try:
            operator.index(count)
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"a whole number {name} expected, got {shortened(count)}") from error
        if count < least:
            raise ValueError(f"{name} >= {least} expected, got {count}")


def require_between(least: float, most: float, **numbers: Any) -> None:
    """ValueError for the first of the named numbers, or lists, that is not in [least, most].

    TypeError for what is no real number. A tensor of one number is one.
    """
    for name, number in _one_by_one(numbers):
        if not _is_number(number):
            raise TypeError(f"a number {name} expected, got {shortened(number)}")
        if not least <= number <= most:
            raise ValueError(f"{name} from {least:g} to {most:g} expected, got {number!r}")


def _is_number(given: Any) -> bool:
    if isinstance(given, Tensor):
        return given.numel() == 1 and not given.is_complex() and not given.is_meta
    return isinstance(given, Real)


def require_positive(**numbers: Any) -> None:
    """`require_between` 1e-75 and 1e75, whose squares neither vanish nor overflow."""
    require_between(TINY, LARGEST, **numbers)


def _one_by_one(named: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, given in named.items():
        for one in given if isinstance(given, list | tuple) else [given]:
            yield name, one


def require_real(what: str, x: Any) -> None:
    """TypeError unless x is a tensor of real numbers, whose values are not looked at."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} in a tensor expected, got {shortened(x)}")
    if x.is_complex():
        raise TypeError(f"{what} in a tensor of real numbers expected, got {x.dtype}")


def require_values(what: str, x: Any) -> None:
    """ValueError unless the tensor x has its values at hand, each finite and at most 1e75 in size.

    Of larger ones squares of squares overflow. TypeError for what is no tensor of real numbers; an
    empty one passes.
    """
    require_real(what, x)
    if x.is_meta:
        raise ValueError(f"{what} expected, got none on the device meta: {tuple(x.shape)}")
    if not x.numel():
        return
    low, high = (bound.item() for bound in x.detach().aminmax())
    if not -LARGEST <= low <= high <= LARGEST:  # a NaN makes both bounds NaN
        bad = low if low < -LARGEST else high
        limit = f" up to {LARGEST:g} in size" if np.isfinite(bad) else ""
        raise ValueError(f"{what}{limit} expected, got {bad}")


def require_finite(name: str, number: Any, step: int) -> None:
    """FloatingPointError for a number, or one among several, that is infinite or not a number."""
    if not np.isfinite(number).all():
        raise FloatingPointError(
            f"{name} is {number} at step {step}: training stopped. Common causes: a learning rate "
            "that is too high, or a logarithm of a sigmoid in the loss"
        )


def require_points(x: Tensor, y: Tensor, least: int = 0) -> None:
    """ValueError unless x (n, d) and y (m, d) are finite, d and m >= 1, and n at least `least`."""
    for points in (x, y):
        require_real("points", points)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not y.numel():
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"points (n, d) and (m, d), d and m >= 1, expected, got {shapes}")
    if len(x) < least:
        raise ValueError(f"{least} points (n, d) or more expected, got {tuple(x.shape)}")
    for points in (x, y):
        require_values("points with finite coordinates", points)


def require_samples(x: Tensor, y: Tensor) -> None:
    """ValueError unless x and y (n >= 1,) are finite, with sums that floating point can hold."""
    for sample in (x, y):
        require_real("samples", sample)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"two samples (n,) of equal size expected, got {shapes}")
    for sample in (x, y):
        require_values("samples of finite numbers", sample)
        if not sample.is_floating_point():
            raise ValueError(f"samples in floating point expected, got {sample.dtype}")
        size, limit = sample.detach().abs().max().item(), torch.finfo(sample.dtype).max
        if size > limit / (2 * len(sample)):
            raise ValueError(f"smaller numbers in {sample.dtype} expected, got {size:g} in size")


def require_vectors(x: Tensor, y: Tensor, least: int = 0) -> None:
    """As `require_points`, but x (n, ...) and y (m, ...), each flattened to points."""
    for points in (x, y):
        require_real("points", points)
        if points.ndim < 2:
            raise ValueError(f"points or images (n, ...) expected, got {tuple(points.shape)}")
    require_points(x.flatten(1), y.flatten(1), least)


def require_batch(what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless x has the shape (n, *shape) that a network takes; values are not read."""
    if tuple(x.shape[1:]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{what} of shape (n, {wanted}) expected, got {tuple(x.shape)}")


def require_images(images: Tensor, shape: tuple[int, ...] | None = None) -> None:
    """ValueError unless float images (n >= 1, c, h, w), each of `shape` if given, in [0, 1].

    TypeError for what is no tensor.
    """
    require_real("images", images)
    found, wanted = tuple(images.shape), "c, h, w" if shape is None else str(shape)[1:-1]
    right = len(found) == 4 if shape is None else found[1:] == shape
    if not right or not images.is_floating_point() or not images.numel():
        raise ValueError(
            f"float images (n >= 1, {wanted}) in [0, 1] expected, got {images.dtype} {found}"
        )
    if images.is_meta:
        raise ValueError(f"images in [0, 1] expected, got none on the device meta: {found}")
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # a NaN is neither
        raise ValueError(f"images in [0, 1] expected, got values from {low:g} to {high:g}")
