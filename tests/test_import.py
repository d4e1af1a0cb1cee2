"""Importing ganlib has no effect: each claim is checked in a Python process of its own."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ganlib

ROOT = Path(ganlib.__file__).parents[1]
PLACES = [p.relative_to(ROOT) for p in Path(ganlib.__file__).parent.rglob("[a-z]*.py")]
MODULES = sorted(".".join(p.with_suffix("").parts[1:]) for p in PLACES)  # losses, runs.cli, ...

EFFECTS = """
import os, random, threading, warnings
import numpy as np
import torch
import matplotlib

def state():
    return (
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
        torch.initial_seed(), torch.get_num_threads(), torch.get_num_interop_threads(),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        np.geterr(), dict(matplotlib.rcParams), dict(os.environ), list(warnings.filters),
        threading.active_count(), os.getcwd(),
    )

import matplotlib.pyplot, tqdm, PIL.Image, torch.optim.swa_utils, safetensors.torch, torch._dynamo
matplotlib.pyplot.figure, matplotlib.rcParams["backend"]
before = state()
import ganlib, {modules}
after = state()
assert before == after, [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
"""

LIGHT = """
import sys
import ganlib.theory, ganlib.losses
heavy = {"torchvision", "matplotlib", "mlxtend", "ipywidgets", "PIL", "IPython"} & set(sys.modules)
assert not heavy, heavy
import ganlib.data, ganlib.trainer, ganlib.models, ganlib.metrics, ganlib.games, ganlib.seeds
heavy = {"torchvision", "matplotlib", "mlxtend"} & set(sys.modules)
assert not heavy, heavy
assert "ganlib.runs" not in sys.modules
"""


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    places = {"HOME": str(folder), "MPLCONFIGDIR": str(folder.parent), "PYTHONPATH": str(ROOT)}
    environment = os.environ | places | {"MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_importing_ganlib_changes_no_global_state_and_prints_and_writes_nothing(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    modules = ", ".join(f"ganlib.{name}" for name in MODULES)
    ran = run_python(EFFECTS.format(modules=modules), folder)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert list(folder.iterdir()) == []


def test_theory_and_losses_pull_in_neither_torchvision_nor_matplotlib(tmp_path):
    ran = run_python(LIGHT, tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize("package", ["ganlib", "ganlib.runs"])
def test_a_packages_docstring_names_every_module_in_it_and_no_other(package):
    told = importlib.import_module(package).__doc__ or ""
    inside = [f"ganlib.{name}".removeprefix(f"{package}.") for name in MODULES]
    expected = [name for name in inside if "." not in name]
    assert sorted(re.findall(r"(?m)^([a-z]+)  +\S", told)) == expected
    assert len(expected) > 8


def test_every_network_and_function_has_a_docstring():
    for name in MODULES:
        module = importlib.import_module(f"ganlib.{name}")
        assert module.__doc__, name
        for thing, value in vars(module).items():
            if callable(value) and getattr(value, "__module__", "") == module.__name__:
                assert value.__doc__ or thing.startswith("_"), f"{name}.{thing}"
