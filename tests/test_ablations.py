"""The record of the ablations holds runs of one seed and one setup."""

import json

import ablations
import pytest
from common import RESULTS

from ganlib.records import write_record


def test_a_record_of_another_seed_is_refused_in_one_line_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations.torch, "set_flush_denormal", lambda on: None)
    monkeypatch.setattr(ablations, "OUT", tmp_path / "record.json")
    monkeypatch.setattr(ablations, "TIPS", {})
    record = json.loads((RESULTS / "10_ablations.json").read_text())
    write_record(ablations.OUT, record)
    monkeypatch.setattr("sys.argv", ["ablations.py", "--seed", "100"])
    with pytest.raises(SystemExit, match=r"record\.json holds runs of another seed or setup: move"):
        ablations.main()
    assert json.loads(ablations.OUT.read_text()) == record
    monkeypatch.setattr("sys.argv", ["ablations.py"])
    ablations.main()  # the book's own record is gone on with
