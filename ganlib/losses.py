"""The players' losses as functions of logits: scalars to minimize, in nats.

A logit l is the discriminator's output before the sigmoid, D = sigma(l); logits have shape (n,).
With softplus(t) = log(1 + e^t), -log sigma(l) = softplus(-l) and -log(1 - sigma(l)) = softplus(l).
In this form the values stay finite and the derivatives are right at any finite logit, where
log(sigmoid(l)) in floating point gives -infinity or a derivative of 0.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, Module, SyncBatchNorm
from torch.nn.functional import softplus

BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)


def real_loss(real_logits: Tensor) -> Tensor:
    """Mean of -log D(x) over real data: log 2 at equilibrium, 0 as the logits grow."""
    _check_logits(real_logits)
    return softplus(-real_logits).mean()


def fake_loss(fake_logits: Tensor) -> Tensor:
    """Mean of -log(1 - D(G(z))): log 2 at equilibrium, 0 as the logits fall."""
    _check_logits(fake_logits)
    return softplus(fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """L_D = -V(D, G) = real loss + fake loss: 2 log 2 at equilibrium.

    Source: Goodfellow et al. (2014), equation (1), with the sign changed to minimize.
    """
    return real_loss(real_logits) + fake_loss(fake_logits)


def minimax_generator_loss(fake_logits: Tensor) -> Tensor:
    """Mean of log(1 - D(G(z))): -log 2 at equilibrium; derivative -sigma(l) / n for each logit.

    The derivative vanishes where D rejects (l << 0). Source: Goodfellow et al. (2014), eq. (1).
    """
    _check_logits(fake_logits)
    return -softplus(fake_logits).mean()


def nonsaturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """Mean of -log D(G(z)): log 2 at equilibrium; derivative -(1 - sigma(l)) / n for each logit.

    The derivative tends to -1 / n where D rejects. Source: Goodfellow et al. (2014), section 3.
    """
    _check_logits(fake_logits)
    return softplus(-fake_logits).mean()


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 1 or len(logits) == 0:
        raise ValueError(f"logits of shape (n,) with n >= 1 expected, got {tuple(logits.shape)}")


# The same losses as `ganlib.trainer.train` reads them: functions of both networks and one batch
# (x_real, z) that return the scalar to minimize and detached scalars to record.


def real_and_fake_logits(
    discriminator: Module, x_real: Tensor, x_fake: Tensor
) -> tuple[Tensor, Tensor]:
    """D's logits of both batches, by one pass over the two joined, which is faster than two.

    Two passes where D has batch norm: joined batches would share one mean and one variance.
    """
    if any(isinstance(layer, BATCH_NORMS) for layer in discriminator.modules()):
        return discriminator(x_real), discriminator(x_fake)
    logits = discriminator(torch.cat([x_real, x_fake]))
    return logits[: len(x_real)], logits[len(x_real) :]


def gan_loss_d(
    generator: Module, discriminator: Module, batch: tuple[Tensor, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_D on one batch (x_real, z), and its two halves and D's mean outputs to record."""
    x_real, z = batch
    with torch.no_grad():
        x_fake = generator(z)
    real_logits, fake_logits = real_and_fake_logits(discriminator, x_real, x_fake)
    loss_real, loss_fake = real_loss(real_logits), fake_loss(fake_logits)
    return loss_real + loss_fake, {
        "loss/real": loss_real.detach(),
        "loss/fake": loss_fake.detach(),
        "D(x)": real_logits.detach().sigmoid().mean(),
        "D(G(z))": fake_logits.detach().sigmoid().mean(),
    }


def gan_loss_g(
    generator: Module, discriminator: Module, batch: tuple[Tensor, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Non-saturating L_G on one batch (x_real, z); nothing more to record."""
    _, z = batch
    return nonsaturating_generator_loss(discriminator(generator(z))), {}


def minimax_loss_g(
    generator: Module, discriminator: Module, batch: tuple[Tensor, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Minimax L_G on one batch (x_real, z); nothing more to record."""
    _, z = batch
    return minimax_generator_loss(discriminator(generator(z))), {}


def in_bfloat16(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The same loss of (generator, discriminator, batch), with the networks run in bfloat16.

    Weights, gradients, what the networks return and the loss itself stay float32; products of
    matrices and convolutions round their inputs to 8 bits (`torch.autocast`). Measured, that
    moves the weights by 2 to 4 % of the way they go in 20 steps. What it gains depends on the CPU
    (book/results/speed.json): most for convolutions, and for perceptrons in a compiled step.
    """

    def rounded(
        generator: Module, discriminator: Module, batch: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return loss(_InBfloat16(generator), _InBfloat16(discriminator), batch)

    return rounded


class _InBfloat16:
    """A network called under autocast; its outputs are float32, all else is the network's."""

    def __init__(self, network: Module):
        self.network = network

    def __call__(self, *inputs: Tensor) -> Any:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            outputs = self.network(*inputs)
        if isinstance(outputs, Tensor):
            return outputs.float()
        return tuple(output.float() for output in outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)
