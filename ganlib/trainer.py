"""One training step, the loop around it, its state and its history.

`train_step` and its twin `simultaneous_step` are the only code here that trains a GAN. What is
trained, on what and by which loss is passed in:

draw(rng)                               one fresh batch, in whatever form the losses read it
loss_d(generator, discriminator, batch) D's scalar loss, and detached scalars to record
loss_g(generator, discriminator, batch) the same for G

A player is what its optimizer moves: its gradient is taken with respect to exactly those weights,
whichever network they lie in, and to no others.
"""

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from ganlib.guards import (
    check_average,
    check_players,
    require_at_least,
    require_finite,
    require_some_gradient,
)
from ganlib.history import History

Draw = Callable[[torch.Generator], Any]
Loss = Callable[[Module, Module, Any], tuple[Tensor, dict[str, Tensor]]]
LOSSES = "loss/D", "loss/G"  # their names in the history


def weights_of(optimizer: Optimizer) -> list[Tensor]:
    """The trainable weights that an optimizer moves."""
    return [w for group in optimizer.param_groups for w in group["params"] if w.requires_grad]


def compute_gradients(
    loss_function: Loss, state: "State", batch: Any, optimizer: Optimizer
) -> tuple[Tensor, dict[str, Tensor]]:
    """Evaluate one player's loss on a batch and leave its gradients in the player's weights.

    Weights that this loss does not depend on get no gradient, and the optimizer leaves them as they
    are; ValueError if that is so for all of them.
    """
    optimizer.zero_grad()
    loss, logs = loss_function(state.generator, state.discriminator, batch)
    weights = weights_of(optimizer)
    loss.backward(inputs=weights)
    require_some_gradient(loss_function, weights)
    return loss.detach(), logs


def train_step(
    state: "State", draw: Draw, loss_d: Loss, loss_g: Loss, n_critic: int
) -> dict[str, Tensor]:
    """One round of Algorithm 1: n_critic updates of D, then one of G, each on a fresh batch.

    Source: Goodfellow et al. (2014), Algorithm 1, where n_critic is called k.
    """
    for _ in range(n_critic):
        value_d, logs_d = compute_gradients(loss_d, state, draw(state.rng), state.opt_d)
        state.opt_d.step()
    value_g, logs_g = compute_gradients(loss_g, state, draw(state.rng), state.opt_g)
    state.opt_g.step()
    return {"loss/D": value_d, **logs_d, "loss/G": value_g, **logs_g}


def simultaneous_step(
    state: "State", draw: Draw, loss_d: Loss, loss_g: Loss, n_critic: int
) -> dict[str, Tensor]:
    """As `train_step`, but G's gradient is taken before D's last update is made.

    Source: the code published with Goodfellow et al. (2014), with n_critic = 1.
    """
    for i in range(n_critic):
        value_d, logs_d = compute_gradients(loss_d, state, draw(state.rng), state.opt_d)
        if i < n_critic - 1:
            state.opt_d.step()
    value_g, logs_g = compute_gradients(loss_g, state, draw(state.rng), state.opt_g)
    state.opt_d.step()
    state.opt_g.step()
    return {"loss/D": value_d, **logs_d, "loss/G": value_g, **logs_g}


@dataclass
class State:
    """All that training changes. `rng` draws the batches; `step` counts finished steps.

    A player may be several networks, as one module that holds them. `average`, if wanted, is a
    running average of G's weights (`running_average`). On a CPU the weights of convolutions are
    laid out with the channels last, which is faster there (book/results/speed.json).
    """

    generator: Module
    discriminator: Module
    opt_g: Optimizer
    opt_d: Optimizer
    rng: torch.Generator
    step: int = 0
    history: History = field(default_factory=History)
    average: AveragedModel | None = None

    def __post_init__(self) -> None:
        networks = [self.generator, self.discriminator, *([self.average] if self.average else [])]
        for weight in (w for network in networks for w in network.parameters()):
            if weight.ndim == 4 and weight.device.type == "cpu":
                weight.data = weight.data.to(memory_format=torch.channels_last)

    @property
    def sampling_generator(self) -> Module:
        """The generator to draw samples from: the running average if there is one, else G."""
        return self.generator if self.average is None else self.average.module

    def gradient_norms(self) -> dict[str, Tensor]:
        """The Euclidean norms of both players' last gradients."""
        players = {"grad/D": self.opt_d, "grad/G": self.opt_g}
        gradients = {n: [w.grad for w in weights_of(o) if w.grad is not None]
                     for n, o in players.items()}  # fmt: skip
        return {name: get_total_norm(tensors) for name, tensors in gradients.items()}


