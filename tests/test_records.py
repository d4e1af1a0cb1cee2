"""ganlib.records: where numbers come from, and files that are whole at every moment."""

import json
import math
import os
import platform
import re
import time
from pathlib import Path

import pytest
import torch

import ganlib
from ganlib.records import cpu_name, provenance, read_record, replacing, write_record


def test_provenance_names_the_machine_the_day_and_the_versions():
    found = provenance()
    assert found.keys() == {"date", "device", "torch", "ganlib", "python"}
    assert found["date"] == time.strftime("%Y-%m-%d")
    assert (found["torch"], found["ganlib"]) == (torch.__version__, ganlib.__version__)
    assert found["python"] == platform.python_version()
    assert found["device"].startswith(cpu_name())
    assert found["device"].endswith(f"threads: {torch.get_num_threads()}")
    assert platform.machine() in found["device"]
    json.dumps(found)


def test_provenance_of_another_device_names_that_device():
    assert provenance("mps")["device"] == f"{platform.machine()} mps"


def test_the_processor_has_a_name():
    assert re.search(r"\w{3}", cpu_name())


def test_a_record_is_json_with_a_line_a_key_and_a_line_a_row(tmp_path):
    contents = {"date": "2026-01-02", "rows": [{"a": 1}, {"a": 2}], "curve": [[1, 2], [3, 4]]}
    write_record(tmp_path / "deep" / "r.json", contents)
    text = (tmp_path / "deep" / "r.json").read_text()
    assert json.loads(text) == contents
    assert text.splitlines() == [
        "{", ' "date": "2026-01-02",', ' "rows": [', '  {"a": 1},', '  {"a": 2}', " ],",
        ' "curve": [[1, 2], [3, 4]]', "}",
    ]  # fmt: skip


def test_reading_a_record_says_when_by_what_and_on_what_it_was_made(tmp_path, capsys):
    contents = {"date": "2026-01-02", "command": "python b.py", "device": "abacus",
                "torch": "9.1", "rows": []}  # fmt: skip
    write_record(tmp_path / "r.json", contents)
    assert read_record(tmp_path / "r.json", "python b.py") == contents
    out = capsys.readouterr().out
    assert out == "recorded 2026-01-02 by python b.py,\non abacus, torch 9.1\n"


def test_a_missing_record_is_none_and_the_command_that_makes_it_is_told(tmp_path, capsys):
    assert read_record(tmp_path / "r.json", "python b.py --quick") is None
    assert capsys.readouterr().out == "not recorded here: python b.py --quick makes it\n"


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "f.txt"
    with replacing(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["f.txt"]


def test_what_is_written_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda n: (order.append("fsync"), fsync(n))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    write_record(tmp_path / "r.json", {"a": 1})
    assert order == ["fsync", "replace"]


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    write_record(tmp_path / "r.json", {"a": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"r\.json cannot be written \(No space left on device\)"):
        write_record(tmp_path / "r.json", {"a": 2})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [Path(tmp_path / "r.json")]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_refused_by_its_place_and_the_file_stays(tmp_path, bad):
    path = tmp_path / "r.json"
    write_record(path, {"a": 1})
    for contents, place in (
        ({"a": bad}, "a"),
        ({"rows": [{"x": 1.0}, {"x": [2.0, bad]}]}, "rows.1.x.1"),
    ):
        with pytest.raises(ValueError, match=rf"got {bad} at {re.escape(place)}$"):
            write_record(path, contents)
    assert path.read_text() == '{\n "a": 1\n}\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"date": "x", "command": "y", "device": "z", "a": NaN}', "holds NaN"),
     ('{"date": "x", "command": "y", "device": "z", "a": [-Infinity]}', "holds -Infinity"),
     ('{"date": "x"}', "lacks ['command', 'device']"), ("[1]", "list"), ("{", "property name")],
)  # fmt: skip
def test_a_file_that_is_no_record_is_refused_by_its_name(tmp_path, text, why):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=r"a record expected, .*r\.json is none") as refusal:
        read_record(tmp_path / "r.json", "python b.py")
    assert why in str(refusal.value)


def test_no_script_writes_json_but_through_a_record():
    root = Path(ganlib.__file__).parents[1]
    for path in [*(root / "ganlib").rglob("*.py"), *(root / "benchmarks").glob("*.py")]:
        calls = [line for line in path.read_text().splitlines() if "json.dump" in line]
        assert path.name == "records.py" or all("allow_nan=False" in line for line in calls), path
