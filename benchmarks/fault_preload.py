"""Imported once, by the process from which faults.py forks all others: what takes seconds."""

import fault_data  # noqa: F401
import torch

import ganlib.runs.training  # noqa: F401
from ganlib.data import load_images

torch.set_num_threads(1)  # threads of its own would not survive a fork
load_images("mnist5k")
