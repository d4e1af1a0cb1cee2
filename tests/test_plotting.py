"""ganlib.plotting: exact arrays, the roles' styles, and the scrubber's HTML."""

import base64
import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup, Tag
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ganlib.history import History
from ganlib.plotting import (
    BLUE,
    GREEN,
    PURPLE,
    image_array,
    new_figure,
    paint_history,
    paint_images,
    paint_roles,
    show_images,
    smooth,
    use_style,
)
from ganlib.scrubber import Scrubber, explore

# Images and curves


@pytest.mark.parametrize(("n", "columns", "pad"), [(5, 3, 1), (6, 2, 2), (1, 4, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_array_puts_each_image_in_its_place_on_white(n, columns, pad, channels):
    images = torch.rand(n, channels, 2, 4)
    rows = -(-n // columns)
    expected = np.ones((rows * (2 + pad) - pad, columns * (4 + pad) - pad, channels))
    for i in range(n):
        top, left = i // columns * (2 + pad), i % columns * (4 + pad)
        expected[top : top + 2, left : left + 4] = images[i].permute(1, 2, 0).numpy()
    found = image_array(images, columns, pad)
    assert found.shape == expected.shape[: 2 if channels == 1 else 3]
    assert np.array_equal(found.reshape(expected.shape), expected.astype(np.float32))


def test_image_array_clamps_to_0_and_1_and_takes_images_with_gradients():
    images = torch.tensor([-0.5, 0.25, 1.5]).reshape(1, 1, 1, 3).requires_grad_()
    assert image_array(images, 1).tolist() == [[0.0, 0.25, 1.0]]


def test_image_array_refuses_and_quotes_another_shape():
    with pytest.raises(
        ValueError, match=r"\(n, c, h, w\) in \[0, 1\] expected, got torch.float32 \(5, 28, 28\)"
    ):
        image_array(torch.zeros(5, 28, 28), 2)


def test_images_are_painted_on_a_fixed_scale_from_black_to_white():
    _, ax = new_figure()
    images = torch.full((3, 1, 2, 2), 0.5)
    paint_images(ax, images, columns=2, title="Samples")
    assert ax.images[0].get_clim() == (0, 1)
    assert np.array_equal(ax.images[0].get_array(), image_array(images, 2))
    assert ax.get_title() == "Samples"
    assert to_hex(ax.images[0].to_rgba(np.array([[1.0]]))[0, 0]) == "#ffffff"
    shown = show_images(images, columns=2, width=4.0)
    assert shown.get_size_inches().tolist() == [4.0, 4.0]


@pytest.mark.parametrize("window", [1, 3, 50])
def test_smooth_is_the_mean_of_the_last_values(window):
    values = np.random.default_rng(0).normal(2, 1, 20)
    expected = [values[max(0, i - window + 1) : i + 1].mean() for i in range(20)]
    assert smooth(values, window) == pytest.approx(expected, rel=1e-12)


def test_a_large_value_spoils_no_mean_that_it_is_not_part_of():
    assert smooth(np.array([1e30, 1.0, 2.0, 4.0]), 2)[2:].tolist() == [1.5, 3.0]


def test_each_role_has_its_own_color_and_line_style():
    _, ax = new_figure()
    x = torch.linspace(0, 1, 5)
    paint_roles(ax, x, p_data=x + 1, p_g=x + 2, d=x + 3)
    looks = [(to_hex(line.get_color()), line.get_linestyle()) for line in ax.lines]
    assert looks == [("#000000", ":"), ("#009e73", "-"), ("#0072b2", "--")]
    assert [line.get_label() for line in ax.lines] == [r"$p_\mathrm{data}$", "$p_g$", "$D$"]
    assert [float(line.get_ydata()[0]) for line in ax.lines] == [1.0, 2.0, 3.0]


def test_a_role_without_values_is_left_out():
    _, ax = new_figure()
    paint_roles(ax, torch.linspace(0, 1, 5), p_g=torch.ones(5))
    assert [line.get_label() for line in ax.lines] == ["$p_g$"]


def test_history_is_painted_over_its_steps_with_a_window_in_steps():
    history, (_, ax) = History(), new_figure()
    for step in range(1, 41):
        history.record(step, {"loss/D": float(step**2)})
    for step in range(10, 41, 10):
        history.record(step, {"grad/D": float(step)})
    paint_history(ax, history, {"loss/D": {"color": "#123456"}, "grad/D": {"label": "norm"}}, 20)
    every, tenth = ax.lines
    values = np.arange(1, 41) ** 2.0
    assert every.get_xdata().tolist() == list(range(1, 41))
    assert every.get_ydata()[[0, 39]] == pytest.approx([1.0, values[20:].mean()])
    assert every.get_color() == "#123456"
    assert tenth.get_xdata().tolist() == [10, 20, 30, 40]
    assert tenth.get_ydata() == pytest.approx([10, 15, 25, 35])  # 20 steps are 2 records
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss/D", "norm"]


def test_new_figures_are_not_registered_with_pyplot():
    figure, axes = new_figure(4.0, 2.0, rows=2, columns=3)
    assert plt.get_fignums() == []
    assert figure.get_size_inches().tolist() == [4.0, 2.0]
    assert axes.shape == (2, 3)


def test_style_gives_figures_an_opaque_white_card():
    with plt.rc_context({"figure.facecolor": "none", "savefig.facecolor": "auto"}):
        use_style()
        figure, _ = new_figure()
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert plt.rcParams["savefig.facecolor"] == "white"


# The scrubber


def bar(height: float) -> Figure:
    figure, ax = new_figure(2.0, 1.0)
    ax.bar([0], [height])
    ax.set_ylim(0, 5)
    return figure


@pytest.fixture
def scrubber() -> Scrubber:
    return Scrubber(
        bar,
        [1.0, 2.5, 4.0],
        label="height < 5 & more",
        alt=lambda h: f'a "bar" of height {h}',
        shown=lambda h: f"{h} <m>",
        start=1,
    )


def only(soup: BeautifulSoup, name: str) -> Tag:
    found = soup.find_all(name)
    assert len(found) == 1
    assert isinstance(found[0], Tag)
    return found[0]


def test_scrubber_shows_one_image_with_the_alt_text_of_its_start(scrubber):
    soup = BeautifulSoup(scrubber._repr_mimebundle_()["text/html"], "html.parser")
    image = only(soup, "img")
    assert image["alt"] == 'a "bar" of height 2.5'
    assert image["src"] == soup.find_all("option")[1]["data-src"]


def test_scrubber_has_one_labelled_range_over_all_its_frames(scrubber):
    soup = BeautifulSoup(scrubber._repr_mimebundle_()["text/html"], "html.parser")
    control, label, output = (only(soup, name) for name in ("input", "label", "output"))
    ends = [control[name] for name in ("type", "min", "max", "step", "value")]
    assert ends == ["range", "0", "2", "1", "1"]
    assert [label["for"]] == [control["id"]] == output["for"]
    assert label.get_text() == "height < 5 & more"
    assert control["aria-valuetext"] == output.get_text() == "2.5 <m>"


def test_scrubber_carries_every_frame_with_its_own_picture_and_texts(scrubber):
    soup = BeautifulSoup(scrubber._repr_mimebundle_()["text/html"], "html.parser")
    options = soup.find_all("option")
    assert [o["value"] for o in options] == ["0", "1", "2"]
    assert [o["data-alt"] for o in options] == [f'a "bar" of height {h}' for h in (1.0, 2.5, 4.0)]
    assert [o.get_text() for o in options] == ["1.0 <m>", "2.5 <m>", "4.0 <m>"]
    inks = []
    for option in options:
        kind, data = str(option["data-src"]).split(",")
        assert kind == "data:image/webp;base64"
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
        inks.append((pixels < 200).sum())
    assert inks[0] < inks[1] < inks[2]


def test_scrubber_falls_back_to_a_png_and_a_line_of_text(scrubber):
    bundle = scrubber._repr_mimebundle_()
    still = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    frame = Image.open(io.BytesIO(scrubber.frames[1]))
    assert (still.format, frame.format) == ("PNG", "WEBP")
    assert still.convert("RGB").tobytes() == frame.convert("RGB").tobytes()
    expected = 'Scrubber of 3 frames over height < 5 & more: a "bar" of height 2.5'
    assert bundle["text/plain"] == expected


def test_frames_keep_the_roles_colors_beside_a_gray_picture():
    def paint(_):
        figure, axes = new_figure(3, 1.5, 1, 2)
        axes[0].imshow(np.random.default_rng(0).random((40, 40)), cmap="gray")
        for height, color in enumerate((GREEN, BLUE, PURPLE)):
            axes[1].plot([0, 1], [height, height], color=color, linewidth=3)
        return figure

    frame = Scrubber(paint, [0], label="none", alt=str).frames[0]
    pixels = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")).astype(int)
    for color in (GREEN, BLUE, PURPLE):
        wanted = (255 * np.array(to_rgb(color))).round()
        assert np.abs(pixels - wanted).sum(2).min() <= 6


def test_two_scrubbers_on_a_page_share_no_id(scrubber):
    page = "".join(scrubber._repr_mimebundle_()["text/html"] for _ in range(2))
    soup = BeautifulSoup(page, "html.parser")
    ids = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(ids) == len(set(ids)) == 4


def test_scrubber_counts_its_start_from_the_end_when_it_is_negative():
    made = Scrubber(bar, [1, 2, 3], label="h", alt=str, start=-1)
    soup = BeautifulSoup(made._repr_mimebundle_()["text/html"], "html.parser")
    assert (only(soup, "img")["alt"], only(soup, "input")["value"]) == ("3", "2")


def test_scrubber_without_values_is_refused():
    with pytest.raises(ValueError, match="at least one value to paint expected"):
        Scrubber(bar, [], label="h", alt=str)


def test_explore_is_a_slider_that_paints_the_chosen_value():
    painted = []

    def paint(height: float) -> Figure:
        painted.append(height)
        return bar(height)

    widget = explore(paint, [1, 2.25], label="height")
    (slider,) = [c for c in widget.children if isinstance(c, ipywidgets.SelectionSlider)]
    assert slider.options == (("1", 1), ("2.25", 2.25))
    assert slider.description == "height"
    slider.value = 2.25
    widget.update()
    assert painted[-1] == 2.25


def test_on_a_narrow_screen_a_figure_keeps_its_width_and_scrolls_and_pixels_shrink():
    figure = Scrubber(bar, [1], label="h", alt=str)
    pixels = Scrubber(lambda _: np.zeros((8, 8)), [1], label="h", alt=str)
    for made, least in ((figure, "32rem"), (pixels, "0rem")):
        image = only(BeautifulSoup(made._repr_mimebundle_()["text/html"], "html.parser"), "img")
        assert f"min-width:{least}" in str(image["style"])
        frame = image.parent
        assert frame is not None
        assert "overflow-x:auto" in str(frame["style"])
        assert (frame["tabindex"], frame["role"]) == ("0", "group")  # keys must reach what scrolls
