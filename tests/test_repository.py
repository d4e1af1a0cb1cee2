"""Workflows, the Makefile, README and glossary agree with each other."""

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


def test_every_term_of_the_glossary_is_linked_from_a_chapter():
    text = (ROOT / "book/glossary.md").read_text().split("```{glossary}")[1]
    terms = re.findall(r"^(\S[^`\n]*)\n  ", text, re.M)
    chapters = "".join(path.read_text() for path in (ROOT / "book").glob("*.ipynb"))
    linked = re.findall(r"\{term\}`(?:[^`<]*<)?([^`<>]+?)>?`", chapters)
    assert len(terms) > 20
    assert set(terms) - set(linked) == set()
