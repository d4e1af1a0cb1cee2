"""The chapters as they are committed, and as they ran at smoke size.

`make test` executes the chapters at smoke size (book/build.py --size smoke) before these tests.
"""

import ast
import importlib
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from ganlib.data import DIGITS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))
from build import chapters, key_of, presets  # noqa: E402
from pages import renew_text  # noqa: E402
from stamps import foot  # noqa: E402
from statements import checks_of, titles_of  # noqa: E402
from tidy import stamped  # noqa: E402

from ganlib.checks import check_parameters  # noqa: E402

CHAPTERS = chapters()
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=[c.stem for c in CHAPTERS])


def cells(chapter: Path, kind: str | None = None) -> list:
    notebook = nbformat.read(chapter, 4)
    return [c for c in notebook.cells if kind is None or c.cell_type == kind]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def test_every_notebook_in_the_folder_is_in_the_table_of_contents():
    assert sorted((ROOT / "book").glob("*.ipynb")) == sorted(CHAPTERS)


def test_notebooks_are_committed_without_outputs_but_for_kept_ones():
    paths = [str(c) for c in CHAPTERS]
    run = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", "--keep-count", "--keep-id", *paths],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@each_chapter
def test_kept_outputs_are_there_and_compared(chapter):
    for cell in cells(chapter, "code"):
        assert ("keep_output" in tags(cell)) == ("nbval-check-output" in tags(cell)), cell.source
        assert bool(cell.outputs) == ("keep_output" in tags(cell)), cell.source


@each_chapter
def test_deterministic_cells_give_their_stored_outputs(chapter, tmp_path):
    prepared = tmp_path / chapter.name
    parameters = presets("smoke").get(chapter.stem, {})
    papermill.execute_notebook(chapter, prepared, parameters, prepare_only=True)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider"]
        + ["-p", "no:xdist", "--rootdir", str(tmp_path), str(prepared)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]


@each_chapter
def test_a_chapter_that_judges_digits_takes_no_other_data_set(chapter):
    source = "\n".join(c.source for c in cells(chapter, "code") if "setup" not in tags(c))
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "load_images"]
    if not loads or "load_digit_classifier(" not in source:
        pytest.skip("judges no digits of a data set")
    names = {ast.unparse(call.args[0]) for call in loads} - {repr(name) for name in DIGITS}
    assert all(allowed_parameters(chapter)[name] == DIGITS for name in names)


def sizes_in_chapter_9(set_size: int, folder: Path) -> list[list[int]]:
    """The sizes of the sets of images that chapter 9 judges, made by its own cells."""
    notebook = nbformat.read(ROOT / "book/09_evaluation.ipynb", 4)
    made = next(i for i, c in enumerate(notebook.cells) if c.source.startswith("sets ="))
    told = "[[len(images) for images in one.values()] for one in sets]"
    notebook.cells = [*notebook.cells[: made + 1], nbformat.v4.new_code_cell(told)]
    nbformat.write(notebook, folder / "cut.ipynb")
    parameters = {"set_size": set_size, "smoke": True}
    options = {"cwd": str(ROOT / "book"), "kernel_name": "python3", "progress_bar": False}
    ran = papermill.execute_notebook(folder / "cut.ipynb", None, parameters, **options)
    return ast.literal_eval(ran.cells[-1].outputs[0]["data"]["text/plain"])


def test_sets_of_chapter_9_have_the_size_that_is_said(tmp_path):
    assert sizes_in_chapter_9(205, tmp_path) == [[205] * 9] * 3


def test_chapter_9_makes_no_sets_that_are_larger_than_its_data(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=r"1,?200"):
        sizes_in_chapter_9(1200, tmp_path)


# --- what is taught is what is imported ------------------------------------------------------


def is_guard(statement: ast.stmt) -> bool:
    """A call of require_... or of a private function, or an `if` that only raises."""
    if isinstance(statement, ast.Expr | ast.Assign) and isinstance(statement.value, ast.Call):
        called = statement.value.func
        return isinstance(called, ast.Name) and called.id.startswith(("_", "require_"))
    return isinstance(statement, ast.If) and all(isinstance(s, ast.Raise) for s in statement.body)


def bare(function: ast.FunctionDef) -> str:
    """The syntax tree without docstring, annotations and one leading block of input guards."""
    body = list(function.body)
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    while is_guard(body[0]):
        body = body[1:]
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            node.annotation = None
    decorators = [ast.unparse(d) for d in function.decorator_list]
    return "\n".join([*decorators, ast.unparse(function.args), *map(ast.unparse, body)])


def functions(source: str) -> dict[str, ast.FunctionDef]:
    """The functions of a source, and the methods of its classes as Class.method."""
    body = ast.parse(source).body
    found = {n.name: n for n in body if isinstance(n, ast.FunctionDef)}
    for owner in (n for n in body if isinstance(n, ast.ClassDef)):
        methods = [n for n in owner.body if isinstance(n, ast.FunctionDef)]
        found |= {f"{owner.name}.{method.name}": method for method in methods}
    return found


