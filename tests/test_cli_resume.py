"""`ganlib train --resume`: bit for bit after any break, on another device, and never mixed up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import assert_equal
from cli_builders import (
    ROOT,
    SMALL,
    checkpoint_of,
    done,
    files_of,
    ganlib_command,
    interrupt_at,
    refused,
)

from ganlib.models import MaxoutDiscriminator
from ganlib.runs.checkpoint import save_checkpoint
from ganlib.runs.settings import MODELS


def with_dropout(*given: Any) -> Any:
    """Chapter 7's G, and the 2014 paper's D."""
    return MODELS["maxout"].networks(*given)[0], MaxoutDiscriminator(given[1])


@pytest.mark.parametrize("options", [  # batch norm in G; the same by convolutions; in both; dropout
    ["maxout"], ["conv"], ["conv", "--bf16"], ["dcgan", "--loss", "r1"], ["mlp"],
])  # fmt: skip
def test_an_interrupted_run_that_goes_on_equals_an_uninterrupted_one_bit_for_bit(
    options, tmp_path, monkeypatch
):
    model, dropout = options[0], replace(MODELS["mlp"], networks=with_dropout)
    monkeypatch.setitem(MODELS, "mlp", dropout)  # which no model of the table has
    every = ["--checkpoint-every", 5, "--sample-every", 10]
    run = ["train", *options, *SMALL, "--steps", 20, *every]
    done(*run, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(2 * 12 + 2, patch)  # in the 13th step, after D's update
        ran = ganlib_command(*run, "--out", tmp_path / "parts")
    assert ran.exit_code == 130
    again = f"ganlib train {model} --out {tmp_path / 'parts'} --resume"
    assert f"Interrupted; step 10 is saved. To go on from it: {again}\n" in ran.output
    assert checkpoint_of(tmp_path / "parts")["state"]["step"] == 10
    done(*again.split()[1:])
    whole, parts = checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts")
    assert whole["state"]["step"] == 20
    for name in ("settings", "state", "random"):
        assert_equal(parts[name], whole[name], name)
    assert "average" in whole["state"]
    grids = [files_of(tmp_path / name / "samples") for name in ("whole", "parts")]
    assert grids[0] == grids[1]


def test_a_run_whose_total_is_raised_equals_one_that_had_it_from_the_start(tmp_path):
    done("train", "conv", *SMALL, "--steps", 6, "--out", tmp_path / "whole")
    done("train", "conv", *SMALL, "--steps", 3, "--out", tmp_path / "parts")
    done("train", "conv", "--out", tmp_path / "parts", "--resume", "--steps", 6)
    whole, parts = checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts")
    for part in ("generator", "discriminator", "opt_g", "opt_d", "average", "random"):
        assert_equal(parts["state"][part], whole["state"][part], part)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_run_that_is_killed_leaves_a_good_file_and_goes_on_to_the_same_end(tmp_path):
    out, run = tmp_path / "killed", ["train", "conv", *SMALL, "--checkpoint-every", "1"]
    places = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ganlib", *run, "--steps", "100", "--out", str(out)],
        env=os.environ | places,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not (out / "checkpoint.pt").exists():
        time.sleep(0.02)
    time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    step = checkpoint_of(out)["state"]["step"]
    assert step < 100
    done("train", "conv", "--out", out, "--resume")
    assert [f.name for f in out.glob(".*")] == []
    told = json.loads((out / "metrics.json").read_text())
    assert told["command"] == f"ganlib {' '.join(run)} --steps 100 --out {out}"
    assert (told["steps"], len(told["resumed_by"])) == (100, 1)
    done(*run, "--steps", 100, "--out", tmp_path / "whole")
    assert_equal(checkpoint_of(out)["state"], checkpoint_of(tmp_path / "whole")["state"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), ("holds a run: add --resume", "give another --out")),
        (("--resume", "--lr", "5e-4"), ("has lr-g 0.001, got 0.0005: leave the option out",)),
        (("--resume", "--lr-d", "1e-3"), ("has lr-d 0.0005, got 0.001",)),
        (("--resume", "--beta1", "0.5"), ("has beta1 0.0, got 0.5: leave the option out",)),
        (("--resume", "--loss", "minimax"), ("has loss r1, got minimax",)),
        (("--resume", "--seed", "8"), ("has seed 7, got 8",)),
        (("--resume", "--dataset", "mnist"), ("has dataset mnist5k, got mnist",)),
        (("--resume", "--batch-size", "32"), ("has batch-size 16, got 32",)),
        (("--resume", "--bf16"), ("has bf16 False, got True",)),
        (("--resume", "--steps", "59"), ("a total of 60 steps or more expected", "got 59")),
    ],
)
def test_a_run_is_neither_overwritten_nor_gone_on_with_by_other_options(run, options, says):
    refused(run, "train", "conv", "--out", run, *options, says=says)


def test_a_run_does_not_go_on_as_another_model(run):
    refused(run, "train", "mlp", "--out", run, "--resume",
            says=("has model conv, got mlp: write ganlib train conv, or start",))  # fmt: skip


def test_options_that_repeat_the_runs_own_are_no_contradiction_and_a_finished_run_stays(run):
    before = files_of(run)
    said = done("train", "conv", "--out", run, "--resume", "--seed", 7, "--lr-g", 1e-3,
                "--steps", 60, "--device", "cpu")  # fmt: skip
    assert said == f"The run in {run} has its 60 steps; a larger --steps goes on.\n"
    assert files_of(run) == before


def test_a_run_keeps_its_flags_when_it_goes_on_without_naming_them(tmp_path):
    run = ["train", "conv", "--out", tmp_path / "run"]
    done(*run, *SMALL, "--bf16", "--steps", 1)
    done(*run, "--resume", "--steps", 2)
    assert checkpoint_of(tmp_path / "run")["state"]["step"] == 2
    assert json.loads((tmp_path / "run/metrics.json").read_text())["options"]["bf16"] is True


@pytest.mark.parametrize("part", ["discriminator", "opt_g", "scalars", "snapshots", "random"])
def test_a_state_with_a_foreign_part_is_refused_where_it_is_needed(part, run, tmp_path):
    out, contents = tmp_path / "run", checkpoint_of(run)
    contents["state"][part] = "x"
    save_checkpoint(out / "checkpoint.pt", contents)
    refused(tmp_path, "train", "conv", "--out", out, "--resume", "--steps", 70,
            says=("a checkpoint of `ganlib train` expected, a state is none",))  # fmt: skip


def test_an_interrupt_beside_a_damaged_metrics_file_is_told_in_one_line(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_bytes(b'{"steps": \xff')
    interrupt_at(1, monkeypatch)
    ran = ganlib_command("train", "conv", "--out", tmp_path / "run", "--resume", "--steps", 70)
    assert ran.exit_code == 130
    assert ran.stderr.startswith("Interrupted; the last checkpoint is saved. To go on from it:")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_begun_on_a_gpu_goes_on_where_there_is_none_if_that_is_asked_for(tmp_path):
    """With new random numbers, which the record says."""
    out = tmp_path / "run"
    done("train", "maxout", *SMALL, "--device", "cpu", "--steps", 2, "--out", out)
    contents = checkpoint_of(out)
    contents["settings"]["device"] = "cuda"
    for states in (contents["state"]["random"], *contents["random"]):
        states.update(devices=["cuda", "cuda"], rng=states["rng"][:16], own=[states["rng"][:16]])
    save_checkpoint(out / "checkpoint.pt", contents)
    more = ("train", "maxout", "--out", out, "--resume", "--steps", 3)
    refused(tmp_path, *more, says=("device cuda is not available here: take --device cpu",))
    said = done(*more, "--device", "cpu")
    assert "From cuda to cpu: the random numbers start again." in said
    told = json.loads((out / "metrics.json").read_text())
    assert told["moved"] == [
        {"step": 2, "from": "cuda", "to": "cpu", "random_numbers": "restarted"}
    ]
    assert (told["options"]["device"], told["steps"]) == ("cpu", 3)
    done(*more[:-1], 4)  # now a run of this device
    assert len(json.loads((out / "metrics.json").read_text())["moved"]) == 1
