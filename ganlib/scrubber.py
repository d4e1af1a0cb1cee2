"""A slider through frames that needs no kernel, and its twin for a live one."""

import base64
import html
import io
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from ganlib.guards import require_at_least, require_between, require_images


class Scrubber:
    """Frames with a slider under them, in plain HTML: no kernel, no widgets, works by keyboard.

    `paint(value)` returns the figure of one frame, or its pixels as an array in [0, 1] (equal sizes
    for all); `alt(value)` says what is to be seen in it, and `label` names what the slider moves.
    Where HTML is not shown (print, a terminal) the frame `start` stands for all. `width` is the
    largest width on the page, in rem; on a narrow screen a figure keeps 32 and scrolls. ValueError
    for no values, a `start` that is not among them, and pixels of another range or size.
    """

    def __init__(
        self,
        paint: Callable[[Any], Figure | np.ndarray],
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
            raise ValueError("at least one value to paint expected, got none")
        require_at_least(-len(values), start=start)
        if start >= len(values):
            raise ValueError(f"a start below {len(values)} expected, got {start}")
        require_between(1, 10_000, dpi=dpi, width=width)
        self.frames, self.rendering = [], "auto"
        sizes: set[tuple[int, ...]] = set()
        for value in values:
            frame = paint(value)
            self.frames.append(_webp(frame, dpi))
            if not isinstance(frame, Figure):
                self.rendering = "pixelated"
                sizes.add(np.shape(frame))
        if len(sizes) > 1:
            raise ValueError(f"pixels of one size expected, got {sorted(sizes)}")
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
            least=min(self.width, 32 if self.rendering == "auto" else 0),  # its words stay readable
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
<div role="group" aria-label="picture; scrolls sideways where it is wider" tabindex="0"
style="overflow-x:auto"><img src="{src}" alt="{alt}" class="dark-light"
style="display:block;width:100%;min-width:{least}rem;height:auto;image-rendering:{rendering}"></div>
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
        pixels = torch.tensor(np.asarray(frame))
        require_images((pixels[..., None] if pixels.ndim == 2 else pixels).movedim(-1, 0)[None])
        picture = Image.fromarray((255 * np.asarray(frame) + 0.5).astype(np.uint8)).convert("RGB")
        picture.save(small, format="webp", quality=80, method=4)
    return small.getvalue()


def explore(paint: Callable[[Any], Figure], values: Sequence[Any], *, label: str) -> Any:
    """The same slider for a live kernel: an ipywidgets control that calls `paint` again."""
    import ipywidgets

    if not len(values):
        raise ValueError("at least one value to paint expected, got none")
    slider = ipywidgets.SelectionSlider(
        options=[(f"{v:.3g}" if isinstance(v, float) else str(v), v) for v in values],
        description=label,
        continuous_update=False,
        style={"description_width": "initial"},
    )
    return ipywidgets.interactive(lambda value: paint(value), value=slider)
