"""Print the whole book to _build/book.pdf, through Chromium.

    make pdf

Sphinx makes one page of the last default build's sources, so that links stay inside the file. Code
that the pages fold is left out, folded solutions are opened, sliders keep their first picture, and
the GAN of the first page is trained before it is printed.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from build import ROOT
from playwright.sync_api import Browser, sync_playwright

SOURCE, FOLDER = ROOT / "_build/default/source", ROOT / "_build/pdf"
LINK = r'href="(?:book/)?(\w+)\.html(#[^"]*)?"'
FOOT = """<div style="font-size: 8px; width: 100%; text-align: center;">
<span class="pageNumber"></span></div>"""
STYLE = """
.bd-content pre { white-space: pre-wrap !important; overflow: visible !important; }
.bd-content :is(.admonition, .proof, .exercise, .solution, .cell, table) {
  break-inside: auto !important; box-shadow: none; }
.bd-content :is(.cell_input, .highlight, figure, .scrubber, tr, .check, mjx-container) {
  break-inside: avoid !important; }
.bd-content :is(h1, h2, h3, h4) { break-after: avoid; }
.bd-content span[id^="document-"] + section { break-before: page; }
.bd-content :is(.scrubber input, .scrubber button, .headerlink, .copybtn) { display: none; }
.bd-main, .bd-content, .bd-article-container, .bd-article {
  max-width: none !important; padding: 0 !important; }
"""
UNFOLD = """document.querySelectorAll("details").forEach((d) => d.open = true);
document.querySelectorAll(".toggle-hidden").forEach((e) => e.classList.remove("toggle-hidden"));
document.querySelectorAll("img[loading=lazy]").forEach((i) => i.loading = "eager");"""


def one_page(html: str) -> str:
    """Sphinx's one page, book/intro.html, as it has to be to stand in the folder above."""
    html = re.sub(LINK, lambda m: f'href="{m[2] or "#document-book/" + m[1]}"', html)
    return html.replace('src="../_static/', 'src="_static/')


def print_page(browser: Browser, page: Path, path: Path) -> None:
    tab = browser.new_page(color_scheme="light", device_scale_factor=2)
    tab.set_default_timeout(600_000)
    tab.goto(page.as_uri(), wait_until="load")
    tab.wait_for_function(
        "[...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))"
    )
    tab.add_style_tag(content=STYLE)
    tab.evaluate(UNFOLD)
    tab.pdf(
        path=path, format="A4", scale=0.76, print_background=True,
        outline=True, tagged=True, display_header_footer=True, header_template="<span></span>",
        footer_template=FOOT,
        margin={"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
    )  # fmt: skip
    tab.close()


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("chromium is needed and was not found: apt-get install chromium fonts-dejavu")
    source = FOLDER / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(SOURCE, source)
    for notebook in source.glob("book/*.ipynb"):  # one page cannot fold; JSON has quotes only here
        text = notebook.read_text(encoding="utf-8").replace('"hide-input"', '"remove-input"')
        notebook.write_text(text.replace('"hide-output"', '"shown"'), encoding="utf-8")
    build = "from jupyter_book.cli.main import main; main()"
    options = ["build", str(source), "--path-output", str(FOLDER), "--builder", "singlehtml"]
    command = [sys.executable, "-c", build, *options, "--all", "--keep-going"]
    made = subprocess.run(command, capture_output=True, text=True)
    page = FOLDER / "_build/singlehtml/book/intro.html"
    if made.returncode or not page.exists():
        lines = re.sub(r"\x1b\[[0-9;]*m", "", made.stdout + made.stderr).splitlines()
        told = [line for line in lines if re.search("WARNING|ERROR|Error", line)]
        sys.exit("\n".join(["the pages have faults:", *(told or lines[-20:])]))

    whole = page.parents[1] / "whole.html"  # its images are addressed from here
    whole.write_text(one_page(page.read_text("utf-8")), "utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        print_page(browser, whole, ROOT / "_build/book.pdf")
        browser.close()
    size = (ROOT / "_build/book.pdf").stat().st_size / 1e6
    print(f"the book is in {ROOT / '_build/book.pdf'} ({size:.1f} MB)")


if __name__ == "__main__":
    main()
