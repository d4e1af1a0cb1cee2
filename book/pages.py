"""What Sphinx reads: the book's files, and its chapters as they ran."""

import io
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
import stamps
import statements
import yaml
from PIL import Image


def sources(root: Path, executed: list[Path]) -> dict[str, bytes]:
    """All files that Sphinx reads, by path: the book with its executed chapters."""
    book = root / "book"
    config = yaml.safe_load((root / "_config.yml").read_bytes())
    config["execute"]["execute_notebooks"] = "off"  # they have just run
    files = {"_config.yml": yaml.safe_dump(config).encode()}
    kept = [root / "_toc.yml", *book.glob("*.md"), *book.glob("*.bib")]
    kept += [*book.glob("_ext/*.py"), *(p for p in book.glob("_static/**/*") if p.is_file())]
    files |= {str(p.relative_to(root)): p.read_bytes() for p in kept}
    files["book/statements.md"] = statements.page(executed).encode()
    for path in executed:
        notebook = nbformat.read(path, 4)
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            if "live" in cell.metadata.get("tags", []):
                cell.outputs = []  # a widget is dead without a kernel
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                data.pop(statements.CHECK, None)
                if "image/png" in data:
                    data["image/png"] = b64encode(smaller(b64decode(data["image/png"]))).decode()
                if "cover" in cell.metadata.get("tags", []):  # the first picture of the book
                    files["book/_static/cover.png"] = b64decode(data["image/png"])
            cell.metadata.pop("papermill", None)
        notebook.cells.append(stamps.foot(notebook, path.stem))
        for name in ("papermill", "run", "key", "peak"):
            notebook.metadata.pop(name, None)
        files[f"book/{path.name}"] = nbformat.writes(notebook).encode()
    return files


def renew_text(chapter: Path, executed: Path) -> None:
    """Give an executed chapter, whose code is unchanged, the text and captions of today."""
    notebook, cells = nbformat.read(executed, 4), []
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in nbformat.read(chapter, 4).cells:
        if cell.cell_type == "code":
            metadata, cell = cell.metadata, ran.pop(0)
            cell.metadata = metadata
        cells.append(cell)
        if ran and "injected-parameters" in ran[0].metadata.get("tags", []):
            cells.append(ran.pop(0))
    notebook.cells = cells
    nbformat.write(notebook, executed)


def smaller(png: bytes) -> bytes:
    """The same picture with at most 256 colors, a third of the bytes, if that is fewer."""
    picture, buffer = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(buffer, format="png", optimize=True)
    return min(png, buffer.getvalue(), key=len)
