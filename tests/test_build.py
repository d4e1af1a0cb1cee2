"""The build: an edit of ganlib runs the chapters that it touches; a run records its peak memory."""

import shutil
from concurrent.futures import ProcessPoolExecutor
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


def test_a_chapter_is_stale_when_a_record_changed_that_it_reads(copy, monkeypatch):
    monkeypatch.setattr(build, "BOOK", copy)
    (copy / "results").mkdir()
    read, other = copy / "results" / "07_digits.json", copy / "results" / "08_map.png"
    path = chapter(copy, 'read_record("results/07_digits.json", "")')
    for file, stale in ((read, True), (other, False), (read, True)):
        before = build.key_of(path, {})
        file.write_bytes(file.read_bytes() + b" " if file.exists() else b"")
        assert (build.key_of(path, {}) != before) == stale, file.name


def test_a_module_reached_through_another_counts(copy):
    path = chapter(copy, "from ganlib.trainer import train")
    assert stale_after_edit_of("guards.py", copy, path)


def test_the_books_theory_chapters_do_not_depend_on_the_trainer():
    (theory,) = [path for path in build.chapters() if path.stem.startswith("04")]
    cells = nbformat.read(theory, 4).cells
    names = {p.stem for p in build.library_of([c.source for c in cells if c.cell_type == "code"])}
    assert "theory" in names
    assert "trainer" not in names


# CPUs and memory


def test_one_chapter_runs_at_a_time_where_one_cpu_may_be_used(monkeypatch):
    monkeypatch.setattr(build.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(build.os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert build.cpus() == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak in /proc")
def test_the_peak_memory_of_a_run_is_that_of_its_largest_moment(tmp_path):
    parameters = nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    sources = [f"x = b'x' * ({size} << 20); del x" for size in (1, 600, 1)]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    book = nbformat.v4.new_notebook(cells=[parameters, *cells])
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(book, tmp_path / "01_chapter.ipynb")
    files = tmp_path / "01_chapter.ipynb", tmp_path / "ran.ipynb"
    with ProcessPoolExecutor(1) as pool:  # as in a build: the run redirects what its process says
        _, error = pool.submit(build.execute, *files, {}, "key").result()
    assert not error
    peak = nbformat.read(tmp_path / "ran.ipynb", 4).metadata["peak"]
    assert 600 < peak < 900
