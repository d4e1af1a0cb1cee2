"""A whole training step as one compiled graph: losses, gradients and updates of the weights."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from ganlib.trainer import Draw, Loss, State

# The update that torch.compile can trace; its fused kernels are not among what it can.
TRACEABLE = {"fused": False, "foreach": True, "capturable": True}


def compiled_step(
    state: "State", loss_d: "Loss", loss_g: "Loss", n_critic: int
) -> Callable[..., dict[str, Tensor]]:
    """A step that does what `ganlib.trainer.train_step` does, compiled by torch.compile.

    The first call compiles, for a minute or so; on cuda the graph is then replayed as a CUDA graph.
    Learning rates may change between steps; any other change (the shape of a batch, a momentum)
    compiles anew. Equal to the plain step within rounding, but for the random numbers of dropout
    and the like, which a compiled graph draws in its own order.
    """
    config = torch._dynamo.config
    if not hasattr(config, "trace_autograd_ops"):
        raise ValueError(f"torch >= 2.11 expected by compile, got {torch.__version__}")
    groups = [group for opt in (state.opt_d, state.opt_g) for group in opt.param_groups]
    if any(opt._optimizer_step_pre_hooks for opt in (state.opt_d, state.opt_g)):
        raise ValueError("optimizers without step hooks expected by compile (several processes?)")
    for p in (p for group in groups for p in group["params"]):
        p.grad = torch.zeros_like(p)  # the graph writes its gradients here
    device = groups[0]["params"][0].device
    rates = [torch.zeros((), device=device) for _ in groups]  # a float would be compiled in

    def update(loss_function: "Loss", optimizer: Optimizer, batch: Any) -> dict[str, Tensor]:
        loss, logs = loss_function(state.generator, state.discriminator, batch)
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        for p, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p.grad.copy_(gradient)
        with torch.no_grad():  # what `step` does, without the wrappers that interrupt a graph
            inspect.unwrap(type(optimizer).step)(optimizer)
        return {"loss": loss.detach(), **logs}

    def whole_step(batches: list[Any]) -> tuple[list[str], Tensor]:
        for batch in batches[:-1]:
            of_d = update(loss_d, state.opt_d, batch)
        of_g = update(loss_g, state.opt_g, batches[-1])
        logs = {"loss/D": of_d.pop("loss"), **of_d, "loss/G": of_g.pop("loss"), **of_g}
        return list(logs), torch.stack([number.float() for number in logs.values()])

    mode = "reduce-overhead" if device.type == "cuda" else None
    graph = torch.compile(whole_step, fullgraph=True, dynamic=False, mode=mode)
    traced = config.patch(trace_autograd_ops=True)

    def step(state: "State", draw: "Draw", *_: Any) -> dict[str, Tensor]:
        batches = [draw(state.rng) for _ in range(n_critic + 1)]
        kept = [dict(group) for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            rate.fill_(group["lr"])
            group.update({k: v for k, v in TRACEABLE.items() if k in group}, lr=rate)
        try:
            with traced:
                names, numbers = graph(batches)
        finally:
            for group, old in zip(groups, kept, strict=True):
                group.update(old)
        # A copy: the next replay of a CUDA graph writes its numbers to the same place.
        return dict(zip(names, numbers.clone(), strict=True))

    return step