def taught() -> list[tuple[str, str, str, str]]:
    found = []
    for chapter in CHAPTERS:
        for cell in cells(chapter, "code"):
            for tag in tags(cell):
                if tag.startswith("shows:"):
                    for name in functions(cell.source):
                        found.append((chapter.stem, tag.removeprefix("shows:"), name, cell.source))
    return found


@pytest.mark.parametrize(
    ("chapter", "module", "name", "source"), taught(), ids=lambda value: value.split("\n")[0][:40]
)
def test_taught_function_equals_the_librarys(chapter, module, name, source):
    library = importlib.import_module(f"ganlib.{module}")
    theirs = functions(Path(library.__file__ or "").read_text())[name]
    assert bare(functions(source)[name]) == bare(theirs), f"{chapter} teaches another {name}"


def test_every_function_of_the_teaching_core_is_taught_once():
    names = [(module, name) for _, module, name, _ in taught()]
    assert len(names) == len(set(names)), "a function is taught twice"
    wanted = {
        "theory": ["optimal_discriminator", "value", "kl_divergence", "js_divergence"],
        "losses": ["real_loss", "fake_loss", "discriminator_loss", "minimax_generator_loss"]
        + ["nonsaturating_generator_loss"],
        "games": ["gan_loss_d", "gan_loss_g"],
        "trainer": ["weights_of", "compute_gradients", "train_step", "simultaneous_step"],
    }
    assert {(m, n) for m, ns in wanted.items() for n in ns} <= set(names)


# --- names and form of the code --------------------------------------------------------------


def trees(chapter: Path) -> list[ast.Module]:
    """The syntax trees of a chapter's code cells, without lines for the notebook's shell."""
    sources = [c.source for c in cells(chapter, "code")]
    return [ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)) for source in sources]


