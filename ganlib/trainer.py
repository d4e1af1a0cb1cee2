"""One training step, the loop around it, its state and its history.

`train_step` and its twin `simultaneous_step` are the only code here that trains a GAN. What is
trained, on what and by which loss is passed in:

draw(rng)                               one fresh batch, in whatever form the losses read it
loss_d(generator, discriminator, batch) D's scalar loss, and detached scalars to record
loss_g(generator, discriminator, batch) the same for G
"""

import io
import os
import pickle
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from ganlib.compiled import compiled_step

Draw = Callable[[torch.Generator], Any]
Loss = Callable[[Module, Module, Any], tuple[Tensor, dict[str, Tensor]]]


class History:
    """What training recorded: named scalars by step, and snapshots.

    `series("loss/D")` is a pair of arrays, steps and values. Names: "loss/D", "loss/G" and what
    the losses log, at every step; "grad/D", "grad/G" (Euclidean norms over all weights) at every
    `log_every`-th step and at the last. `snapshots[step]` is what `snapshot(generator)` returned
    after that step.
    """

    def __init__(self) -> None:
        self.scalars: dict[str, list[tuple[int, float]]] = {}
        self.snapshots: dict[int, Any] = {}

    def record(self, step: int, values: dict[str, float]) -> None:
        for name, number in values.items():
            self.scalars.setdefault(name, []).append((step, number))

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self.scalars:
            raise ValueError(f"one of {sorted(self.scalars)} expected, got {name!r}")
        rows = self.scalars[name]
        return np.array([step for step, _ in rows]), np.array([value for _, value in rows])


@dataclass
class State:
    """All that training changes. `rng` draws the batches; `step` counts finished steps.

    `average`, if wanted, is a running average of G's weights (`running_average`).
    """

    generator: Module
    discriminator: Module
    opt_g: Optimizer
    opt_d: Optimizer
    rng: torch.Generator
    step: int = 0
    history: History = field(default_factory=History)
    average: AveragedModel | None = None

    @property
    def sampling_generator(self) -> Module:
        """The generator to draw samples from: the running average if there is one, else G."""
        return self.generator if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, as plain containers of tensors and numbers."""
        parts = {name: getattr(self, name).state_dict() for name in self._parts()}
        scalars = self.history.scalars.items()
        return parts | {
            "step": self.step,
            "scalars": {name: torch.tensor(rows, dtype=torch.float64) for name, rows in scalars},
            "snapshots": self.history.snapshots,
            "random": self.random_states(),
        }

    def load_state_dict(self, contents: dict[str, Any]) -> None:
        """Go back to what `state_dict()` returned, into networks and optimizers of one make.

        ValueError for contents that do not fit; the state is then to be thrown away.
        """
        expected = {*self._parts(), "step", "scalars", "snapshots", "random"}
        if contents.keys() != expected:
            raise ValueError(
                f"a training state with {sorted(expected)} expected, got {sorted(contents)}"
            )
        self.set_random_states(contents["random"])
        try:
            for name in self._parts():
                getattr(self, name).load_state_dict(contents[name])
        except Exception as error:  # torch has many
            raise ValueError(f"the saved {name} does not fit this state") from error
        self.step = contents["step"]
        scalars = {name: rows.tolist() for name, rows in contents["scalars"].items()}
        self.history.scalars = {n: [(int(s), v) for s, v in rows] for n, rows in scalars.items()}
        self.history.snapshots = dict(contents["snapshots"])

    def random_states(self) -> dict[str, Any]:
        """The states of `rng` and of torch's own random numbers (dropout) in this process.

        Not those of Python's `random` and of NumPy, from which nothing in ganlib draws.
        """
        device = next(self.generator.parameters()).device
        own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        own += [torch.mps.get_rng_state()] if device.type == "mps" else []
        rng, cpu = self.rng.get_state(), torch.get_rng_state()
        return {"devices": [self.rng.device.type, device.type], "rng": rng, "cpu": cpu, "own": own}

    def set_random_states(self, states: dict[str, Any]) -> None:
        """Go back to what `random_states()` returned; random numbers differ between devices."""
        device = next(self.generator.parameters()).device
        devices = [self.rng.device.type, device.type]
        if states["devices"] != devices:
            raise ValueError(
                f"random states of rng and networks on {devices} expected, got {states['devices']}"
            )
        self.rng.set_state(states["rng"].cpu())
        torch.set_rng_state(states["cpu"].cpu())
        for own in states["own"]:
            if device.type == "cuda":
                torch.cuda.set_rng_state(own.cpu(), device)
            else:
                torch.mps.set_rng_state(own.cpu())

    def _parts(self) -> list[str]:
        parts = ["generator", "discriminator", "opt_g", "opt_d"]
        return parts if self.average is None else [*parts, "average"]


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends without an error.

    It is written beside its place, flushed to the disk and then renamed, so that a kill at any
    moment leaves the previous file, whole. OSError names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"{path} cannot be written ({why}): it stays as it was") from error
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(path: str | Path, contents: dict[str, Any]) -> None:
    """Write containers of tensors and numbers, such as `state.state_dict()`, to a file.

    The file is complete at every moment, and can be loaded: ValueError for other contents (an
    array of NumPy, a figure), which leaves the previous file.
    """
    buffer = io.BytesIO()  # torch.save hides the OSError of a full disk
    torch.save(contents, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"tensors, numbers, strings and containers of them expected: {error}"
        ) from error
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `save_checkpoint` wrote; no code in the file is run.

    OSError (FileNotFoundError, ...) for a file that cannot be read, ValueError for a foreign one.
    """
    with open(path, "rb") as file:
        try:
            contents = torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # whatever foreign bytes do to an unpickler
            raise ValueError(f"a checkpoint of ganlib expected, {path} is none") from error
    if not isinstance(contents, dict):
        raise ValueError(f"a checkpoint of ganlib expected, {path} holds {type(contents).__name__}")
    return contents


