"""The quick part of `make faults`: each fault is made once or a few times, and survived."""

import json
import random
import re
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.distributed as dist

if sys.platform == "win32":
    pytest.skip("needs kill -9 and fork", allow_module_level=True)

import common
import fault_data
import fault_files
import fault_tools
import faults
import reliability

from ganlib import data

BOOK = json.loads((common.RESULTS / "faults.json").read_text())
pytestmark = pytest.mark.xdist_group("faults")  # one worker: one server of forks


@pytest.fixture
def place():
    """A folder that another user finds, too: those above pytest's own are closed to others."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# Kills


def test_a_run_killed_twice_ends_bit_for_bit_as_one_in_peace(tmp_path):
    row = faults.kill_runs(faults.Kind("conv", 24, 1, 2), tmp_path, 0)
    assert (row["kills"], row["equal"]) == (2, row["runs"])
    assert row.keys() == BOOK["kills"][0].keys()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_of_two_processes_the_one_that_is_left_ends_with_a_sentence(tmp_path):
    kind, rng = faults.Kind("conv", 10**6, 2, 1), random.Random(2)
    killed = faults.kill(kind, tmp_path / "run", rng, (0, 0.2))
    assert killed is not None
    assert killed["alone"]
    logs = [Path(f"{tmp_path}/run.log{rank}").read_text() for rank in range(2)]
    (said,) = [text for text in logs if "Error: " in text]
    assert re.search("another of the 2 processes has ended, and so process [01] does", said)
    assert "go on with --resume" in said
    assert "Traceback" not in said


def test_two_runs_that_differ_in_one_bit_are_told_apart(tmp_path):
    contents = {"weights": [torch.ones(3), {"step": 1}]}
    told = faults.told(contents)
    assert told == faults.told({"weights": [torch.ones(3), {"step": 1}]})
    contents["weights"][0][1] = 1 + 2.0**-23
    assert told != faults.told(contents)
    run = fault_tools.begun_run(tmp_path, 2)
    before = faults.end_of(run)
    assert before == faults.end_of(run)
    assert before[0]["state"]["step"] == 2
    fault_tools.command("train", "conv", "--out", run, "--resume", "--steps", 3)
    assert before != faults.end_of(run)


# Disks, files, servers


PARTS = {
    "disk": partial(fault_files.disk_rows, n=2),
    "checkpoint": partial(fault_files.checkpoint_rows, n=20),
    "data": partial(fault_data.data_rows, n=1),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_fault_ends_as_wanted(part, place, monkeypatch):
    monkeypatch.setattr(data, "SILENCE", 0.5)
    rows = list(PARTS[part](place, random.Random(0)))
    for row in rows:
        assert row["as_wanted"] == row["tries"], row.get("failures", row)
        assert row["tries"] > 0 or "may not mount" in row["skipped"], row
    names = [(row["part"], row["what"]) for row in rows]
    assert names == [
        (r["part"], r["what"]) for r in BOOK["rows"] if (r["part"], r["what"]) in names
    ]


def test_the_record_of_the_book_is_of_all_kinds_and_of_fifty_kills():
    assert sum(row["kills"] for row in BOOK["kills"]) >= 50
    kinds = [(kind.options, kind.n_processes, kind.steps, kind.kills) for kind in faults.KINDS]
    keys = ("model", "n_processes", "steps", "kills")
    assert [tuple(row[key] for key in keys) for row in BOOK["kills"]] == kinds
    assert all(row["equal"] == row["runs"] > 0 for row in BOOK["kills"])
    assert {row["part"] for row in BOOK["rows"]} == reliability.PARTS.keys()
    assert all(row["as_wanted"] == row["tries"] for row in BOOK["rows"])
    assert BOOK["seconds"] <= 15 * 60


def succeed() -> None:
    fault_tools.refuse("--help")


def say_something_else() -> None:
    fault_tools.refuse("sample", "nothing.pt", "--out", "x.png", says="damaged")


def leave_a_traceback() -> None:
    raise RuntimeError("unexpected")


@pytest.mark.parametrize(
    ("attempt", "told"),
    [(succeed, "exit code 0"), (say_something_else, "'damaged' expected in 'Error: no checkpoint"),
     (leave_a_traceback, "RuntimeError: unexpected")],
)  # fmt: skip
def test_what_does_not_end_as_wanted_is_counted_and_told(attempt, told):
    row = fault_tools.row("data", "what", "wanted", [attempt, lambda: None])
    assert (row["tries"], row["as_wanted"]) == (2, 1)
    assert told in row["failures"][0]


def test_a_failed_row_is_recorded_and_makes_the_script_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(faults, "RESULTS", tmp_path)
    monkeypatch.setattr(faults, "KINDS", ())
    rows = [fault_tools.row("disk", "what", "wanted", [leave_a_traceback])]
    for name, made in (("disk_rows", rows), ("checkpoint_rows", []), ("data_rows", [])):
        maker = lambda folder, rng, made=made: iter(made)  # noqa: E731
        maker.__name__ = name
        monkeypatch.setattr(faults, name, maker)
    with pytest.raises(SystemExit, match=r"1 rows of .*faults\.json did not end as they should"):
        faults.main()
    made = json.loads((tmp_path / "faults.json").read_text())
    assert made["rows"] == rows
    assert made.keys() == BOOK.keys()


# The page


def test_the_page_says_what_the_record_says_in_under_600_words():
    page = reliability.page(BOOK)
    assert len(re.findall(r"[a-zA-Z][\w'.-]*", page)) < 600
    for row in BOOK["rows"]:
        what, ended = (
            row["what"].removeprefix("A server that "),
            f"{row['tries']} / {row['tries']}",
        )
        assert f"| {what} | {ended} | {row['longest_seconds']} |" in page
    for name in ("date", "device", "torch", "python", "command"):
        assert BOOK[name] in page


def test_every_number_of_the_page_is_from_the_record():
    def numbers(record: dict) -> list[str]:
        return re.findall(r"\d+", reliability.page(record))

    def blank(thing):
        if isinstance(thing, dict):
            return {k: blank(v) for k, v in thing.items()}
        if isinstance(thing, list):
            return [blank(v) for v in thing]
        return 0 if isinstance(thing, int | float) else re.sub(r"\d", "", thing)

    assert len(numbers(BOOK)) > 100
    left = [number for number in numbers(blank(BOOK)) if number != "0"]
    assert left == []


def test_what_was_not_tried_is_said_on_the_page():
    row = fault_tools.skipped("disk", "A full disk", "this user may not mount a file system")
    page = reliability.page(BOOK | {"rows": [row]})
    assert "| A full disk | not tried: this user may not mount a file system | 0.0 |" in page
