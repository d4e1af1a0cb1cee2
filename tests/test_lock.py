"""requirements.lock pins, by hash, all that requirements.txt and pyproject.toml ask for."""

import re
import subprocess
import tomllib
from pathlib import Path

import lock
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LINES = [line for line in TEXT.splitlines() if not line.startswith("#")]
PINNED = dict(re.findall(r"^(\S+)==(\S+) \\$", TEXT, re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ASKED = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["build-system"]["requires"],
    *re.findall(r"^[a-z].*", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M),
]


@pytest.mark.parametrize("asked", ASKED)
def test_the_lock_holds_a_version_within_each_range(asked):
    wanted = Requirement(asked)
    name = canonicalize_name(wanted.name)
    assert name in {canonicalize_name(name) for name in PINNED}, f"{name}: make lock"
    assert wanted.specifier.contains(PINNED[name]), f"{PINNED[name]} is not {asked}: make lock"


def test_the_ranges_and_the_lock_were_read():
    assert len(ASKED) > 25
    assert len(PINNED) > 150


def test_every_line_of_the_lock_is_a_version_or_its_hash():
    # So there is no address, no other index and no option in it.
    package = r"[a-z0-9.-]+==[a-z0-9.]+ \\"
    file = r"    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert not [line for line in LINES if not re.fullmatch(f"{package}|{file}", line)]
    assert "://" not in TEXT


def test_every_package_of_the_lock_has_a_hash():
    ends = [before for before, line in zip(LINES, [*LINES[1:], "end=="], strict=True) if
            "==" in line and "--hash" not in line]  # fmt: skip
    assert len(ends) == len(PINNED)
    assert all("--hash" in line and not line.endswith("\\") for line in ends)


def test_torch_is_locked_with_its_libraries_for_a_gpu():
    assert Version(PINNED["torch"]).local is None
    assert any(name.startswith("nvidia-") for name in PINNED)


def test_the_lock_says_first_for_which_python_it_is():
    assert re.match(r"# For Python 3\.11, .*Linux", TEXT)


def test_versions_leaves_out_the_project_itself_and_comments():
    frozen = "# Editable Git install\nnumpy==2.4.6\n-e /some/folder\ntorch==2.14.1\n"
    assert lock.versions(frozen) == "numpy==2.4.6\ntorch==2.14.1\n"


@pytest.mark.parametrize("line", ["torch==2.14.1+cpu", "pip @ file:///some/wheel.whl"])
def test_a_version_that_the_package_index_does_not_have_is_refused(line):
    with pytest.raises(
        SystemExit, match=re.escape(f"from the package index expected, .venv holds {line}")
    ):
        lock.versions(f"numpy==2.4.6\n{line}\n")


def test_locked_checks_hashes_and_takes_nothing_that_the_lock_does_not_hold():
    told = subprocess.run(
        ["make", "--dry-run", "locked"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    installs = [line for line in told.stdout.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes -r requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation -e ." in installs[1]
