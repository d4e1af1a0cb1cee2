"""Several seeds of one small GAN trained at once, each as if it were alone.

A weight of all seeds is one tensor (seeds, ...). A loss is applied to each seed by `torch.vmap`,
and the sum over seeds is what is minimized, so that no seed's gradient sees another. It pays where
the networks are so small that most of a lone step is not arithmetic.
"""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state
from torch.nn import Module, Parameter
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_map

from ganlib.guards import check_players, difference
from ganlib.trainer import Draw, Loss, State, train, train_step, weights_of


class Stacked(Module):
    """Networks of one make: each weight is one tensor (seeds, ...), of which they keep rows."""

    def __init__(self, networks: Sequence[Module]):
        super().__init__()
        tensors, buffers = stack_module_state(list(networks))
        if buffers:
            raise ValueError(f"networks without buffers expected, got {', '.join(buffers)}")
        self.names = list(tensors)
        self.one = [deepcopy(networks[0]).to("meta")]  # in a list, so that it is no part of this
        self.tensors = torch.nn.ParameterList(
            Parameter(tensor.detach(), tensor.requires_grad) for tensor in tensors.values()
        )
        self.share(networks)

    def share(self, networks: Sequence[Module]) -> None:
        """Let each network's weights be its rows, so that they are always those of today."""
        for name, tensor in zip(self.names, self.tensors, strict=True):
            for network, row in zip(networks, tensor.data, strict=True):
                network.get_parameter(name).data = row

    def named(self, prefix: str = "") -> dict[str, Parameter]:
        """The tensors (seeds, ...) under the names that the weights have in one network."""
        return {prefix + name: w for name, w in zip(self.names, self.tensors, strict=True)}


class _Lone(Module):
    """A loss as a module of both networks, so that all their weights can be given to it."""

    loss: Loss

    def __init__(self, loss: Loss, generator: Module, discriminator: Module):
        super().__init__()
        self.loss, self.generator, self.discriminator = loss, generator, discriminator

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(self.generator, self.discriminator, batch)


class _Together(State):
    def gradient_norms(self) -> dict[str, Tensor]:
        """As of one seed, but (seeds,)."""
        norms = {}
        for name, optimizer in (("grad/D", self.opt_d), ("grad/G", self.opt_g)):
            gradients = [w.grad.flatten(1) for w in weights_of(optimizer) if w.grad is not None]
            norms[name] = torch.cat(gradients, 1).norm(dim=1)
        return norms


def train_seeds(
    states: Sequence[State],
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
    progress: bool = True,
) -> list[State]:
    """Train each of the states, which differ in weights and `rng` only, until `until` steps.

    Equal to `train` on one after the other within rounding (but for the random numbers of dropout);
    each gets its own weights, running average and history. The arguments are those of `train`:
    `draw` is called with each state's `rng`, `snapshot` with each state, and `before_step` with one
    state that holds both optimizers of all. The states' own optimizers do not move, so the states
    cannot be trained on.
    ValueError for states that have begun or differ in more, networks with buffers, optimizers with
    step hooks or several groups of weights, and losses that torch cannot apply to all at once: one
    that takes derivatives itself (a gradient penalty) needs `torch.func.grad` for that.
    """
    if not states or any(state.step for state in states):
        raise ValueError(f"states at step 0 expected, got steps {[s.step for s in states]}")
    if len({state.average is None for state in states}) > 1:
        raise ValueError("a running average of each of the states expected, or of none")
    group = _together(states)

    def draw_all(_: torch.Generator) -> Any:
        batches = [draw(state.rng) for state in states]
        return tree_map(lambda *parts: torch.stack(parts), *batches)

    def snapshot_of_each(group: State) -> None:
        for state in states:
            state.step = group.step
            state.history.snapshots[group.step] = snapshot(state) if snapshot else None

    try:
        train(
            group, draw_all, _of_each(loss_d, "loss/D"), _of_each(loss_g, "loss/G"), until=until,
            n_critic=n_critic, log_every=log_every, step=step, before_step=before_step,
            snapshot=snapshot_of_each if snapshot else None, snapshot_at=snapshot_at,
            progress=progress,
        )  # fmt: skip
    finally:
        for i, state in enumerate(states):
            state.step = group.step
            for name, rows in group.history.scalars.items():
                state.history.scalars[name] = [(at, numbers[i]) for at, numbers in rows]
            if state.average is not None and group.average is not None:
                state.average.n_averaged.copy_(group.average.n_averaged)
    return list(states)


