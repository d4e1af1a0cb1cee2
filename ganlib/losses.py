"""The players' losses as functions of logits: scalars to minimize, in nats.

A logit l is the discriminator's output before the sigmoid, D = sigma(l); logits have shape (n,).
With softplus(t) = log(1 + e^t), -log sigma(l) = softplus(-l) and -log(1 - sigma(l)) = softplus(l).
In this form the values stay finite and the derivatives are right at any finite logit, where
log(sigmoid(l)) in floating point gives -infinity or a derivative of 0. A loss of logits one of
which is NaN is NaN: to look for it would cost a wait for the device in every step, so training
looks when it reads its numbers back (`ganlib.trainer.train`). Infinite logits give the limit.
"""

from torch import Tensor
from torch.nn.functional import softplus

from ganlib.guards import require_real


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


def least_squares_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Half the mean of (l - 1)^2 on real data plus half that of l^2 on generated: 1/4 at l = 1/2.

    Here l is not a logit but an estimate of the label, 1 for real and 0 for generated data.
    Source: Mao et al. (2017), with a = 0 and b = c = 1 (equation number not confirmed).
    """
    _check_logits(real_logits)
    _check_logits(fake_logits)
    return (real_logits - 1).square().mean() / 2 + fake_logits.square().mean() / 2


def least_squares_generator_loss(fake_logits: Tensor) -> Tensor:
    """Half the mean of (l - 1)^2 over generated data, 1/8 at l = 1/2.

    Its derivative grows with the distance from the label 1, where D rejects, too.
    Source: Mao et al. (2017), with a = 0 and b = c = 1 (equation number not confirmed).
    """
    _check_logits(fake_logits)
    return (fake_logits - 1).square().mean() / 2


def _check_logits(logits: Tensor) -> None:
    require_real("logits", logits)
    if not logits.is_floating_point():
        raise TypeError(f"logits in floating point expected, got {logits.dtype}")
    if logits.ndim != 1 or len(logits) == 0:
        raise ValueError(f"logits of shape (n,) with n >= 1 expected, got {tuple(logits.shape)}")
