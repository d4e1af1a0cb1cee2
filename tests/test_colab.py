"""The try in Colab's environment: which sets of versions it runs, with which Python."""

import os
import re
import sys
import tomllib
from pathlib import Path

import colab_test
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def listed(name: str) -> dict[str, str]:
    lines = colab_test.versions(name)[0].read_text(encoding="utf-8").splitlines()[1:]
    return dict(line.split("==") for line in lines)


def fake_python(path: Path, version: str) -> Path:
    """A program that answers for a version, as `python -c` does that compares it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ncase "$2" in *"\'{version}\'"*) exit 0;; esac\nexit 1\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine of one's own: no Python by name, none of pyenv's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("COLAB_PYTHON", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", colab_test.SETS)
@pytest.mark.parametrize("asked", PROJECT["dependencies"])
def test_colabs_versions_are_within_the_ranges_of_ganlib(name, asked):
    # The chapters install ganlib without its dependencies, so nothing else would tell.
    wanted = Requirement(asked)
    assert wanted.specifier.contains(listed(name)[wanted.name])


def test_the_sets_span_what_colab_offers():
    oldest, newest = (colab_test.versions(name)[1] for name in colab_test.SETS)
    assert (oldest, newest) == ("3.11", "3.13")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(oldest)
    assert listed("oldest").keys() == listed("newest").keys()
    assert (listed("oldest")["torch"], listed("newest")["torch"]) == ("2.6.0", "2.11.0")


def test_the_workflow_that_runs_them_sets_up_both_pythons():
    steps = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]["check"][
        "steps"
    ]
    (setup,) = [step["with"] for step in steps if "setup-python" in step.get("uses", "")]
    (run,) = [step for step in steps if step.get("run") == "make colab-test"]
    (own,) = re.findall(r"'(.*)'", run["if"])
    there = setup["python-version"].replace("${{ matrix.python }}", own).split()
    assert set(there) == {colab_test.versions(name)[1] for name in colab_test.SETS}


def test_a_list_that_names_no_python_is_refused(tmp_path, monkeypatch):
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/colab-versions-newest.txt").write_text("torch==2.11.0\n")
    monkeypatch.setattr(colab_test, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"Python X\.Y expected, got 'torch==2\.11\.0'"):
        colab_test.versions("newest")


def test_the_interpreter_is_looked_for_by_variable_then_name_then_pyenv(machine, monkeypatch):
    assert colab_test.interpreter("3.98") is None
    pyenv = fake_python(machine / ".pyenv/versions/3.98.1/bin/python", "3.98")
    assert colab_test.interpreter("3.98") == str(pyenv)
    named = fake_python(machine / "bin/python3.98", "3.98")
    assert colab_test.interpreter("3.98") == str(named)
    given = fake_python(machine / "given", "3.98")
    monkeypatch.setenv("COLAB_PYTHON", str(given))
    assert colab_test.interpreter("3.98") == str(given)


def test_an_interpreter_of_another_version_is_passed_over(machine, monkeypatch):
    monkeypatch.setenv("COLAB_PYTHON", str(fake_python(machine / "given", "3.97")))
    assert colab_test.interpreter("3.98") is None
    assert colab_test.interpreter(HERE) == sys.executable


@pytest.fixture
def tried(monkeypatch) -> list[str]:
    """The sets and chapters that would run, on a machine that has Python 3.11 only."""
    calls: list[str] = []
    pythons = {"3.11": "/some/python"}
    monkeypatch.setattr(colab_test, "interpreter", pythons.get)
    monkeypatch.setattr(colab_test, "run", lambda *command, **options: "")
    monkeypatch.setattr(
        colab_test, "make_environment",
        lambda name, versions, python: calls.append(f"{name} {python}") or Path("/env/bin/python"),
    )  # fmt: skip
    monkeypatch.setattr(colab_test, "try_chapter", lambda chapter, *_: calls.append(chapter))
    monkeypatch.setattr(sys, "argv", ["colab_test.py", "01_adversarial_game"])
    return calls


def test_a_set_without_its_python_is_skipped_by_name_and_the_other_runs(tried, capsys):
    colab_test.main()
    assert tried == ["oldest /some/python", "01_adversarial_game"]
    told = capsys.readouterr().out
    assert "skipped Colab's newest versions: no Python 3.13 on this machine" in told


def test_no_set_at_all_is_a_failure(tried, monkeypatch):
    monkeypatch.setattr(colab_test, "interpreter", lambda version: None)
    with pytest.raises(SystemExit, match=re.escape("no set of Colab's versions was tried")):
        colab_test.main()
    assert tried == []


def test_an_environment_is_made_anew_when_its_list_changed(tmp_path, monkeypatch):
    commands: list[tuple] = []

    def run(*command, **options):
        commands.append(command)
        if "venv" in command:
            os.makedirs(command[-1])
        return "Python 3.11.9"

    monkeypatch.setattr(colab_test, "run", run)
    monkeypatch.setattr(colab_test, "HOME", tmp_path)
    versions = tmp_path / "list.txt"
    versions.write_text("torch==2.6.0\n")
    for _ in range(2):
        python = colab_test.make_environment("oldest", versions, "/some/python")
    assert python == tmp_path / "oldest/bin/python"
    assert sum("venv" in command for command in commands) == 1
    versions.write_text("torch==2.7.0\n")
    colab_test.make_environment("oldest", versions, "/some/python")
    assert sum("venv" in command for command in commands) == 2
