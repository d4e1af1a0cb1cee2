"""What the tests would not notice: changes of one sign, operator or constant that no test fails at.

    pip install mutmut
    python benchmarks/mutants.py losses theory          the modules named, or all of TESTS

mutmut changes the functions of a module one place at a time, in a copy of the repository, and runs
the module's own tests on each change, for at most ten times their usual time and 30 seconds. A
change at which a test fails, or that runs out of time, is killed; the others survive, and either
want a test or change nothing (a message, a tolerance that is never reached). Writes
book/results/mutants.json: for each file how many were killed, of how many, and the survivors.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RESULTS, ROOT, new_record

from ganlib.records import write_record

FILE = RESULTS / "mutants.json"
TESTS = {
    "losses": ["test_losses"],
    "theory": ["test_theory", "test_theory_random"],
    "games": ["test_games"],
    "metrics": ["test_metrics", "test_distances"],
    "trainer": ["test_train_step", "test_trainer"],
    "data": ["test_data", "test_densities"],
    "guards": ["test_guards"],
}
SETTINGS = """[mutmut]
source_paths=ganlib
only_mutate=ganlib/{module}.py
do_not_mutate_patterns=raise \\w+
also_copy=
    benchmarks
    book
process_isolation=forkserver
debug=true
timeout_multiplier=10
timeout_constant=3
pytest_add_cli_args_test_selection=
    {tests}
pytest_add_cli_args=
    -x
    -p
    no:cacheprovider
"""
SURVIVED = 0  # the exit code of tests that all passed


def mutate(module: str, copy: Path) -> dict[str, int | None]:
    """The exit code of the module's tests for each change, by mutmut's name of it."""
    tests = "\n    ".join(f"tests/{name}.py" for name in TESTS[module])
    (copy / "setup.cfg").write_text(SETTINGS.format(module=module, tests=tests))
    told = subprocess.run(
        [sys.executable, "-m", "mutmut", "run", "--max-children", "1"],
        cwd=copy, env=environment(copy), capture_output=True, text=True,
    )  # fmt: skip
    meta = copy / "mutants" / "ganlib" / f"{module}.py.meta"
    codes = json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}
    if told.returncode or not codes or None in codes.values():
        sys.exit(f"mutmut did not finish {module}:\n{told.stdout[-3000:]}{told.stderr[-3000:]}")
    return codes


def environment(copy: Path) -> dict[str, str]:
    (copy / "mutants").mkdir(exist_ok=True)  # a folder that is not there at the start is left out
    paths = {"PYTHONPATH": str(copy / "mutants")}
    return {**os.environ, **paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def describe(name: str, module: str, copy: Path) -> dict[str, str | int]:
    """Where a change is, and the line before and after it."""
    shown = subprocess.run([sys.executable, "-m", "mutmut", "show", name], cwd=copy,
                           env=environment(copy), capture_output=True, text=True)  # fmt: skip
    lines = [line for line in shown.stdout.splitlines() if not line.startswith(("---", "+++"))]
    before, after = ("".join(x[1:].strip() for x in lines if x.startswith(s)) for s in "-+")
    function = re.sub(r"^x_|__mutmut_\d+$", "", name.rpartition(".")[2])
    source = (ROOT / "ganlib" / f"{module}.py").read_text().splitlines()
    start = next((i for i, text in enumerate(source) if f"def {function}(" in text), 0)
    places = [
        i for i in range(start, len(source)) if source[i].strip() and source[i].strip() in before
    ]
    return {"line": (places or [start])[0] + 1, "function": function, "from": before, "to": after}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="*", choices=[*TESTS, []], default=[])
    modules = parser.parse_args().modules or list(TESTS)
    old = json.loads(FILE.read_text()) if FILE.exists() else {"files": []}
    files = [row for row in old["files"] if row["file"] not in {f"ganlib/{m}.py" for m in modules}]
    for module in modules:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)
            archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE)
            subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
            codes = mutate(module, copy)
            alive = [describe(n, module, copy) for n, code in codes.items() if code == SURVIVED]
        row = {
            "file": f"ganlib/{module}.py",
            "killed": len(codes) - len(alive),
            "total": len(codes),
        }
        files.append(row | {"survivors": alive})
        print(row)
        write_record(FILE, new_record("mutants.py", files=sorted(files, key=lambda r: r["file"])))


if __name__ == "__main__":
    main()
