"""A whole training step as one compiled graph: losses, gradients and updates of the weights."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config, exc
from torch.nn.modules import module
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ganlib.trainer import Draw, Loss, State, weights_of

# The update that torch.compile can trace; the fused kernels are not among what it can.
TRACEABLE = {"fused": False, "foreach": True, "capturable": True}
MODULE_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
WEIGHT_HOOKS = "_backward_hooks", "_post_accumulate_grad_hooks"
STEP_HOOKS = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"


def compiled_step() -> Callable[..., dict[str, Tensor]]:
    """A step that does what `ganlib.trainer.train_step` does, compiled: `step=compiled_step()`.

    It compiles at its first call, for a minute or so, and from then on serves that state, those
    losses and that n_critic; on cuda the graph is replayed as a CUDA graph. Learning rates may
    change between steps; another change (the shape of a batch, a momentum) compiles anew, thrice
    at most. Equal to the plain step within rounding, but for the random numbers of dropout and of
    losses, which a compiled graph draws in an order of its own.
    ValueError for what it cannot trace or would leave out: hooks, weights without gradient.
    """
    made: list[Any] = []

    def step(
        state: State, draw: Draw, loss_d: Loss, loss_g: Loss, n_critic: int
    ) -> dict[str, Tensor]:
        weights = [*weights_of(state.opt_d), *weights_of(state.opt_g)]
        key = [n_critic, *(id(x) for x in (state, loss_d, loss_g, *weights))]
        if not made:
            modules = [*state.generator.modules(), *state.discriminator.modules()]
            made.extend((key, modules, _graph(state, loss_d, loss_g, weights)))
        known, modules, graph = made
        if key != known:
            raise ValueError(
                "compiled_step() serves one state, its weights, one pair of losses and one "
                f"n_critic, those of its first call (n_critic {known[0]}), got others (n_critic "
                f"{n_critic}): make another by compiled_step()"
            )
        _refuse_hooks(state, modules, weights)
        return graph([draw(state.rng) for _ in range(n_critic + 1)])

    return step


def _refuse_hooks(state: State, modules: list[Any], weights: list[Tensor]) -> None:
    """ValueError for hooks, which the graph would leave out."""
    optimizers = [state.opt_d, state.opt_g]
    of_all = {
        "optimizers without step hooks": _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks,
        "networks without hooks": module._has_any_global_hook(),
    }
    for what, things, names in (
        ("optimizers without step hooks", optimizers, STEP_HOOKS),
        ("networks without hooks", modules, MODULE_HOOKS),
        ("weights without hooks", weights, WEIGHT_HOOKS),
    ):
        if of_all.get(what) or any(
            getattr(thing, name, None) for thing in things for name in names
        ):
            raise ValueError(
                f"{what} expected by compiled_step, which would leave them out: take train_step"
            )


def _graph(
    state: State, loss_d: Loss, loss_g: Loss, weights: list[Tensor]
) -> Callable[[list[Any]], dict[str, Tensor]]:
    """The step as a function of its batches, D's and then G's, to be compiled at its first call."""
    isolated = {"recompile_limit": 4, "isolate_recompiles": True}  # from other compiled steps
    known = inspect.signature(torch.compile).parameters
    if not hasattr(config, "trace_autograd_ops") or not isolated.keys() <= known.keys():
        raise ValueError(f"torch >= 2.14 expected by compiled_step, got {torch.__version__}")
    groups = [*state.opt_d.param_groups, *state.opt_g.param_groups]
    gradients = [torch.zeros_like(weight) for weight in weights]  # the graph writes them here
    rates = [torch.zeros((), device=weights[0].device) for _ in groups]  # floats are compiled in
    mode = "reduce-overhead" if weights[0].device.type == "cuda" else None

    def whole_step(batches: list[Any]) -> tuple[list[str], Tensor]:
        of_d: dict[str, Tensor] = {}
        for batch in batches[:-1]:
            of_d = _update(loss_d, state, batch, state.opt_d)
        of_g = _update(loss_g, state, batches[-1], state.opt_g)
        logs = {"loss/D": of_d.pop("loss"), **of_d, "loss/G": of_g.pop("loss"), **of_g}
        return list(logs), torch.stack([number.float() for number in logs.values()])

    traced_step = torch.compile(whole_step, fullgraph=True, dynamic=False, mode=mode, **isolated)

    def graph(batches: list[Any]) -> dict[str, Tensor]:
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        kept = [dict(group) for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            rate.fill_(group["lr"])
            group.update({k: v for k, v in TRACEABLE.items() if k in group}, lr=rate)
        try:
            with config.patch(trace_autograd_ops=True):
                names, numbers = traced_step(batches)
        except (exc.TorchDynamoException, exc.FailOnRecompileLimitHit) as error:
            raise ValueError(_explanation(error)) from error
        finally:
            for group, old in zip(groups, kept, strict=True):
                group.update(old)
        # A copy: the next replay of a CUDA graph writes its numbers to the same place.
        return dict(zip(names, numbers.clone(), strict=True))

    return graph


def _update(loss_function: Loss, state: State, batch: Any, optimizer: Optimizer) -> dict[str, Any]:
    """What `compute_gradients` and `optimizer.step()` do, as far as it can be traced."""
    loss, logs = loss_function(state.generator, state.discriminator, batch)
    weights = weights_of(optimizer)
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        assert weight.grad is not None
        weight.grad.copy_(gradient)
    with torch.no_grad():  # `step` without the wrappers that interrupt a graph
        inspect.unwrap(type(optimizer).step)(optimizer)
    return {"loss": loss.detach(), **logs}


def _explanation(error: Exception) -> str:
    what = str(error).strip() or type(error).__name__
    if "appears to not have been used in the graph" in what:
        return (
            "a weight that its optimizer moves and its player's loss does not depend on: "
            "compiled_step moves all or none, take train_step"
        )
    if isinstance(error, exc.FailOnRecompileLimitHit):
        return (
            "something changed from step to step and was compiled anew each time: a number that "
            "changes (a noise level) belongs into a buffer, and batches have one shape"
        )
    return f"compiled_step cannot trace this, take train_step: {what.splitlines()[0]}"
