"""Bring the notebooks, and all files that repeat the book's address, to the form we commit.

    python book/tidy.py

Writes the address and version of pyproject.toml into the chapters' first cells, _config.yml,
README.md, CITATION.cff and ganlib; copies the outputs of cells tagged keep_output from the last
default-size run into the notebooks (tests compare them), and clears all other outputs; copies
the cover.
"""

import re
from pathlib import Path

import nbformat
from build import BOOK, ROOT, chapters

SETUP = """\
# In Colab: installs ganlib at this book's release if it is missing. Elsewhere it does nothing.
import importlib.util
import os

if importlib.util.find_spec("ganlib") is None:
    release = "{address}/archive/refs/tags/{tag}.zip"
    source = os.environ.get("GANLIB_SOURCE", release)
    %pip install --quiet --no-deps {{source}}"""


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


def stamped() -> dict[Path, str]:
    """The text that each file repeating pyproject.toml's address and version should have."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    address, number = (
        re.findall(rf'^{name} = "(.*)"', project, re.M)[0] for name in ("Repository", "version")
    )
    repository, tag = address.removeprefix("https://github.com/"), f"v{number}"
    owner, _, project_name = repository.partition("/")
    pages, texts = f"https://{owner}.github.io/{project_name}/", {}
    for path, pattern, text in (
        ("_config.yml", r"(?m)^  url: .*$", f"  url: {address}"),
        ("_config.yml", r"(?m)^  branch: .*$", f"  branch: {tag}"),
        ("_config.yml", r"https://[\w-]+\.github\.io/[\w-]+/", pages),
        (
            "README.md",
            r"(?<=github/)[^/\s]+/[^/\s]+/blob/[^/\s]+(?=/book)",
            f"{repository}/blob/{tag}",
        ),
        ("README.md", r"https://[\w-]+\.github\.io/[\w-]+/", pages),
        ("README.md", r"https://github\.com/[^/\s]+/[^/\s]+(?=\.git)", address),
        ("CITATION.cff", r"(?m)^version: .*$", f"version: {number}"),
        ("CITATION.cff", r"(?m)^repository-code: .*$", f"repository-code: {address}"),
        ("ganlib/__init__.py", r"(?m)^__version__ = .*$", f'__version__ = "{number}"'),
    ):
        file = ROOT / path
        texts[file] = re.sub(pattern, text, texts.get(file) or file.read_text(encoding="utf-8"))
    for chapter in chapters():
        notebook = nbformat.read(chapter, 4)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        first.source = SETUP.format(address=address, tag=tag)
        texts[chapter] = nbformat.writes(notebook) + "\n"
    return texts


def store_cover() -> None:
    """Copy the picture that the last default-size run made of the book's cover, for the README."""
    made = ROOT / "_build/default/source/book/_static/cover.png"
    if made.exists():
        (BOOK / "_static" / made.name).write_bytes(made.read_bytes())


if __name__ == "__main__":
    for path, text in stamped().items():
        path.write_text(text, encoding="utf-8")
    store_outputs()
    store_cover()
