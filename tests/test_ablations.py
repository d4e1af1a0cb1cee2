"""The record of the ablations holds runs of one seed and one setup."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "ablations.py"


def test_a_record_of_another_seed_is_refused_in_one_line_and_kept(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("ablations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    ablations = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ablations", ablations)  # its dataclasses look there
    spec.loader.exec_module(ablations)
    monkeypatch.setattr(ablations.torch, "set_flush_denormal", lambda on: None)
    monkeypatch.setattr(ablations, "OUT", tmp_path / "record.json")
    monkeypatch.setattr(ablations, "TIPS", {})
    record = json.loads((SCRIPT.parents[1] / "book/results/10_ablations.json").read_text())
    ablations.save(record)
    monkeypatch.setattr(sys, "argv", ["ablations.py", "--seed", "100"])
    with pytest.raises(SystemExit, match=r"record\.json holds runs of another seed or setup: move"):
        ablations.main()
    assert json.loads(ablations.OUT.read_text()) == record
    monkeypatch.setattr(sys, "argv", ["ablations.py"])
    ablations.main()  # the book's own record is gone on with