def running_average(generator: Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights: average <- decay * average + (1 - decay) * G.

    The first update copies G, whose untrained weights would otherwise stay in the average.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"a decay in [0, 1) expected, got {decay}")
    return AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(decay))


def average_gradients(state: State) -> None:
    """From now on each optimizer step takes the mean gradient over all processes.

    To be called once in each process of a `torch.distributed` group, with a `state` whose `draw`
    gives that process its share of the batch: for losses that are means over samples the mean of
    the processes' gradients is the gradient of the whole batch. The networks become rank 0's and
    stay equal; batch norm takes its means and variances, and the history its losses, from each
    process's own share.
    """

    def average(optimizer: Optimizer, *_: Any) -> None:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in weights if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    for network, optimizer in ((state.generator, state.opt_g), (state.discriminator, state.opt_d)):
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)
        optimizer.register_step_pre_hook(average)


def generate(generator: Module, z: Tensor, batch_size: int = 1000) -> Tensor:
    """G(z) without gradients and in evaluation mode (batch norm by its running statistics)."""
    was_training = generator.training
    generator.eval()
    try:
        with torch.no_grad():
            return torch.cat([generator(part) for part in z.split(batch_size)])
    finally:
        generator.train(was_training)


def compute_gradients(
    loss_function: Loss, state: State, batch: Any, optimizer: Optimizer
) -> tuple[Tensor, dict[str, Tensor]]:
    """Evaluate one player's loss on a batch and leave its gradients in the player's weights."""
    optimizer.zero_grad()
    loss, logs = loss_function(state.generator, state.discriminator, batch)
    loss.backward()
    return loss.detach(), logs


def train_step(
    state: State, draw: Draw, loss_d: Loss, loss_g: Loss, n_critic: int
) -> dict[str, Tensor]:
    """One round of Algorithm 1: n_critic updates of D, then one of G, each on a fresh batch.

    Source: Goodfellow et al. (2014), Algorithm 1, where n_critic is called k.
    """
    for _ in range(n_critic):
        value_d, logs_d = compute_gradients(loss_d, state, draw(state.rng), state.opt_d)
        state.opt_d.step()
    with frozen(state.discriminator):
        value_g, logs_g = compute_gradients(loss_g, state, draw(state.rng), state.opt_g)
    state.opt_g.step()
    return {"loss/D": value_d, **logs_d, "loss/G": value_g, **logs_g}


def simultaneous_step(
    state: State, draw: Draw, loss_d: Loss, loss_g: Loss, n_critic: int
) -> dict[str, Tensor]:
    """As `train_step`, but G's gradient is taken before D's last update is made.

    Source: the code published with Goodfellow et al. (2014), with n_critic = 1.
    """
    for i in range(n_critic):
        value_d, logs_d = compute_gradients(loss_d, state, draw(state.rng), state.opt_d)
        if i < n_critic - 1:
            state.opt_d.step()
    with frozen(state.discriminator):
        value_g, logs_g = compute_gradients(loss_g, state, draw(state.rng), state.opt_g)
    state.opt_d.step()
    state.opt_g.step()
    return {"loss/D": value_d, **logs_d, "loss/G": value_g, **logs_g}


