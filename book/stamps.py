"""The line at the foot of each chapter's page: when, where and with what it was run."""

import platform
import re
import time
from pathlib import Path

import nbformat


def stamp(executed: Path, key: str, seconds: float) -> None:
    """Write into an executed notebook what it depends on (key) and what it was run with."""
    import torch

    import ganlib
    from ganlib.data import load_images
    from ganlib.records import cpu_name

    notebook = nbformat.read(executed, 4)
    sources = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    names = re.findall(r'(?:^dataset = |load_images\()"(\w+)"', sources, re.MULTILINE)
    data = "samples drawn in the chapter"
    if names:  # the last assignment holds: a size's own stands after the default
        data = f"{names[-1]}, {len(load_images(names[-1])[0]):,} training images"
    cuda = torch.cuda.is_available()
    notebook.metadata["key"] = key
    notebook.metadata["run"] = (
        f"Run on {time.strftime('%Y-%m-%d')} in {seconds:.0f} s on "
        f"{torch.cuda.get_device_name() if cuda else f'a CPU ({cpu_name()})'}, with torch "
        f"{torch.__version__}, ganlib {ganlib.__version__} and Python "
        f"{platform.python_version()}; data: {data}."
    )
    nbformat.write(notebook, executed)


def foot(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """The line as a cell; ValueError for a notebook that did not run from top to bottom."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if "run" not in notebook.metadata or any(cell.execution_count is None for cell in code):
        raise ValueError(f"{name} was not run from its first cell to its last: make book")
    text = f"```{{div}} provenance\n{notebook.metadata['run']}\n```"
    return nbformat.v4.new_markdown_cell(text, id="provenance")
