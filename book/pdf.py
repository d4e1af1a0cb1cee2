"""Print the whole book to _build/book.pdf, through Chromium.

    make pdf

Sphinx makes one page of the last default build's sources, so that links stay inside the file;
folded solutions are opened, sliders keep their first picture.
"""

import re
import shutil
import subprocess
import sys

from build import ROOT

SOURCE, FOLDER = ROOT / "_build/default/source", ROOT / "_build/pdf"
FOOT = """<div style="font-size: 8px; width: 100%; text-align: center;">
<span class="pageNumber"></span></div>"""
UNFOLD = """document.querySelectorAll("details").forEach((d) => d.open = true);
document.querySelectorAll(".toggle-hidden").forEach((e) => e.classList.remove("toggle-hidden"));
document.querySelectorAll("img[loading=lazy]").forEach((i) => i.loading = "eager");
document.querySelectorAll("[data-gan-page]").forEach((e) => e.remove());"""


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("chromium is needed and was not found: apt-get install chromium fonts-dejavu")
    build = "from jupyter_book.cli.main import main; main()"
    options = ["build", str(SOURCE), "--path-output", str(FOLDER), "--builder", "singlehtml"]
    command = [sys.executable, "-c", build, *options, "--all", "--keep-going"]
    made = subprocess.run(command, capture_output=True, text=True)
    page = next((FOLDER / "_build/singlehtml").glob("*.html"), None)
    if made.returncode or page is None:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", made.stdout + made.stderr).splitlines()
        sys.exit("\n".join(["the pages have faults:", *lines[-20:]]))

    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(color_scheme="light")
        tab.set_default_timeout(600_000)
        tab.goto(page.as_uri(), wait_until="load")
        tab.wait_for_function(
            "[...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))"
        )
        tab.evaluate(UNFOLD)
        tab.pdf(
            path=ROOT / "_build/book.pdf", format="A4", print_background=True, outline=True,
            tagged=True, display_header_footer=True, header_template="<span></span>",
            footer_template=FOOT,
            margin={"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
        )  # fmt: skip
        browser.close()
    size = (ROOT / "_build/book.pdf").stat().st_size / 1e6
    print(f"the book is in {ROOT / '_build/book.pdf'} ({size:.1f} MB)")


if __name__ == "__main__":
    main()
