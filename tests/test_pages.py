"""The built pages: of $GANLIB_SITE, else of the smoke runs that `make test` makes."""

import functools
import http.server
import os
import re
import shutil
import sys
import threading
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Route, expect, sync_playwright

import ganlib

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))
from pdf import UNFOLD  # noqa: E402

SITE = Path(os.environ.get("GANLIB_SITE", ROOT / "_build/smoke/_build/html")).resolve()
PAGES = sorted((SITE / "book").glob("*.html"))
# No host but this machine can be reached: a page must read without any other.
BROWSER = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(not PAGES, reason=f"no pages in {SITE}: make book, or make test"),
    pytest.mark.xdist_group("pages"),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=[p.stem for p in PAGES])
MADE = [*PAGES, *sorted(SITE.glob("*.html"))]  # with the search, the indices and the redirection


@functools.cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(), "html.parser")


def test_every_page_of_the_table_of_contents_was_built():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    wanted = {toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])}
    assert {f"book/{page.stem}" for page in PAGES} == wanted


@each_page
def test_every_image_has_alt_text(page):
    for image in soup(page).select("article img"):
        alt = str(image.get("alt", ""))
        assert len(alt) > 20, f"{str(image.get('src'))[:60]} has alt {alt!r}"
        assert "_images" not in alt, alt


@each_page
def test_page_weighs_at_most_a_megabyte_and_a_half(page):
    images = {str(image["src"]) for image in soup(page).select("article img[src]")}
    loaded = {str(tag["src"]) for tag in soup(page).select("script[src]")}
    loaded |= {str(tag["href"]) for tag in soup(page).select("link[rel=stylesheet]")}
    own = {file.name for file in (ROOT / "book/_static").iterdir()}  # the others are the theme's
    parts = {unquote(urlsplit(source).path) for source in images if ":" not in source}
    parts |= {path for path in (urlsplit(s).path for s in loaded) if Path(path).name in own}
    assert any(path.endswith("book.css") for path in parts)
    weight = page.stat().st_size + sum((page.parent / path).stat().st_size for path in parts)
    if SITE.is_relative_to(ROOT / "_build/smoke") and page.stem == "08_convolutional_gan":
        pytest.skip("its untrained networks draw noise, which is heavy: judged on the real site")
    assert weight <= 1_500_000


@each_page
def test_page_of_a_chapter_says_what_it_was_run_with(page):
    notebook = ROOT / "book" / f"{page.stem}.ipynb"
    if not notebook.exists():
        pytest.skip("not made from a notebook")
    foot = soup(page).select_one(".provenance")
    assert foot is not None
    said = r"Run on \d{4}-\d\d-\d\d in \d+ s on .+, with torch [\d.]+\S*, ganlib [\d.]+ .*; data: "
    if "load_images(" in notebook.read_text():
        said += r".*mnist\w*, [\d,]+ .*images"
    assert re.search(said, foot.get_text()), foot.get_text()


@each_page
def test_colab_button_opens_this_notebook_at_the_release(page):
    links = [str(a["href"]) for a in soup(page).select('a[href*="colab.research.google.com"]')]
    notebook = f"book/{page.stem}.ipynb"
    if not (ROOT / notebook).exists():
        assert links == []
    else:
        release = f"blob/v{ganlib.__version__}/{notebook}"
        assert links
        assert all(link.endswith(release) for link in links)


@each_page
def test_link_preview_has_a_title_a_text_and_a_picture_of_this_site(page):
    said = {str(m["property"]): str(m["content"]) for m in soup(page).select("meta[property]")}
    assert said["og:site_name"] == yaml.safe_load((ROOT / "_config.yml").read_text())["title"]
    assert said["og:title"]
    assert len(said.get("og:description", "")) > 20
    base = said["og:url"].removesuffix(f"book/{page.name}")
    assert (SITE / said["og:image"].removeprefix(base)).is_file()


@each_page
def test_internal_links_lead_somewhere(page):
    for link in soup(page).select("a[href]"):
        parts = urlsplit(str(link["href"]))
        if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.exists(), f"{link['href']} of {page.name} is missing"
        if parts.fragment and target.suffix == ".html":
            found = soup(target).find(id=unquote(parts.fragment))
            assert found is not None, f"{link['href']} of {page.name} has no such anchor"


def asked_for(file: Path) -> list[str]:
    """The addresses that a page or a style sheet makes a browser fetch."""
    if file.suffix != ".css":
        tags = [*soup(file).select("[src]"), *soup(file).select("link[href]")]
        return [str(tag.get("src") or tag.get("href")) for tag in tags]
    text = re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.DOTALL)
    found = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", text)
    return [address for address in found if not address.startswith("data:")]