def names_in(node: ast.AST) -> set[str]:
    """All names and attributes that code reads, writes, or takes as a parameter."""
    nodes = list(ast.walk(node))
    found = {n.id for n in nodes if isinstance(n, ast.Name)}
    found |= {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    return found | {n.arg for n in nodes if isinstance(n, ast.arg)}


def painters(tree: ast.Module) -> set[str]:
    """The functions of a source that touch a figure or its axes."""
    canvas = {"ax", "axes", "fig", "new_figure", "imshow", "plot"}
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return {f.name for f in functions if names_in(f) & canvas}


def test_painters_are_told_from_samplers():
    source = """
def draw_field(ax):
    ax.quiver(0, 0, 1, 1)
def draw_frame(i):
    return plotting.show_images(images[i]), plotting.new_figure()
def draw_wide(rng):
    return sample_mixture(wide_ring, 128, rng), torch.randn(128, 2, generator=rng)
"""
    assert painters(ast.parse(source)) == {"draw_field", "draw_frame"}


@each_chapter
def test_draw_samples_a_batch_and_makes_no_figure(chapter):
    for tree in trees(chapter):
        assert not [name for name in painters(tree) if name.startswith("draw")]
        assert not [
            name for name in names_in(tree) if re.match("draw_(images|roles|history)", name)
        ]


@each_chapter
def test_a_function_and_a_variable_do_not_share_a_name(chapter):
    functions, variables = set(), set()
    for tree in trees(chapter):
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                functions.add(node.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                functions |= {alias.asname or alias.name for alias in node.names}
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                variables.add(node.id)
    assert len(functions) > 5
    assert len(variables) > 5
    assert not functions & variables


@each_chapter
def test_cells_are_not_written_for_a_formatter(chapter):
    assert not [c.source for c in cells(chapter, "code") if "fmt:" in c.source]


# --- what chapters read is recorded by a benchmark -------------------------------------------


@each_chapter
def test_records_are_read_by_the_librarys_function(chapter):
    """But for the earlier record of the ring and grid, which stands beside the one of today."""
    for cell in cells(chapter, "code"):
        for file in re.findall(r'"results/(\w+)\.json"', cell.source):
            through = rf'read_record\("results/{file}\.json"'
            assert re.search(through, cell.source) or file.endswith("_earlier"), cell.source


# --- parameters, address, form ---------------------------------------------------------------


@each_chapter
def test_parameters_and_presets_agree(chapter):
    (cell,) = [c for c in cells(chapter, "code") if "parameters" in tags(c)]
    known = papermill.inspect_notebook(str(chapter))
    assert {"seed", "smoke"} <= set(known)
    for size in ("smoke", "gpu"):
        assert set(presets(size).get(chapter.stem, {})) <= set(known)
    commented = dict(re.findall(r"^(\w+) = .*# gpu: (\S+)", cell.source, re.M))
    commented = {name: ast.literal_eval(value) for name, value in commented.items()}
    assert commented == presets("gpu").get(chapter.stem, {})


def parameters_and_next(chapter: Path) -> tuple[dict, ast.Module]:
    """The parameters and the code after them; papermill puts its own cell in between."""
    code = cells(chapter, "code")
    (at,) = [i for i, c in enumerate(code) if "parameters" in tags(c)]
    lines = [n for n in ast.parse(code[at].source).body if isinstance(n, ast.Assign)]
    given = {ast.unparse(n.targets[0]): ast.literal_eval(n.value) for n in lines}
    return given, ast.parse(code[at + 1].source)


def allowed_parameters(chapter: Path) -> dict:
    """What the first cell after the parameters allows for each, but for smoke and seed."""
    nodes = list(ast.walk(parameters_and_next(chapter)[1]))
    called = [node for node in nodes if isinstance(node, ast.Call)]
    (call,) = [c for c in called if ast.unparse(c.func).endswith("check_parameters")]
    assert [ast.unparse(a) for a in call.args] == ["globals()"]
    rules = {str(k.arg): k.value for k in call.keywords}
    return {
        n: DIGITS if ast.unparse(r) == "DIGITS" else ast.literal_eval(r) for n, r in rules.items()
    }


@each_chapter
def test_all_parameters_are_checked_in_the_first_cell_after_them(chapter):
    (given, _), allowed = parameters_and_next(chapter), allowed_parameters(chapter)
    assert {"smoke", "seed", *allowed} == set(given)
    for size in ("default", "smoke", "gpu"):
        wanted = {**given, **presets(size).get(chapter.stem, {})}
        as_text = {name: str(value) for name, value in wanted.items()}
        for names in (dict(wanted), as_text):
            check_parameters(names, **allowed)
            assert names == wanted
            assert [type(v) for v in names.values()] == [type(v) for v in wanted.values()]


@each_chapter
def test_parameters_beyond_what_is_allowed_are_refused_by_name(chapter):
    (given, _), allowed = parameters_and_next(chapter), allowed_parameters(chapter)
    beyond = [("smoke", "maybe"), ("seed", -1), ("seed", 1.5)]
    for name, rule in allowed.items():
        low, *high = (rule,) if isinstance(rule, int) else rule
        beyond += [(name, "cifar10")] if isinstance(low, str) else [(name, low - 1)]
        beyond += [(name, high[0] + 1)] if high and isinstance(low, int) else []
    for name, value in beyond:
        with pytest.raises(ValueError, match=f"^{name}: .* expected, got {value!r}$"):
            check_parameters({**given, name: value}, **allowed)


def test_presets_name_only_chapters_that_exist():
    sizes = yaml.safe_load((ROOT / "book/presets.yml").read_text())
    assert set(sizes) == {"smoke", "gpu"}
    assert set(sizes["smoke"]) | set(sizes["gpu"]) <= {c.stem for c in CHAPTERS}


def test_address_and_version_stand_everywhere_as_in_pyproject():
    stale = [p.name for p, text in stamped().items() if p.read_text() != text]
    assert not stale, f"run `make tidy`: {stale} repeat another address or version"


@each_chapter
def test_cells_are_short_and_follow_prose(chapter):
    everything = cells(chapter)
    for before, cell in pairwise(everything):
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 20, cell.source
            assert before.cell_type == "markdown", f"code after code: {cell.source}"


@each_chapter
def test_three_exercises_with_kind_minutes_and_solution(chapter):
    text = "\n".join(c.source for c in cells(chapter, "markdown"))
    number = chapter.stem[:2]
    labels = re.findall(r"\{exercise\}.*\n:label: (\S+)\n+\*([^*]+)\*", text)
    assert [label for label, _ in labels] == [f"ex-{number}-{i}" for i in (1, 2, 3)]
    for label, line in labels:
        assert re.fullmatch(r"(Derive|Code|Find the bug), \d+ minutes\.?", line), line
        assert re.search(rf"\{{solution(-start)?\}} {label}\n:class: dropdown", text), label


@each_chapter
def test_every_numbered_statement_is_proved_and_checked(chapter):
    ran = ROOT / "_build/smoke/executed" / chapter.name
    if not ran.exists():
        pytest.skip("the smoke runs are missing: make test makes them")
    titles, checked = titles_of(ran), {check["label"] for check in checks_of(ran)}
    assert set(titles) <= checked, f"without a check: {set(titles) - checked}"
    text = "\n".join(c.source for c in cells(chapter, "markdown"))
    for part in text.split("{prf:")[1:]:
        kind = part.partition("}")[0]
        if kind in ("theorem", "proposition", "lemma", "corollary"):
            following = text[text.index(part) + len(part) :]
            assert following.startswith("{prf:proof}") or "{cite}" in part, part[:80]


def test_an_edit_of_prose_or_caption_needs_no_new_run_and_reaches_the_page(tmp_path):
    def notebook(text: str, caption: str, code: str) -> Path:
        book = nbformat.v4.new_notebook()
        book.cells = [
            nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}, id="a"),
            nbformat.v4.new_markdown_cell(text, id="b"),
            nbformat.v4.new_code_cell(code, metadata={"mystnb": {"caption": caption}}, id="c"),
        ]
        nbformat.write(book, tmp_path / f"{text}.ipynb")
        return tmp_path / f"{text}.ipynb"

    before, after = notebook("old", "old", "n"), notebook("new", "new", "n")
    assert key_of(before, {}) == key_of(after, {})
    assert key_of(before, {}) != key_of(notebook("other", "old", "n + 1"), {})
    options = {"kernel_name": "python3", "language": "python", "progress_bar": False}
    ran = papermill.execute_notebook(before, tmp_path / "ran.ipynb", {"n": 5}, **options)
    renew_text(after, tmp_path / "ran.ipynb")
    now = cells(tmp_path / "ran.ipynb")
    assert [c.source.strip().split("\n")[-1] for c in now] == ["n = 1", "n = 5", "new", "n"]
    assert now[-1].outputs == ran.cells[-1].outputs
    assert now[-1].outputs[0]["data"]["text/plain"] == "5"
    assert now[-1].metadata["mystnb"]["caption"] == "new"


