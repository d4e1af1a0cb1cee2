"""How the code is built: who imports whom, what is how long, which names mean what."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READING = sorted(p for p in (ROOT / "ganlib").glob("*.py") if not p.stem.startswith("__"))
PACKAGE = sorted((ROOT / "ganlib").rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "book").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in [*PACKAGE, *SCRIPTS]}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    """A module's name: ganlib/runs/state.py is ganlib.runs.state."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path) for path in PACKAGE}


def imported_by(path: Path) -> set[str]:
    """The modules of ganlib that a file names in an import, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            found |= inner or {str(node.module)}
    return {name for name in found if name.split(".")[0] == "ganlib"}


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(TREES[path]) if isinstance(node, Function))


def lines_of_body(function: Function) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(function: Function) -> list[str]:
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [a.arg for a in [*given, arguments.vararg, arguments.kwarg] if a]


# Imports


@pytest.mark.parametrize("path", READING, ids=lambda path: path.stem)
def test_the_reading_room_never_imports_the_machine_room(path):
    imported = imported_by(path)
    assert not {name for name in imported if f"{name}.".startswith("ganlib.runs.")}
    assert imported <= MODULES


def test_no_module_imports_itself_through_others():
    graph = {name_of(path): imported_by(path) for path in PACKAGE}
    assert sum(map(len, graph.values())) > 30

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        for other in sorted(graph.get(name, ())):
            follow(other, (*way, name))

    for name in sorted(graph):
        follow(name, ())


# Lengths


@pytest.mark.parametrize("path", READING, ids=lambda path: path.stem)
def test_a_file_of_the_reading_room_has_at_most_250_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250


def test_the_teaching_core_is_an_evenings_reading():
    core = ("theory", "losses", "games", "trainer", "models")
    texts = [(ROOT / f"ganlib/{name}.py").read_text(encoding="utf-8") for name in core]
    assert sum(len(text.splitlines()) for text in texts) <= 800


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_has_more_than_40_lines(path):
    long = {f.name: lines_of_body(f) for f in functions(path) if lines_of_body(f) > 40}
    assert not long


def taught(module: str) -> set[str]:
    """The functions and classes of a module that chapters write out in full."""
    found: set[str] = set()
    for chapter in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]:
            if f"shows:{module}" in cell["metadata"].get("tags", []):
                body = ast.parse("".join(cell["source"])).body
                found |= {n.name for n in body if isinstance(n, Function | ast.ClassDef)}
    return found


def test_the_taught_code_of_the_trainer_is_short_and_stands_first():
    # A new game must not change these functions; a longer one is a chapter that has to change.
    names = taught("trainer")
    shown = [f for f in functions(ROOT / "ganlib/trainer.py") if f.name in names]
    assert {f.name for f in shown} == names >= {"compute_gradients", "train_step"}
    assert sum(lines_of_body(f) for f in shown) <= 24
    assert min(f.lineno for f in shown) <= 60


# Names


def public(path: Path) -> set[str]:
    return {
        node.name
        for node in TREES[path].body
        if isinstance(node, Function) and not node.name.startswith("_")
    }


PUBLIC = set().union(*(public(path) for path in PACKAGE))


def test_no_function_has_the_name_of_a_module():
    assert not PUBLIC & {name.rpartition(".")[2] for name in MODULES}


CLASSES = {node.name.lower() for path in PACKAGE for node in ast.walk(TREES[path])
           if isinstance(node, ast.ClassDef)}  # fmt: skip


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_no_variable_has_the_name_of_a_module_or_of_a_public_function(path):
    # But a variable may be called after its class: a State is `state`, in ganlib.runs.state, too.
    # Foreign signatures (click's `convert`, nn.Module's `__setattr__`) are as they are.
    taken = (PUBLIC | {name.rpartition(".")[2] for name in MODULES}) - CLASSES
    foreign = {f for f in functions(path) if f.name.startswith("__") or f.name == "convert"}
    own = set(functions(path)) - foreign
    clashes = {(f.name, name) for f in own for name in parameters(f) if name in taken}
    for function in own:
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in taken:
                clashes.add((function.name, node.id))
    assert clashes <= {("train", "checkpoint")}  # `train(..., checkpoint=...)` came first


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(ROOT)))
def test_real_comes_before_fake_in_every_signature(path):
    for function in functions(path):
        names = parameters(function)
        for fake in (name for name in names if "fake" in name):
            real = fake.replace("fake", "real")
            if real in names:
                assert names.index(real) < names.index(fake), function.name


# Safety


DANGEROUS = {
    "S102": "exec(text)",
    "S301": "import pickle\npickle.load(file)",
    "S302": "import marshal\nmarshal.loads(data)",
    "S307": "eval(text)",
    "S506": "import yaml\nyaml.load(text, Loader=yaml.Loader)",
    "S602": "import subprocess\nsubprocess.run(command, shell=True)",
    "S604": "launch(command, shell=True)",
    "S605": "import os\nos.system(command)",
}


def rules_broken(code: str, name: str) -> set[str]:
    """What `ruff check`, as `make test` runs it, says of code in a file of this name."""
    if name.endswith(".ipynb"):
        cell = {"cell_type": "code", "source": code, "metadata": {}, "outputs": [], "id": "a",
                "execution_count": None}  # fmt: skip
        code = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "json", "--no-cache"]
    done = subprocess.run(
        [*command, "--stdin-filename", str(ROOT / name), "-"],
        cwd=ROOT, input=code, capture_output=True, text=True,
    )  # fmt: skip
    return {fault["code"] for fault in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "name",
    ["ganlib/new.py", "ganlib/runs/new.py", "book/new.py", "book/99_new.ipynb", "book/_ext/new.py",
     "benchmarks/new.py", ".ci/new.py", "tests/test_new.py"],
)  # fmt: skip
def test_the_linter_lets_nothing_pass_that_runs_what_it_reads(name):
    assert rules_broken("\n".join(DANGEROUS.values()), name) >= set(DANGEROUS)


def test_what_is_safe_passes_the_linter():
    safe = "import yaml\n\nyaml.safe_load(text := input())\nprint(text)\n"
    assert not rules_broken(safe, "ganlib/new.py")


def code_of_the_chapters() -> dict[str, ast.AST]:
    """The syntax tree of each code cell, without the lines that are for IPython only."""
    trees: dict[str, ast.AST] = {}
    for chapter in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                plain = [line for line in lines if not line.lstrip().startswith(("%", "!"))]
                trees[f"{chapter.name}, {cell['id']}"] = ast.parse("\n".join(plain))
    return trees


def test_torch_loads_weights_only():
    # Ruff has no rule for it. It is the default from torch 2.6 on, but a reader need not know that.
    trees = {str(path.relative_to(ROOT)): tree for path, tree in TREES.items()}
    found = 0
    for name, tree in (trees | code_of_the_chapters()).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                said = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert said.get("weights_only") == "True", f"{name}: {ast.unparse(node)}"
                found += 1
            elif isinstance(node, ast.ImportFrom) and node.module in (
                "torch",
                "torch.serialization",
            ):
                assert "load" not in {alias.name for alias in node.names}, name
            elif isinstance(node, ast.Import):
                assert not [a for a in node.names if a.name == "torch" and a.asname], name
    assert found >= 2