@pytest.mark.parametrize("page", MADE, ids=[p.stem for p in MADE])
def test_page_and_its_style_sheets_ask_for_nothing_that_is_not_in_the_site(page):
    todo, read = [page], set()
    while todo:
        file = todo.pop()
        read.add(file)
        for address in map(urlsplit, asked_for(file)):
            if address.scheme == "data" or not (address.path or address.netloc):
                continue
            assert not address.netloc, f"{file.name} asks {address.netloc}"
            target = (file.parent / unquote(address.path)).resolve()
            assert target.is_file(), f"{file.name} asks for {address.path}, which is missing"
            todo += [target] if target.suffix == ".css" and target not in read else []
    # The theme's own sheet imports the one of Sphinx.
    assert page.name == "index.html" or {"theme.css", "basic.css"} <= {f.name for f in read}


@each_page
def test_headings_are_in_order_with_one_title(page):
    levels = [int(h.name[1]) for h in soup(page).select("article h1, article h2, article h3")]
    assert levels.count(1) == 1, levels
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels


@each_page
def test_no_output_is_an_error_or_a_stack_of_progress_bars(page):
    for output in soup(page).select(".cell_output"):
        text = output.get_text()
        assert "Traceback" not in text
        assert all(line.count("%|") <= 1 for line in text.splitlines()), text[:500]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium fonts-dejavu")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def home():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def new_tab(browser):
    """A new page in the browser, closed after the test; patient, as the machine may be busy."""
    tabs = []
    expect.set_options(timeout=60_000)

    def make(**options):
        tabs.append(browser.new_page(**options))
        tabs[-1].set_default_timeout(120_000)
        return tabs[-1]

    yield make
    for tab in tabs:
        tab.close()


def still(tab) -> None:
    """Waits for the color scheme and stops transitions: a fading color is judged halfway."""
    tab.wait_for_function("document.documentElement.dataset.theme !== undefined")
    tab.add_style_tag(content="* { transition: none !important; animation: none !important; }")


@each_page
def test_page_reads_in_a_browser_without_outside_hosts(page, new_tab, home):
    tab = new_tab(viewport={"width": 390, "height": 800})
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    tab.on("requestfailed", lambda r: faults.append(r.url))
    tab.on("response", lambda r: faults.append(r.url) if r.status >= 400 else None)
    tab.goto(f"{home}book/{page.name}", wait_until="load")
    tab.wait_for_function(
        "[...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))"
    )
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 1
    folder = Path(os.environ.get("GANLIB_SCREENSHOTS", SITE.parent / "screenshots"))
    tab.screenshot(path=folder / f"{page.stem}-390.png")
    scrubbers = tab.locator(".scrubber")
    for i in range(scrubbers.count()):
        image, slider = (scrubbers.nth(i).locator(part) for part in ("img", "input"))
        src, alt = image.get_attribute("src"), image.get_attribute("alt")
        at_end = slider.input_value() == slider.get_attribute("max")
        slider.press("ArrowLeft" if at_end else "ArrowRight")
        expect(image).not_to_have_attribute("src", str(src))
        expect(image).not_to_have_attribute("alt", str(alt))
        src = image.get_attribute("src")
        box = slider.bounding_box()
        assert box is not None
        share = int(slider.input_value()) / int(str(slider.get_attribute("max")))
        place = 0.05 if share > 0.5 else 0.95
        slider.click(position={"x": place * box["width"], "y": box["height"] / 2})
        expect(image).not_to_have_attribute("src", str(src))
    assert not faults, faults


# From elements that are too wide to the right, the innermost; what scrolls by itself is not.
TOO_WIDE = """() => {
    const scrolls = (e) => e.parentElement !== document.body && e.parentElement && (
        getComputedStyle(e.parentElement).overflowX !== "visible" || scrolls(e.parentElement));
    const all = [...document.querySelectorAll(".bd-main *")].filter(
        (e) => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e));
    return all.filter((e) => !all.some((other) => other !== e && e.contains(other)))
        .map((e) => e.outerHTML.slice(0, 100) + " in " + e.parentElement.outerHTML.slice(0, 100));
}"""


@pytest.mark.parametrize("page", MADE, ids=[p.stem for p in MADE])
def test_page_is_no_wider_than_a_narrow_window(page, new_tab, home):
    # 320 px is a page of 1,280 px enlarged to 400 %, as by WCAG 2.2, 1.4.10.
    tab = new_tab(viewport={"width": 320, "height": 800})
    tab.goto(f"{home}{page.relative_to(SITE).as_posix()}", wait_until="load")
    tab.wait_for_function(
        "[...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))"
    )
    for unfolded in (False, True):
        if unfolded:
            tab.evaluate(UNFOLD)
        wide = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 1, (wide, unfolded, tab.evaluate(TOO_WIDE))


