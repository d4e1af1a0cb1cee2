"""An edit of ganlib runs the chapters that it touches, and no others."""

import shutil
from pathlib import Path

import build
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A copy of ganlib that may be edited, with one chapter's notebook beside it."""
    shutil.copytree(ROOT / "ganlib", tmp_path / "ganlib")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    return tmp_path


def chapter(folder: Path, *sources: str) -> Path:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    nbformat.write(book, folder / "01_chapter.ipynb")
    return folder / "01_chapter.ipynb"


def stale_after_edit_of(name: str, folder: Path, path: Path) -> bool:
    before, file = build.key_of(path, {}), folder / "ganlib" / name
    file.write_bytes(file.read_bytes() + b"\n")
    return build.key_of(path, {}) != before


@pytest.mark.parametrize(
    ("source", "touching", "others"),
    [
        ("from ganlib.theory import value", ["theory.py"], ["losses.py", "models.py"]),
        ("from ganlib import plotting", ["plotting.py"], ["trainer.py", "data.py"]),
        ("import ganlib.games as games", ["games.py", "losses.py"], ["trainer.py", "seeds.py"]),
        ("def f():\n    from ganlib.seeds import train_seeds", ["seeds.py", "trainer.py"],
         ["games.py", "runs/cli.py"]),
        ("from ganlib.models import load_generator", ["models.py", "conv_generator.safetensors"],
         ["metrics.py"]),
    ],
)  # fmt: skip
def test_a_chapter_is_stale_when_a_module_changed_that_it_imports(copy, source, touching, others):
    path = chapter(copy, "%pip install x\n  !ls", source)
    for name in touching:
        assert stale_after_edit_of(name, copy, path), name
    for name in others:
        assert not stale_after_edit_of(name, copy, path), name


def test_a_module_reached_through_another_counts(copy):
    path = chapter(copy, "from ganlib.trainer import train")
    assert stale_after_edit_of("guards.py", copy, path)


def test_the_books_theory_chapters_do_not_depend_on_the_trainer():
    (theory,) = [path for path in build.chapters() if path.stem.startswith("04")]
    cells = nbformat.read(theory, 4).cells
    names = {p.stem for p in build.library_of([c.source for c in cells if c.cell_type == "code"])}
    assert "theory" in names
    assert "trainer" not in names
