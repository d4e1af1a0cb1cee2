"""How the code is built: who imports whom, what is how long, which names mean what."""

import ast
import json
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
