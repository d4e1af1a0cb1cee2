"""Bring the notebooks, and all files that repeat the book's address, to the form we commit.

    python book/tidy.py

Writes the address and version of pyproject.toml into the chapters' first cells, _config.yml,
README.md, CITATION.cff and ganlib; copies the outputs of cells tagged keep_output from the last
default-size run into the notebooks (tests compare them), and clears all other outputs.
"""

import re

import nbformat
from build import ROOT, chapters

SETUP = """\
# In Colab: installs ganlib at this book's release if it is missing. Elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("ganlib") is None:
    %pip install --quiet --no-deps {address}/archive/refs/tags/{tag}.zip"""


def store_outputs() -> None:
    """Copy outputs of cells tagged keep_output into the notebooks; clear all other outputs."""
    for path in chapters():
        notebook, ran = nbformat.read(path, 4), ROOT / "_build/default/executed" / path.name
        done = {c.source: c for c in nbformat.read(ran, 4).cells} if ran.exists() else {}
        for cell in (c for c in notebook.cells if c.cell_type == "code"):
            if "keep_output" not in cell.metadata.get("tags", []):
                cell.outputs, cell.execution_count = [], None
            elif cell.source in done:
                cell.outputs = done[cell.source].outputs
                cell.execution_count = done[cell.source].execution_count
            else:
                print(f"{path.name}: run the book first, a kept output is not from this source")
        nbformat.write(notebook, path)


def stamp() -> None:
    """Write the address and the version of pyproject.toml into all files that repeat them."""
    project = (ROOT / "pyproject.toml").read_text()
    address = re.search(r'^Repository = "(.*)"', project, re.M)[1]
    number = re.search(r'^version = "(.*)"', project, re.M)[1]
    repository, tag = address.removeprefix("https://github.com/"), f"v{number}"
    colab = f"https://colab.research.google.com/github/{repository}/blob/{tag}/"
    for path, pattern, text in (
        ("_config.yml", r"(?m)^  url: .*$", f"  url: {address}"),
        ("_config.yml", r"(?m)^  branch: .*$", f"  branch: {tag}"),
        (
            "README.md",
            r"https://colab\.research\.google\.com/github/[^/]+/[^/]+/blob/[^/]+/",
            colab,
        ),
        ("README.md", r"https://github\.com/[^/]+/[^/)\s]+(?=\.git)", address),
        ("CITATION.cff", r"(?m)^version: .*$", f"version: {number}"),
        ("CITATION.cff", r"(?m)^repository-code: .*$", f"repository-code: {address}"),
        ("ganlib/__init__.py", r"(?m)^__version__ = .*$", f'__version__ = "{number}"'),
    ):
        file = ROOT / path
        file.write_text(re.sub(pattern, text, file.read_text()))
    for chapter in chapters():
        notebook = nbformat.read(chapter, 4)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        first.source = SETUP.format(address=address, tag=tag)
        nbformat.write(notebook, chapter)


if __name__ == "__main__":
    stamp()
    store_outputs()
