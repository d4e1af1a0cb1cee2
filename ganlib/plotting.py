"""Figures in the book's style, and a scrubber through frames that needs no kernel.

A figure made by `new_figure` is not registered with pyplot: it appears once, where a cell ends
in it. Roles of Figure 1 of Goodfellow et al. (2014), in Okabe and Ito's colors: data black dotted,
generator green solid, discriminator blue dashed. Curves that are neither take the other colors.
"""

import base64
import html
import io
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ganlib.trainer import History

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
    """Images (n, c, h, w) in [0, 1] tiled into one array (height, width, c or none), in [0, 1]."""
    if images.ndim != 4:
        raise ValueError(f"images (n, c, h, w) expected, got {tuple(images.shape)}")
    n, c, h, w = images.shape
    rows = -(-n // columns)
    tiles = torch.ones(rows * columns, c, h + pad, w + pad)
    tiles[:n, :, :h, :w] = images.detach().float().cpu().clamp(0, 1)
    tiles = tiles.reshape(rows, columns, c, h + pad, w + pad).permute(0, 3, 1, 4, 2)
    array = tiles.reshape(rows * (h + pad), columns * (w + pad), c).numpy()
    array = array[: rows * (h + pad) - pad, : columns * (w + pad) - pad]
    return array[..., 0] if c == 1 else array


def draw_images(ax: Axes, images: Tensor, columns: int = 8, title: str = "") -> None:
    """Draw a grid of images (n, c, h, w) in [0, 1] into `ax`, white ink on black."""
    ax.imshow(image_array(images, columns), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title, fontsize=11)


def show_images(images: Tensor, columns: int = 8, width: float = 5.0, title: str = "") -> Figure:
    """Figure with a grid of images (n, c, h, w) in [0, 1]."""
    rows = -(-len(images) // columns)
    figure, ax = new_figure(width, width * rows / columns + (0.3 if title else 0.0))
    draw_images(ax, images, columns, title)
    return figure


def draw_roles(
    ax: Axes,
    x: Tensor,
    p_data: Tensor | None = None,
    p_g: Tensor | None = None,
    d: Tensor | None = None,
) -> None:
    """Draw densities (and D) over x, each in its role's color and line style, with labels."""
    for values, style, label in (
        (p_data, DATA, r"$p_\mathrm{data}$"),
        (p_g, GENERATOR, r"$p_g$"),
        (d, DISCRIMINATOR, r"$D$"),
    ):
        if values is not None:
            ax.plot(x, values, **style, label=label)
    ax.set_xlabel("$x$")


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a window of `window` steps ending at each step (fewer at the start)."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def draw_history(
    ax: Axes, history: History, curves: dict[str, dict[str, Any]], window: int = 50
) -> None:
    """Draw recorded scalars over the steps, smoothed, each with its own line options."""
    for name, style in curves.items():
        steps, values = history.series(name)
        every = int(np.median(np.diff(steps))) if len(steps) > 1 else 1
        ax.plot(steps, smooth(values, max(window // every, 1)), **{"label": name, **style})
    ax.set_xlabel("step of G")
    ax.legend()


class Scrubber:
    """Frames with a slider under them, in plain HTML: no kernel, no widgets, works by keyboard.

    `draw(value)` returns the figure of one frame, or its pixels as an array in [0, 1] (equal sizes
    for all); `alt(value)` says what is to be seen in it, and `label` names what the slider moves.
    Where HTML is not shown (print, a terminal) the frame `start` stands for all. `width` is the
    largest width on the page, in rem.
    """

    def __init__(
        self,
        draw: Callable[[Any], Figure | np.ndarray],
        values: Sequence[Any],
        *,
        label: str,
        alt: Callable[[Any], str],
        shown: Callable[[Any], str] = str,
        start: int = 0,
        dpi: int = 84,
        width: float = 46,
    ):
        if not len(values):
            raise ValueError("at least one value to draw expected, got none")
        self.frames, self.rendering = [], "auto"
        for value in values:
            frame = draw(value)
            self.frames.append(_webp(frame, dpi))
            if not isinstance(frame, Figure):
                self.rendering = "pixelated"
        self.alts = [alt(value) for value in values]
        self.shown = [shown(value) for value in values]
        self.label, self.start, self.width = label, start % len(values), width

    def __repr__(self) -> str:
        return f"Scrubber of {len(self.frames)} frames over {self.label}: {self.alts[self.start]}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(self.frames[self.start])).save(buffer, format="png")
        png = base64.b64encode(buffer.getvalue()).decode()
        return {"text/html": self._html(), "image/png": png, "text/plain": repr(self)}

    def _html(self) -> str:
        sources = [f"data:image/webp;base64,{base64.b64encode(f).decode()}" for f in self.frames]
        frames = "".join(
            f'<option value="{i}" data-src="{src}" data-alt="{html.escape(alt)}">'
            f"{html.escape(shown)}</option>"
            for i, (src, alt, shown) in enumerate(zip(sources, self.alts, self.shown, strict=True))
        )
        key = f"scrubber-{uuid.uuid4().hex[:8]}"
        return _SCRUBBER.format(
            key=key,
            width=self.width,
            rendering=self.rendering,
            src=sources[self.start],
            alt=html.escape(self.alts[self.start]),
            label=html.escape(self.label),
            last=len(self.frames) - 1,
            start=self.start,
            shown=html.escape(self.shown[self.start]),
            frames=frames,
        )


# One slider, one picture, a button that plays the frames once. The frames stand in a <datalist>,
# which browsers do not display.
_SCRUBBER = """
<div class="scrubber" id="{key}"
style="background:#fff;color:#000;max-width:{width}rem;margin:0 auto;padding:.4rem">
<img src="{src}" alt="{alt}" class="dark-light"
style="display:block;width:100%;height:auto;image-rendering:{rendering}">
<div style="display:flex;gap:.7rem;align-items:center;flex-wrap:wrap">
<button type="button" style="color:#000;background:#fff;border:1px solid #767676;
border-radius:.25rem;padding:.1rem .7rem;min-width:4.2rem">Play</button>
<label for="{key}-range">{label}</label>
<input type="range" id="{key}-range" min="0" max="{last}" step="1" value="{start}"
aria-valuetext="{shown}" style="flex:1 1 9rem">
<output for="{key}-range" style="min-width:3.5rem">{shown}</output>
</div>
<datalist>{frames}</datalist>
<script>
(() => {{
  const root = document.getElementById("{key}");
  const [image, range] = [root.querySelector("img"), root.querySelector("input")];
  const [output, button] = [root.querySelector("output"), root.querySelector("button")];
  const frames = [...root.querySelectorAll("option")];
  let timer = null;
  const show = () => {{
    const frame = frames[range.value];
    image.src = frame.dataset.src;
    image.alt = frame.dataset.alt;
    output.textContent = frame.textContent;
    range.setAttribute("aria-valuetext", frame.textContent);
  }};
  const stop = () => {{ clearInterval(timer); timer = null; button.textContent = "Play"; }};
  range.addEventListener("input", () => {{ stop(); show(); }});
  button.addEventListener("click", () => {{
    if (timer) return stop();
    if (+range.value === +range.max) range.value = 0;
    button.textContent = "Pause";
    show();
    timer = setInterval(() => {{
      if (+range.value >= +range.max) return stop();
      range.value = +range.value + 1;
      show();
    }}, Math.max(120, Math.min(500, 8000 / frames.length)));
  }});
}})();
</script>
</div>
"""


def _webp(frame: Figure | np.ndarray, dpi: int) -> bytes:
    """A frame as a small WebP: a figure without loss in few colors, an image with slight loss."""
    buffer, small = io.BytesIO(), io.BytesIO()
    if isinstance(frame, Figure):
        frame.savefig(buffer, format="png", dpi=dpi, facecolor="white")
        picture = Image.open(buffer).convert("RGB")
        # Maximum coverage keeps the colors of thin lines, which a median cut would mix.
        picture = picture.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        picture.convert("RGB").save(small, format="webp", lossless=True, quality=100, method=4)
    else:
        picture = Image.fromarray((255 * np.asarray(frame) + 0.5).astype(np.uint8)).convert("RGB")
        picture.save(small, format="webp", quality=80, method=4)
    return small.getvalue()


def explore(draw: Callable[[Any], Figure], values: Sequence[Any], *, label: str) -> Any:
    """The same slider for a live kernel: an ipywidgets control that calls `draw` again."""
    import ipywidgets

    slider = ipywidgets.SelectionSlider(
        options=[(f"{v:.3g}" if isinstance(v, float) else str(v), v) for v in values],
        description=label,
        continuous_update=False,
        style={"description_width": "initial"},
    )
    return ipywidgets.interactive(lambda value: draw(value), value=slider)
