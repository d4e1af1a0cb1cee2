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


def jobs(workflow: Path) -> dict[str, dict]:
    return yaml.safe_load(workflow.read_text())["jobs"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_keeps_to_the_schema(workflow):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    command += ["vendor.github-workflows", str(workflow)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_only_targets_of_the_makefile(workflow):
    steps = [step for job in jobs(workflow).values() for step in job["steps"]]
    unnamed = [step["run"] for step in steps if "run" in step and "name" not in step]
    assert unnamed
    for command in unnamed:
        assert command.removeprefix("make ") in TARGETS, command


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_its_commit_and_says_its_version(workflow):
    used = re.findall(r"^[ -]*uses: (.*)$", workflow.read_text(), re.M)
    steps = [step for job in jobs(workflow).values() for step in job["steps"]]
    assert len(used) == len([step for step in steps if "uses" in step]) > 0
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_one_version_of_an_action_is_one_commit_everywhere():
    text = "".join(workflow.read_text() for workflow in WORKFLOWS)
    used = set(re.findall(r"uses: (\S+)@(\w+) # (\S+)", text))
    assert len(used) == len({name for name, *_ in used}) > 3


def test_jobs_may_only_read_but_for_the_ones_that_must_write():
    may = {}
    for workflow in WORKFLOWS:
        assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
        for name, job in jobs(workflow).items():
            if "permissions" in job:
                may[f"{workflow.stem}: {name}"] = job["permissions"]
    assert may == {
        "publish: tag": {"contents": "write"},
        "publish: deploy": {"pages": "write", "id-token": "write"},
        "weekly: tell": {"issues": "write"},
    }


def test_jobs_that_run_the_books_code_hold_no_credentials():
    for workflow in WORKFLOWS:
        for job in jobs(workflow).values():
            if any(step.get("run", "").startswith("make") for step in job["steps"]):
                (checkout,) = [s for s in job["steps"] if "/checkout@" in s.get("uses", "")]
                assert "permissions" not in job
                assert checkout["with"] == {"persist-credentials": False}


def test_an_issue_is_opened_for_every_weekly_job_that_must_not_fail():
    weekly = jobs(ROOT / ".github/workflows/weekly.yml")
    must = {name for name, job in weekly.items() if not job.get("continue-on-error")} - {"tell"}
    assert set(weekly["tell"]["needs"]) == must >= {"newest", "audit"}
    assert weekly["tell"]["if"] == "failure()"
    assert set(weekly) - must == {"tell", "newest-sphinx"}


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
