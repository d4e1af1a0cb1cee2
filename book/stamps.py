"""What a run leaves in a chapter: the line at the foot of its page, and its peak of memory."""

import platform
import re
import time
from pathlib import Path

import nbformat


def peak_memory() -> int:
    """The most memory, in MiB, that a process started by this one has held; 0 but on Linux.

    Linux keeps this maximum itself (VmHWM), so that nothing between two calls is missed.
    """
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    files = [Path(f"/proc/{pid}/status") for pid in " ".join(lists).split()]
    told = "".join(path.read_text() for path in files if path.exists())
    return max(map(int, re.findall(r"VmHWM:\s+(\d+) kB", told)), default=0) // 1024


def stamp(executed: Path, key: str, seconds: float, peak: int) -> None:
    """Write into an executed notebook what it depends on, what it was run with, its peak in MiB."""
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
    notebook.metadata["key"], notebook.metadata["peak"] = key, peak
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
