"""Figures in the book's style.

A figure made by `new_figure` is not registered with pyplot: it appears once, where a cell ends
in it. Roles of Figure 1 of Goodfellow et al. (2014), in Okabe and Ito's colors: data black dotted,
generator green solid, discriminator blue dashed. Curves that are neither take the other colors.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ganlib.guards import require_at_least, require_real, require_values
from ganlib.history import History

BLACK, GREEN, BLUE = "#000000", "#009E73", "#0072B2"
ACCENT, PURPLE, ORANGE = "#D55E00", "#CC79A7", "#E69F00"
DATA: dict[str, Any] = {"color": BLACK, "linestyle": ":", "linewidth": 2.2}
GENERATOR: dict[str, Any] = {"color": GREEN, "linestyle": "-", "linewidth": 2.0}
DISCRIMINATOR: dict[str, Any] = {"color": BLUE, "linestyle": "--", "linewidth": 2.0}


def use_style() -> None:
    """Set matplotlib's defaults for the book: an opaque white card, readable sizes, light grid."""
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 130,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#E4E4E4",
            "grid.linewidth": 0.7,
            "axes.axisbelow": True,
            "legend.frameon": False,
        }
    )


def new_figure(
    width: float = 7.0, height: float = 3.2, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """Figure of the given size in inches and its axes, as `plt.subplots` returns them."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), **options)
    plt.close(figure)
    return figure, axes


def image_array(images: Tensor, columns: int, pad: int = 1) -> np.ndarray:
    """Images (n, c, h, w) in [0, 1] tiled into one array (height, width, c or none), in [0, 1].

    What lies outside is painted black or white. ValueError for other shapes or types, and for
    pixels that are not finite.
    """
    require_real("images", images)
    require_at_least(1, columns=columns)
    require_at_least(0, pad=pad)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"float images (n, c, h, w) in [0, 1] expected, got {images.dtype} "
            f"{tuple(images.shape)}: bytes are to be divided by 255"
        )
    if not images.numel():
        raise ValueError(f"images (n >= 1, c, h, w) expected, got {tuple(images.shape)}")
    require_values("images with finite pixels", images)
    n, c, h, w = images.shape
    rows = -(-n // columns)
    tiles = torch.ones(rows * columns, c, h + pad, w + pad)
    tiles[:n, :, :h, :w] = images.detach().float().cpu().clamp(0, 1)
    tiles = tiles.reshape(rows, columns, c, h + pad, w + pad).permute(0, 3, 1, 4, 2)
    array = tiles.reshape(rows * (h + pad), columns * (w + pad), c).numpy()
    array = array[: rows * (h + pad) - pad, : columns * (w + pad) - pad]
    return array[..., 0] if c == 1 else array


def paint_images(ax: Axes, images: Tensor, columns: int = 8, title: str = "") -> None:
    """Paint a grid of images (n, c, h, w) in [0, 1] into `ax`, white ink on black."""
    ax.imshow(image_array(images, columns), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title, fontsize=11)


def show_images(images: Tensor, columns: int = 8, width: float = 5.0, title: str = "") -> Figure:
    """Figure with a grid of images (n, c, h, w) in [0, 1]."""
    require_real("images", images)
    require_at_least(1, columns=columns)
    rows = -(-len(images) // columns)
    figure, ax = new_figure(width, width * rows / columns + (0.3 if title else 0.0))
    paint_images(ax, images, columns, title)
    return figure


def paint_roles(
    ax: Axes,
    x: Tensor,
    p_data: Tensor | None = None,
    p_g: Tensor | None = None,
    d: Tensor | None = None,
) -> None:
    """Paint densities (and D) over x, each in its role's color and line style, with labels.

    ValueError for numbers that are not finite, which would be left out, and for other shapes.
    """
    require_values("finite x", torch.as_tensor(x))
    for values, style, label in (
        (p_data, DATA, r"$p_\mathrm{data}$"),
        (p_g, GENERATOR, r"$p_g$"),
        (d, DISCRIMINATOR, r"$D$"),
    ):
        if values is not None:
            require_values(f"finite values of {label}", torch.as_tensor(values))
            ax.plot(x, values, **style, label=label)
    ax.set_xlabel("$x$")


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a window of `window` steps ending at each step (fewer at the start).

    Values (n >= 1,), each sum taken anew, so that a large one spoils no mean it is not part of.
    ValueError for other shapes and for values that are not finite.
    """
    require_at_least(1, window=window)
    require_values("finite values", torch.as_tensor(values))
    if np.ndim(values) != 1 or not len(values):
        raise ValueError(f"values (n >= 1,) expected, got {np.shape(values)}")
    window = min(window, len(values))
    sums = np.convolve(values, np.ones(window))[: len(values)]
    return sums / np.minimum(np.arange(1, len(values) + 1), window)


def paint_history(
    ax: Axes, history: History, curves: dict[str, dict[str, Any]], window: int = 50
) -> None:
    """Paint recorded scalars over the steps, smoothed, each with its own line options."""
    require_at_least(1, window=window)
    for name, style in curves.items():
        steps, values = history.series(name)
        every = int(np.median(np.diff(steps))) if len(steps) > 1 else 1
        ax.plot(steps, smooth(values, max(window // every, 1)), **{"label": name, **style})
    ax.set_xlabel("step of G")
    ax.legend()
