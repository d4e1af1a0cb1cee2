"""Chapters run in other ways than once from top to bottom, with other seeds and at other sizes.

One chapter here; all of them, with GANLIB_WEEKLY=1, in .github/workflows/weekly.yml.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import pytest
from build import BOOK, chapters, kernel_config, presets
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from test_book import allowed_parameters

WEEKLY = os.environ.get("GANLIB_WEEKLY") == "1"
CHAPTERS = chapters()
CHEAP = [c for c in CHAPTERS if c.stem == "05_vanishing_gradients"]
smoke = presets("smoke")


def run(chapter: Path, parameters: dict, way: str = "once", cells: int | None = None) -> None:
    """Run a chapter's code cells (or the first `cells`), in a kernel of its own."""
    notebook = parameterize_notebook(load_notebook_node(str(chapter)), parameters)
    sources = [c.source for c in notebook.cells if c.cell_type == "code"][:cells]
    if way == "cells twice":
        sources = [source for source in sources for _ in range(2)]
    elif way == "all twice":
        sources *= 2
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    options = {"kernel_name": "python3", "timeout": None, "config": kernel_config()}
    options["resources"] = {"metadata": {"path": str(BOOK)}}
    NotebookClient(notebook, **options).execute()


def runs(settings: Iterator[tuple[Path, dict]]) -> pytest.MarkDecorator:
    """Parametrize a test by chapters and parameters, told apart by what differs from smoke size."""
    given = list(settings)
    names = [
        "-".join([c.stem[:2], *(f"{k}={v}" for k, v in p.items() if k != "smoke")])
        for c, p in given
    ]
    return pytest.mark.parametrize(("chapter", "parameters"), given, ids=names)


def with_seeds(size: dict[str, dict], seeds: range) -> Iterator[tuple[Path, dict]]:
    """Chapters with their own seed plus each of `seeds`; none but in the weekly run."""
    for chapter in CHAPTERS if WEEKLY else []:
        own = int(papermill.inspect_notebook(str(chapter))["seed"]["default"])
        for seed in seeds:
            yield chapter, {**size.get(chapter.stem, {}), "seed": own + seed}


def smallest() -> Iterator[tuple[Path, dict]]:
    """Chapters with the lowest numbers that they allow."""
    for chapter in CHAPTERS if WEEKLY else CHEAP:
        rules = allowed_parameters(chapter)
        lows = {n: rule if isinstance(rule, int) else rule[0] for n, rule in rules.items()}
        yield chapter, {**lows, "smoke": True}


@pytest.mark.parametrize("way", ["cells twice", "all twice"])
@pytest.mark.parametrize("chapter", CHAPTERS if WEEKLY else CHEAP, ids=lambda c: c.stem)
def test_a_chapter_may_be_run_again_by_cells_or_as_a_whole(chapter, way):
    run(chapter, smoke[chapter.stem], way)


@runs(smallest())
def test_the_lowest_parameters_that_a_chapter_allows_are_enough(chapter, parameters):
    run(chapter, parameters)


@runs((c, {**smoke[c.stem], "seed": 1}) for c in CHEAP)
def test_checks_hold_for_a_seed_whose_logits_pass_the_cut_of_softplus(chapter, parameters):
    run(chapter, parameters)


@runs(with_seeds(smoke, range(10)))
def test_checks_hold_for_ten_seeds_at_smoke_size(chapter, parameters):
    run(chapter, parameters)


@runs(with_seeds({}, range(3)))
def test_checks_hold_for_three_seeds_at_default_size(chapter, parameters):
    run(chapter, parameters)


def test_the_word_false_given_to_papermill_leaves_the_checks_judged():
    # papermill -p smoke false hands over the text, which Python takes for true.
    (chapter,) = CHEAP
    code = [c for c in nbformat.read(chapter, 4).cells if c.cell_type == "code"]
    (at,) = [i for i, c in enumerate(code) if "parameters" in c.metadata.get("tags", [])]
    until = at + 3  # papermill's cell stands between the parameters and the imports
    run(chapter, {"smoke": "false"}, cells=until)
    with pytest.raises(CellExecutionError, match="smoke: True or False expected, got 'flase'"):
        run(chapter, {"smoke": "flase"}, cells=until)
