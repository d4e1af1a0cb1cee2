"""Games: pairs of losses, D's and G's, of both networks and one batch, as the trainer reads them.

Each returns the scalar that its player minimizes, and detached scalars to record. D's loss makes
its forgeries without gradient, since it moves D alone; D judges real and generated data in two
passes, as statistics over a batch (batch norm) must not mix the two. A batch is (x_real, z); a NaN
in it, or in a network, makes the loss NaN, as in `ganlib.losses`.
"""

import torch
from torch import Tensor
from torch.nn import Module

from ganlib.losses import (
    fake_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    minimax_generator_loss,
    nonsaturating_generator_loss,
    real_loss,
)

Batch = tuple[Tensor, Tensor]
LossAndLogs = tuple[Tensor, dict[str, Tensor]]


def gan_loss_d(generator: Module, discriminator: Module, batch: Batch) -> LossAndLogs:
    """L_D, and its two halves and D's mean outputs to record."""
    x_real, z = batch
    with torch.no_grad():
        x_fake = generator(z)
    real_logits, fake_logits = discriminator(x_real), discriminator(x_fake)
    loss_real, loss_fake = real_loss(real_logits), fake_loss(fake_logits)
    return loss_real + loss_fake, {
        "loss/real": loss_real.detach(),
        "loss/fake": loss_fake.detach(),
        "D(x)": real_logits.detach().sigmoid().mean(),
        "D(G(z))": fake_logits.detach().sigmoid().mean(),
    }


def r1_loss_d(generator: Module, discriminator: Module, batch: Batch) -> LossAndLogs:
    """L_D and half the R1 penalty: the mean squared slope of D's logit at real data.

    The slope is the Euclidean norm of the logit's gradient with respect to x, so the penalty has
    the unit of a logit squared over that of x squared. It is taken on the first quarter of the real
    batch, at least one sample, which costs less and has the same mean.
    Source: Mescheder et al. (2018), equation (9) (number not confirmed), with gamma = 1.
    """
    loss, logs = gan_loss_d(generator, discriminator, batch)
    x_real = batch[0][: max(1, len(batch[0]) // 4)].detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(x_real).sum(), x_real, create_graph=True)
    penalty = slope.flatten(1).square().sum(1).mean()
    return loss + penalty / 2, {**logs, "R1": penalty.detach()}


def gan_loss_g(generator: Module, discriminator: Module, batch: Batch) -> LossAndLogs:
    """Non-saturating L_G; nothing more to record."""
    _, z = batch
    return nonsaturating_generator_loss(discriminator(generator(z))), {}


def minimax_loss_g(generator: Module, discriminator: Module, batch: Batch) -> LossAndLogs:
    """Minimax L_G; nothing more to record."""
    _, z = batch
    return minimax_generator_loss(discriminator(generator(z))), {}


def least_squares_loss_d(generator: Module, discriminator: Module, batch: Batch) -> LossAndLogs:
    """D's least-squares loss, and D's mean outputs to record."""
    x_real, z = batch
    with torch.no_grad():
        x_fake = generator(z)
    real, fake = discriminator(x_real), discriminator(x_fake)
    logs = {"D(x)": real.detach().mean(), "D(G(z))": fake.detach().mean()}
    return least_squares_discriminator_loss(real, fake), logs


def least_squares_loss_g(generator: Module, discriminator: Module, batch: Batch) -> LossAndLogs:
    """G's least-squares loss; nothing more to record."""
    _, z = batch
    return least_squares_generator_loss(discriminator(generator(z))), {}
