"""Workflows, the Makefile, README and glossary agree with each other."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_keeps_to_the_schema(workflow):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    command += ["vendor.github-workflows", str(workflow)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_only_targets_of_the_makefile(workflow):
    (job,) = yaml.safe_load(workflow.read_text())["jobs"].values()
    unnamed = [step["run"] for step in job["steps"] if "run" in step and "name" not in step]
    assert unnamed
    for command in unnamed:
        assert command.removeprefix("make ") in TARGETS, command


def test_readme_explains_every_target():
    rows = re.findall(r"^\| `make ([a-z-]+)`", (ROOT / "README.md").read_text(), re.M)
    assert sorted(rows) == sorted(TARGETS)


NO_PROSE = r"""^\#+\ [^\n]* | ^`{3,}\{[^\n]*  # headings, titles of theorems and of exercises
            | \$\$.*?\$\$ | \$[^$]*\$      # formulas
            | (\{term\}`[^`]*`)            # kept
            | (?:\{[a-z:]+\})?`[^`]*`      # other references, code"""


def test_every_term_of_the_glossary_is_linked_where_the_chapters_first_use_it():
    text = (ROOT / "book/glossary.md").read_text().split("```{glossary}")[1]
    terms = re.findall(r"^(\S[^`\n]*)\n  ", text, re.M)
    assert len(terms) > 20
    cells = [
        (path.stem, re.sub(NO_PROSE, r"\1", "".join(cell["source"]), flags=re.M | re.S | re.X))
        for path in sorted((ROOT / "book").glob("*.ipynb"))
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    ]
    late = []
    for term in terms:
        link = re.compile(rf"\{{term\}}`(?:[^`<]*<)?{re.escape(term)}>?`", re.I)
        use = re.compile(rf"\b{re.escape(term)}(?:s|es)?\b", re.I)
        first = next(((name, cell) for name, cell in cells if use.search(cell)), None)
        assert first is not None, f"no chapter uses {term}"
        if not link.search(first[1]):
            late.append((term, first[0]))
    assert not late