def running_average(generator: Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights: average <- decay * average + (1 - decay) * G.

    The first update copies G, whose untrained weights would otherwise stay in the average.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"a decay in [0, 1) expected, got {decay}")
    return AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(decay))


def generate(network: Module, *inputs: Tensor, batch_size: int = 1000) -> Tensor:
    """network(*inputs) without gradients and in evaluation mode (batch norm by its running means).

    The inputs (n, ...), latents for example and labels, are passed on in parts of `batch_size`.
    A NaN in them, or in the network, comes out as NaN. ValueError for inputs of several lengths.
    """
    require_at_least(1, batch_size=batch_size)
    if not inputs or len({len(x) for x in inputs}) > 1:
        raise ValueError(f"inputs of one length expected, got lengths {[len(x) for x in inputs]}")
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            parts = zip(*(x.split(batch_size) for x in inputs), strict=True)
            return torch.cat([network(*part) for part in parts])
    finally:
        for module, was_training in modes:
            module.training = was_training


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
    snapshot: Callable[[State], Any] | None = None,
    snapshot_at: Collection[int] | None = None,
    checkpoint: Callable[[State], None] | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
) -> History:
    """Train until `state.step` is `until` steps; a finished state is left as it is.

    `until` is absolute, so that an interrupted call goes on when it is made again.
    `before_step(state)` sets what depends on the step (a learning rate, a noise level) from
    `state.step`. `snapshot(state)` is called after the steps in `snapshot_at` (0 is before the
    first; default: 0 and every `log_every`-th). `checkpoint(state)` is called before the first
    step, after every `checkpoint_every`-th and after the last, with nothing pending
    (`ganlib.runs.checkpoint`). `progress` shows a bar.
    Numbers are read from the device every `log_every` steps. A loss, gradient or weight that is not
    finite then stops training with FloatingPointError, before a checkpoint could keep it.
    ValueError for optimizers or an average that do not fit the networks (`ganlib.guards`).
    """
    require_at_least(0, until=until)
    require_at_least(1, n_critic=n_critic, log_every=log_every, checkpoint_every=checkpoint_every)
    _check_fit(state)
    history, pending = state.history, []

    def take_snapshot() -> None:
        wanted = state.step % log_every == 0 if snapshot_at is None else state.step in snapshot_at
        if snapshot is not None and wanted and state.step not in history.snapshots:
            history.snapshots[state.step] = snapshot(state)

    take_snapshot()
    if state.step >= until:
        return history
    if checkpoint is not None and state.step == 0:
        checkpoint(state)
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
            last = state.step == until
            keep = checkpoint is not None and (last or state.step % checkpoint_every == 0)
            log = last or state.step % log_every == 0
            if keep or log:
                _look(state, pending, log)
                bar.set_postfix(history.last(*LOSSES), refresh=False)
                bar.update(state.step - bar.n)
            take_snapshot()
            if checkpoint is not None and keep:
                checkpoint(state)
    finally:
        history.read_back(pending)
        bar.close()
    return history


def _check_fit(state: State) -> None:
    by_g, by_d = weights_of(state.opt_g), weights_of(state.opt_d)
    check_players(state.generator, state.discriminator, by_g, by_d)
    check_average(state.generator, state.average)


def _look(state: State, pending: list[tuple[int, dict[str, Tensor]]], log: bool) -> None:
    """Read back what is pending; refuse what is not finite, or no longer fits; log the norms."""
    state.history.read_back(pending)
    norms = {name: norm.tolist() for name, norm in state.gradient_norms().items()}
    moved = {"weights/D": weights_of(state.opt_d), "weights/G": weights_of(state.opt_g)}
    sizes = {name: get_total_norm(weights).item() for name, weights in moved.items()}
    for name, number in {**norms, **sizes}.items():
        require_finite(f"the norm of {name}", number, state.step)
    if log:
        state.history.record(state.step, norms)
    _check_fit(state)
