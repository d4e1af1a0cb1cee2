"""Importing ganlib has no effect: each claim is checked in a Python process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import ganlib

ROOT = Path(ganlib.__file__).parents[1]
MODULES = sorted(p.stem for p in Path(ganlib.__file__).parent.glob("[a-z]*.py"))

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

import matplotlib.pyplot, tqdm, PIL.Image, torch.optim.swa_utils, safetensors.torch
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
import ganlib.data, ganlib.trainer, ganlib.models, ganlib.metrics
heavy = {"torchvision", "matplotlib", "mlxtend"} & set(sys.modules)
assert not heavy, heavy
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


def test_the_package_docstring_names_every_module_and_no_other():
    assert ganlib.__doc__ is not None
    assert sorted(re.findall(r"(?m)^([a-z]+)  +\S", ganlib.__doc__)) == MODULES


def test_every_network_and_function_has_a_docstring():
    for name in MODULES:
        module = __import__(f"ganlib.{name}", fromlist=["x"])
        assert module.__doc__, name
        for thing, value in vars(module).items():
            if callable(value) and getattr(value, "__module__", "") == module.__name__:
                assert value.__doc__ or thing.startswith("_"), f"{name}.{thing}"