# What the theme and docutils bring along, by rule and by the element's class or tag.
NOT_OURS = {
    "region": (
        "logo__image",
        "navbar-brand",
        "skip-link",
        "pst-skip-link",
        "bd-header-announcement",
    ),
    "aria-allowed-role": ("citation",),
    "aria-deprecated-role": ("citation",),
    "aria-required-parent": ("citation",),
    "aria-required-children": ("citation",),
    "dlitem": ("citation",),
    "definition-list": ("citation",),
    # The theme's script judges when the page has loaded whether a cell needs to be scrolled; a
    # folded cell has no width then, and is not judged again when it is unfolded.
    "scrollable-region-focusable": ('<pre id="codecell',),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@each_page
def test_axe_finds_no_fault_of_our_own(page, scheme, new_tab, home):
    tab = new_tab(color_scheme=scheme, viewport={"width": 1280, "height": 800})
    tab.goto(f"{home}book/{page.name}", wait_until="load")
    still(tab)
    tab.evaluate(UNFOLD)
    folder = Path(os.environ.get("GANLIB_SCREENSHOTS", SITE.parent / "screenshots"))
    tab.screenshot(path=folder / f"{page.stem}-{scheme}.png", full_page=scheme == "light")
    found = []
    result = Axe().run(tab, options={"resultTypes": ["violations"]})
    for violation in result.response["violations"]:
        ours = [
            node["html"][:200]
            for node in violation["nodes"]
            if not any(word in node["html"] for word in NOT_OURS.get(violation["id"], ()))
        ]
        found += [(violation["id"], html) for html in ours]
    assert not found, found[:5]


@each_page
def test_solutions_are_folded_and_unfold(page, new_tab, home):
    count = len(soup(page).select(".solution.dropdown"))
    if not (ROOT / "book" / f"{page.stem}.ipynb").exists():
        assert count == 0
        return
    assert count >= 3
    tab = new_tab()
    tab.goto(f"{home}book/{page.name}", wait_until="load")
    for solution in tab.locator(".solution.dropdown").all():
        body = solution.locator(":scope > section, :scope > .section").first
        expect(body).to_be_hidden()
        solution.locator("button.toggle-button, summary").first.click()
        expect(body).to_be_visible()


def test_search_finds_a_theorem(new_tab, home):
    tab = new_tab()
    tab.goto(f"{home}search.html?q=optimal+discriminator", wait_until="load")
    tab.locator("#search-results li a[href*='03_optimal_discriminator']").first.wait_for()


# What the theme puts into the head of each page, or at its end, and waits for.
THEMES = {
    *("bootstrap.js", "clipboard.min.js", "copybutton.js", "design-tabs.js", "doctools.js"),
    *("documentation_options.js", "fontawesome.js", "pydata-sphinx-theme.js"),
    *("sphinx-book-theme.js", "sphinx_highlight.js", "togglebutton.js"),
    *("language_data.js", "searchindex.js", "searchtools.js"),
}


@pytest.mark.parametrize("page", ["intro", "01_adversarial_game", "07_mlp_gan"])
def test_page_is_painted_while_formulas_and_widgets_wait_for_their_scripts(page, new_tab, home):
    tab = new_tab()
    held: list[Route] = []

    def hold(route: Route) -> None:
        script = route.request.resource_type == "script"
        if script and urlsplit(route.request.url).path.rpartition("/")[2] not in THEMES:
            held.append(route)
        else:
            route.continue_()

    tab.route("**/*", hold)
    tab.goto(f"{home}book/{page}.html", wait_until="commit")
    tab.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    assert all(route.request.url.startswith(home) for route in held)
    for route in held:
        route.continue_()


@each_page
def test_checks_are_readable_in_the_dark(page, new_tab, home):
    tab = new_tab(color_scheme="dark")
    tab.goto(f"{home}book/{page.name}", wait_until="load")
    still(tab)
    behind = """c => {
        let e = c;
        while (getComputedStyle(e).backgroundColor === "rgba(0, 0, 0, 0)") e = e.parentElement;
        return [getComputedStyle(c).color, getComputedStyle(e).backgroundColor].map(
            rgb => rgb.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765);
    }"""
    for text, background in tab.locator(".check").evaluate_all(f"all => all.map({behind})"):
        assert text - background > 0.5, (text, background)
