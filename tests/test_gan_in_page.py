"""The GAN that trains in the page (book/_static/gan.js), run in Chromium, against torch."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from playwright.sync_api import expect, sync_playwright
from torch import nn

from ganlib.games import gan_loss_d, gan_loss_g, minimax_loss_g
from ganlib.models import small_pair
from ganlib.trainer import State, train_step

BOOK = Path(__file__).parents[1] / "book"
STATIC = BOOK / "_static"
sys.path.insert(0, str(BOOK))
from pdf import one_page, print_page  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]

# Runs rounds of training from given weights on given batches; returns losses and weights.
ROUNDS = """({weights, batches, minimax}) => {
  const random = Gan.randomNumbers(1);
  const network = (sizes, given) => {
    const net = new Gan.Mlp(sizes, random);
    net.parameters().forEach(([w], p) => w.set(given[p]));
    return net;
  };
  const generator = network([2, 32, 32, 2], weights.generator);
  const discriminator = network([2, 32, 32, 1], weights.discriminator);
  const state = {generator, discriminator, minimax,
                 optG: new Gan.Adam(generator, 0.002), optD: new Gan.Adam(discriminator, 0.004)};
  const losses = batches.map((three) =>
    Gan.trainStep(state, ...three.map((x) => Float64Array.from(x))));
  const read = (net) => net.parameters().map(([w]) => Array.from(w));
  return {losses, generator: read(generator), discriminator: read(discriminator)};
}"""


@pytest.fixture(scope="module")
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 800, "height": 800})
        fragment = (STATIC / "gan.html").read_text().split("<script")[0]
        script = (STATIC / "gan.js").read_text()
        page.set_content(f"<!doctype html><title>GAN</title>{fragment}<script>{script}</script>")
        expect.set_options(timeout=60_000)  # the machine may be busy
        page.set_default_timeout(120_000)
        yield page
        browser.close()


def weights_of(network: nn.Module) -> list[list[float]]:
    return [p.detach().flatten().tolist() for p in network.parameters()]


@pytest.mark.parametrize("rounds", [1, 20])
@pytest.mark.parametrize("minimax", [False, True])
def test_training_in_the_page_is_torchs(page, rounds, minimax):
    torch.manual_seed(3)
    generator, discriminator = (net.double() for net in small_pair(2, 2, hidden=32))
    weights = {"generator": weights_of(generator), "discriminator": weights_of(discriminator)}
    batches = torch.randn(rounds, 3, 50, 2, dtype=torch.float64)
    found = page.evaluate(
        ROUNDS, {"weights": weights, "minimax": minimax, "batches": batches.flatten(2).tolist()}
    )
    opt_g = torch.optim.Adam(generator.parameters(), lr=0.002, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(discriminator.parameters(), lr=0.004, betas=(0.5, 0.999))
    state = State(generator, discriminator, opt_g, opt_d, torch.Generator())
    loss_g = minimax_loss_g if minimax else gan_loss_g
    for (x_real, z_d, z_g), losses in zip(batches, found["losses"], strict=True):
        draws = iter([(x_real, z_d), (x_real, z_g)])
        logs = train_step(state, lambda _, draws=draws: next(draws), gan_loss_d, loss_g, 1)
        assert losses["lossD"] == pytest.approx(logs["loss/D"].item(), abs=1e-9)
        assert losses["lossG"] == pytest.approx(logs["loss/G"].item(), abs=1e-9)
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        for there, here in zip(found[name], weights_of(network), strict=True):
            assert there == pytest.approx(here, abs=1e-8)


def test_losses_in_the_page_stay_finite_at_any_logit(page):
    values = page.evaluate(
        "() => { const l = Float64Array.from([-1000, 1000]);"
        " return [Gan.discriminatorLoss(l, l).value, Gan.generatorLoss(l, false).value,"
        " Gan.generatorLoss(l, true).value]; }"
    )
    assert values == [1000, 500, -500]


def test_it_is_silent_until_started_and_steps_resets_and_says_so_in_words(page):
    step, words = page.locator("[data-gan=step]"), page.locator("[data-gan=words]")
    page.wait_for_timeout(300)
    expect(step).to_have_text("0")
    expect(words).to_contain_text("Not trained yet")
    before = page.locator("[data-gan=plane]").screenshot()
    for _ in range(3):
        page.keyboard.press("Tab")  # to the plane, to Train, to One step
    for _ in range(4):
        page.keyboard.press("Enter")
    expect(step).to_have_text("4")
    expect(words).to_contain_text("After 4 steps")
    assert page.locator("[data-gan=plane]").screenshot() != before
    page.click("[data-gan=reset]")
    expect(step).to_have_text("0")


def test_a_distribution_is_drawn_by_keyboard_and_by_pointer(page):
    page.select_option("[data-gan=data]", "ring")
    page.focus("[data-gan=plane]")
    for key in ("ArrowRight", "ArrowUp", "Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
    words = page.locator("[data-gan=words]")
    expect(words).to_contain_text("Pen at 0.2, 0.1; 2 spots drawn")
    expect(page.locator("[data-gan=data]")).to_have_value("drawn")
    before = page.locator("[data-gan=plane]").screenshot()
    page.click("[data-gan=plane]", position={"x": 50, "y": 50})
    assert page.locator("[data-gan=plane]").screenshot() != before


def test_it_trains_and_pauses(page):
    start, step = page.locator("[data-gan=start]"), page.locator("[data-gan=step]")
    page.select_option("[data-gan=data]", "three")
    page.evaluate("document.querySelector('[data-gan=speed]').value = 120")
    start.click()
    page.wait_for_function("Number(document.querySelector('[data-gan=step]').textContent) > 20")
    start.click()
    expect(start).to_have_text("Train")
    reached = step.inner_text()
    page.wait_for_timeout(300)
    expect(step).to_have_text(reached)


def test_a_reader_who_asked_for_no_motion_gets_one_picture_a_press(page):
    start, step = page.locator("[data-gan=start]"), page.locator("[data-gan=step]")
    page.emulate_media(reduced_motion="reduce")
    # The page hears of it a moment later, as of a key or a click: expect waits for it.
    expect(start).to_have_text("Train 200 steps")
    page.click("[data-gan=reset]")
    start.click()
    expect(step).to_have_text("200")
    page.wait_for_timeout(300)
    expect(step).to_have_text("200")
    page.emulate_media(reduced_motion="no-preference")
    expect(start).to_have_text("Train")


def test_at_speed_60_the_page_makes_at_least_30_steps_a_second(page):
    page.select_option("[data-gan=data]", "three")  # pauses and resets
    page.evaluate("document.querySelector('[data-gan=speed]').value = 60")
    made = []
    while max(made, default=0) < 90 and len(made) < 3:  # the machine may be busy for a while
        page.click("[data-gan=start]")
        made.append(
            page.evaluate(
                """() => {
                  const steps = document.querySelector("[data-gan-page]").ganSteps;
                  const before = steps();
                  return new Promise((done) => setTimeout(() => done(steps() - before), 3000));
                }"""
            )
        )
        page.click("[data-gan=reset]")
    assert max(made) >= 90, made


def test_words_for_a_screen_reader_change_at_most_once_in_a_hundred_steps(page):
    page.click("[data-gan=reset]")
    page.evaluate(
        """() => {
          window.said = 0;
          const words = document.querySelector("[data-gan=words]");
          window.listener = new MutationObserver(() => window.said++);
          listener.observe(words, {childList: true});
        }"""
    )
    step = "Number(document.querySelector('[data-gan=step]').textContent)"
    for speed, reached, least in ((1, 2, 0), (120, 250, 1)):
        page.evaluate(f"document.querySelector('[data-gan=speed]').value = {speed}")
        if speed == 1:
            page.click("[data-gan=start]")
        page.wait_for_function(f"{step} >= {reached}")
        said, steps = page.evaluate(f"[said, {step}]")
        assert least <= said <= steps / 100, (said, steps)
    page.click("[data-gan=reset]")
    page.evaluate("listener.disconnect()")


def test_printed_it_is_a_figure_of_a_trained_gan(page, tmp_path):
    for name in ("gan.js", "book.css"):
        (tmp_path / "_static" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "_static" / name).write_text((STATIC / name).read_text())
    style = '<link rel="stylesheet" href="_static/book.css">'
    whole = tmp_path / "whole.html"
    whole.write_text(f"<!doctype html>{style}" + one_page((STATIC / "gan.html").read_text()))
    print_page(page.context.browser, whole, tmp_path / "book.pdf")
    assert (tmp_path / "book.pdf").read_bytes().count(b"/Subtype /Image") >= 2

    tab = page.context.browser.new_page()
    tab.goto(whole.as_uri())
    on_paper, button = tab.locator(".gan-on-paper"), tab.locator("[data-gan=start]")
    expect(on_paper).to_be_hidden()
    expect(button).to_be_visible()
    tab.pdf()  # trains it, as any print does
    expect(tab.locator("[data-gan=words]")).to_contain_text("After 600 steps")
    tab.emulate_media(media="print")
    expect(on_paper).to_be_visible()
    expect(button).to_be_hidden()
    tab.close()