def test_no_text_refers_to_a_figure_that_needs_a_recorded_run():
    text = "".join(c.source for chapter in CHAPTERS for c in cells(chapter, "markdown"))
    recorded = [
        cell.metadata["mystnb"]["figure"]["name"]
        for chapter in CHAPTERS
        for cell in cells(chapter, "code")
        if "figure" in cell.metadata.get("mystnb", {})
        and ("results/" in cell.source or "fig = None" in cell.source or "None" in cell.source[-9:])
    ]
    assert len(recorded) >= 5
    assert [name for name in recorded if f"{{numref}}`{name}`" in text] == []


def test_a_notebook_that_did_not_run_to_its_end_makes_no_page():
    ran = nbformat.v4.new_code_cell("1 + 1", execution_count=1)
    book = nbformat.v4.new_notebook(cells=[ran, nbformat.v4.new_code_cell("2 + 2")])
    book.metadata["run"] = "Run on ..."
    with pytest.raises(ValueError, match="05_x was not run from its first cell to its last"):
        foot(book, "05_x")
    book.cells[1].execution_count = 2
    assert "Run on" in foot(book, "05_x").source
    del book.metadata["run"]
    with pytest.raises(ValueError, match="was not run"):
        foot(book, "05_x")


@each_chapter
def test_figures_have_captions_and_alt_text(chapter):
    for cell in cells(chapter, "code"):
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure:
            assert len(figure["caption"]) > 40, figure
            assert figure["name"].startswith("fig-"), figure
            alt = cell.metadata["mystnb"].get("image", {}).get("alt", "")
            assert "Scrubber(" in cell.source or len(alt) > 40, f"no alt text: {figure['name']}"


def test_chapters_ran_at_smoke_size_without_widgets_left():
    for chapter in CHAPTERS:
        page = ROOT / "_build/smoke/source/book" / chapter.name
        assert page.exists(), f"{page} is missing: make test makes it"
        assert "widgets" not in json.loads(page.read_text())["metadata"]


@each_chapter
def test_a_chapter_fits_into_four_gigabytes_at_smoke_size(chapter):
    ran = ROOT / "_build/smoke/executed" / chapter.name
    peak = nbformat.read(ran, 4).metadata.get("peak", 0) if ran.exists() else 0
    if not peak:
        pytest.skip("no run with its peak of memory, which only Linux tells: make clean, make test")
    assert peak <= 3 * 1024  # MiB; the rest is for the build and the system


def test_the_short_path_is_marked_and_as_long_as_the_intro_says():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    marked = {c["file"]: c["title"] for p in parts for c in p["chapters"] if "title" in c}
    words = 0
    for file, title in marked.items():
        cells = json.loads((ROOT / f"{file}.ipynb").read_text())["cells"]
        texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        assert title == "◆ " + texts[0].splitlines()[0].removeprefix("# ")
        words += sum(len(text.split()) for text in texts)
    intro = (ROOT / "book/intro.md").read_text()
    path = intro.split("**The short path**")[1].split("words")[0]
    assert [f"book/{name}" for name in re.findall(r"{doc}`(\w+)`", path)] == list(marked)
    assert round(words, -3) == int(path.split()[-1].replace(",", ""))
    assert 4 <= words / 100 / 60 <= 5  # hours, at 100 words a minute