@contextmanager
def frozen(network: Module) -> Iterator[None]:
    """No gradients for this network's weights inside the block; gradients still pass through."""
    weights = [p for p in network.parameters() if p.requires_grad]
    for p in weights:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)


def train(
    state: State,
    draw: Draw,
    loss_d: Loss,
    loss_g: Loss,
    *,
    until: int,
    n_critic: int = 1,
    log_every: int = 50,
    step: Callable[..., dict[str, Tensor]] = train_step,
    before_step: Callable[[State], None] | None = None,
    snapshot: Callable[[Module], Any] | None = None,
    snapshot_at: Collection[int] | None = None,
    checkpoint: Callable[[State], None] | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
    compile: bool = False,
) -> History:
    """Train until `state.step` is `until` steps; a finished state is left as it is.

    `until` is absolute, so that an interrupted call goes on when it is made again.
    `before_step(state)` sets what depends on the step (a learning rate, a noise level) from
    `state.step`. `snapshot(generator)` is called with the running average of G if there is one,
    after the steps in `snapshot_at` (0 is before the first; default: every logged step).
    `checkpoint(state)` is called before the first step, after every `checkpoint_every`-th and after
    the last, with nothing pending; `save_checkpoint(path, state.state_dict())` makes it durable.
    `progress` shows a bar. `compile` makes `train_step` one compiled graph (`compiled_step`).
    Numbers are read from the device every `log_every` steps; a loss that is not finite then
    stops training with FloatingPointError, which names it and its step.
    """
    if until < 0 or min(n_critic, log_every, checkpoint_every) < 1:
        raise ValueError(
            "until >= 0, n_critic >= 1, log_every >= 1 and checkpoint_every >= 1 expected, got "
            f"until={until}, n_critic={n_critic}, log_every={log_every}, "
            f"checkpoint_every={checkpoint_every}"
        )
    if compile and step is not train_step:
        raise ValueError(f"compile=True with step=train_step expected, got step={step!r}")
    history, pending = state.history, []

    def take_snapshot() -> None:
        wanted = state.step % log_every == 0 if snapshot_at is None else state.step in snapshot_at
        if snapshot is not None and wanted and state.step not in history.snapshots:
            history.snapshots[state.step] = snapshot(state.sampling_generator)

    take_snapshot()
    if state.step >= until:
        return history
    if checkpoint is not None and state.step == 0:
        checkpoint(state)
    if compile:
        step = compiled_step(state, loss_d, loss_g, n_critic)
    hide, first = not progress, state.step
    bar = tqdm(total=until, initial=first, unit="step", file=sys.stdout, ncols=76, disable=hide)
    try:
        while state.step < until:
            if before_step is not None:
                before_step(state)
            pending.append((state.step + 1, step(state, draw, loss_d, loss_g, n_critic)))
            state.step += 1
            if state.average is not None:
                state.average.update_parameters(state.generator)
            if state.step % log_every == 0 or state.step == until:
                _read_back(history, pending)
                history.record(state.step, _gradient_norms(state))
                losses = {name: history.scalars[name][-1][1] for name in ("loss/D", "loss/G")}
                bar.set_postfix(losses, refresh=False)
                bar.update(state.step - bar.n)
            take_snapshot()
            if checkpoint is not None and (
                state.step % checkpoint_every == 0 or state.step == until
            ):
                _read_back(history, pending)
                checkpoint(state)
    finally:
        _read_back(history, pending)
        bar.close()
    return history


def _read_back(history: History, pending: list[tuple[int, dict[str, Tensor]]]) -> None:
    """Move pending scalars into the history by one transfer, and empty `pending`."""
    if not pending:
        return
    numbers = torch.stack([v.float() for _, logs in pending for v in logs.values()]).tolist()
    rows, position = list(pending), 0
    pending.clear()
    for step, logs in rows:
        values = dict(zip(logs, numbers[position : position + len(logs)], strict=True))
        position += len(logs)
        for name, number in values.items():
            if not np.isfinite(number):
                raise FloatingPointError(
                    f"{name} is {number} at step {step}: training stopped. Common causes: a "
                    "learning rate that is too high, or a logarithm of a sigmoid in the loss"
                )
        history.record(step, values)


def _gradient_norms(state: State) -> dict[str, float]:
    norms = {}
    for name, network in (("grad/D", state.discriminator), ("grad/G", state.generator)):
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norms[name] = get_total_norm(gradients).item()
    return norms
