"""The processes that train one GAN together, and the device of each."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from ganlib.runs.settings import processes
from ganlib.trainer import State, weights_of


def rank() -> int:
    """The number of this process among those that train together, 0 for the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def join_processes() -> int:
    """Join the other processes that torchrun started, if any; how many they are."""
    _, n = processes()
    if n > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        # After an error, too: gloo's threads would abort the process.
        atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    return n


@contextmanager
def talking() -> Iterator[None]:
    """ConnectionResetError where another process has ended that this one exchanges data with."""
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's
        reason = " ".join(str(error).split())
        raise ConnectionResetError(
            f"another of the {dist.get_world_size()} processes has ended, and so process {rank()} "
            f"does: go on with --resume once that one's error is mended ({reason:.200})"
        ) from error


def leave_processes() -> None:
    """Wait for the other processes, if any, and part."""
    if dist.is_initialized():
        with talking():
            dist.all_reduce(torch.zeros(()))
        dist.destroy_process_group()


def from_rank_0(function: Callable[[], Any]) -> Any:
    """What `function()` returns, or raises for the user, in process 0, in all processes."""
    result, error = None, None
    if rank() == 0:
        try:
            result = function()
        except (ValueError, OSError) as raised:
            error = raised
    if dist.is_initialized():
        box = [result, error]
        with talking():
            dist.broadcast_object_list(box, src=0)
        result, error = box
    if error is not None:
        raise error
    return result


def from_all_ranks(thing: Any) -> list[Any]:
    """The `thing` of each process, in the order of their numbers, in all processes."""
    if not dist.is_initialized():
        return [thing]
    box: list[Any] = [None] * dist.get_world_size()
    with talking():
        dist.all_gather_object(box, thing)
    return box


def pick_device(name: str, n_processes: int = 1) -> torch.device:
    """The device of this process; "auto" is cuda where there is one, else mps, else cpu."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    kind = next(kind for kind in there if there[kind]) if name == "auto" else name
    if not there.get(kind):
        raise ValueError(
            f"device {kind} is not available here: take --device cpu or auto (a run that was begun "
            "on another device then goes on with new random numbers)"
        )
    if n_processes == 1:
        return torch.device(kind)
    if kind == "mps":
        raise ValueError("device mps works in one process only: take cpu, or no torchrun")
    if kind == "cpu":
        return torch.device(kind)
    local, n_local = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if n_local > torch.cuda.device_count():
        raise ValueError(
            f"as many GPUs as processes expected, got {torch.cuda.device_count()} GPUs and "
            f"{n_local} processes: lower --nproc-per-node"
        )
    torch.cuda.set_device(local)
    return torch.device(kind, local)


def average_gradients(state: State) -> None:
    """From now on each optimizer step takes the mean gradient over all processes.

    To be called once in each process of a `torch.distributed` group, with a `state` whose `draw`
    gives that process its share of the batch: for losses that are means over samples the mean of
    the processes' gradients is the gradient of the whole batch. The networks become rank 0's and
    stay equal; batch norm takes its means and variances, and the history its losses, from each
    process's own share.
    """

    def average(optimizer: Optimizer, *_: Any) -> None:
        gradients = [weight.grad for weight in weights_of(optimizer) if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with talking():
            dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    for network in (state.generator, state.discriminator):
        for tensor in network.state_dict().values():
            with talking():
                dist.broadcast(tensor, src=0)
    for optimizer in (state.opt_g, state.opt_d):
        optimizer.register_step_pre_hook(average)