def _of_each(loss: Loss, name: str) -> Loss:
    """The sum over seeds of a loss, and the loss of each as what `name` records."""
    loss_name = getattr(loss, "__name__", name)

    def of_all(g: Any, d: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        lone = _Lone(loss, g.one[0], d.one[0])

        def of_one(weights: dict[str, Tensor], batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            return functional_call(lone, weights, (batch,))

        try:
            each = torch.vmap(of_one, randomness="different")
            values, logs = each(g.named("generator.") | d.named("discriminator."), batch)
        except RuntimeError as error:
            raise ValueError(
                f"{loss_name} cannot be applied to several seeds at once: {error}. Inside it take "
                "derivatives by torch.func.grad and choose by torch.where; or call `train` on one "
                "state after the other"
            ) from error
        return values.sum(), {name: values.detach(), **logs}

    of_all.__name__ = loss_name
    return of_all


def _together(states: Sequence[State]) -> State:
    """One state with the weights of all."""
    for state in states:
        by_g, by_d = weights_of(state.opt_g), weights_of(state.opt_d)
        check_players(state.generator, state.discriminator, by_g, by_d)
        for network, first in (
            (state.generator, states[0].generator),
            (state.discriminator, states[0].discriminator),
        ):
            if found := difference(network, first):
                raise ValueError(
                    f"networks of one make expected, but {found[0]} is {found[1]} in one state "
                    f"and {found[2]} in the first"
                )
    generator = Stacked([state.generator for state in states])
    discriminator = Stacked([state.discriminator for state in states])
    stacked_as: dict[Tensor, Parameter] = {
        weight: stacked
        for state in states
        for network, all_of_it in (
            (state.generator, generator.named()), (state.discriminator, discriminator.named())
        )
        for (_, weight), stacked in zip(network.named_parameters(), all_of_it.values(), strict=True)
    }  # fmt: skip
    opt_g = _optimizer([state.opt_g for state in states], stacked_as)
    opt_d = _optimizer([state.opt_d for state in states], stacked_as)
    group = _Together(generator, discriminator, opt_g, opt_d, states[0].rng)
    averages = [state.average for state in states if state.average is not None]
    if averages:
        group.average = AveragedModel(generator, multi_avg_fn=averages[0].multi_avg_fn)
        group.average.module.share([average.module for average in averages])  # pyright: ignore
    return group


def _optimizer(optimizers: Sequence[Optimizer], stacked_as: dict[Tensor, Parameter]) -> Optimizer:
    """One optimizer of their kind and options, which moves for all what each moves for one."""
    if any(o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks for o in optimizers):
        raise ValueError("optimizers without step hooks expected: they would see all seeds as one")
    if n := max(len(o.param_groups) for o in optimizers) - 1:
        raise ValueError(f"one group of weights expected, got {n + 1}")
    weights = [[stacked_as[w] for w in weights_of(o)] for o in optimizers]
    options = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in optimizers]
    for i, (some, other) in enumerate(zip(weights, options, strict=True)):
        if list(map(id, some)) != list(map(id, weights[0])) or other != options[0]:
            raise ValueError(
                f"optimizers of one make expected, that of state {i} has other weights or options "
                f"than that of state 0: {other}, {options[0]}"
            )
    make: Any = type(optimizers[0])
    together = make(weights[0])
    together.defaults.update(optimizers[0].defaults)
    together.param_groups[0].update(options[0])
    return together
