"""Divergences and the value function of the GAN game, for densities given on a grid.

A density is a float64 tensor of its values at equally spaced points; an integral is the sum of
the integrand times the spacing `dx`. With dx = 1 the tensor is a discrete distribution. All
results are in nats. Both densities must have mass 1 on the grid, or identities that hold for
distributions do not hold here; `normalize` gives a density that mass.
"""

import torch
from torch import Tensor

from ganlib.guards import require_positive, require_values

MASS_TOLERANCE = 1e-3  # catches mistakes; it is not the accuracy of any identity
SMALLEST = 1e-322  # smaller values count as 0 in the JSD: half of them could round to 0


def normalize(p: Tensor, dx: float) -> Tensor:
    """Density on the grid with the shape of `p` and mass exactly 1 (to rounding).

    Raises ValueError if `p` is negative, not finite, or has no mass, and for dx <= 0.
    """
    (p,) = _densities(p)
    require_positive(dx=dx)
    mass = p.sum() * dx
    if not mass > 1e-300:  # below, floating point has fewer digits
        raise ValueError(f"a density with positive mass expected, got mass {mass.item():g}")
    return p / mass


def optimal_discriminator(p_data: Tensor, p_g: Tensor) -> Tensor:
    """D*(x) = p_data(x) / (p_data(x) + p_g(x)), the maximizer of V(D, G) over D.

    Where both densities are 0 any value is optimal; this function returns 1/2 there.
    Errors: ValueError for negative, non-finite or differently shaped input.
    Source: Goodfellow et al. (2014), equation (2).
    """
    p_data, p_g = _densities(p_data, p_g)
    total = p_data + p_g
    return torch.where(total > 0, p_data / total, 0.5)


def value(d: Tensor, p_data: Tensor, p_g: Tensor, dx: float) -> Tensor:
    """V(D, G) = integral of p_data log D + p_g log(1 - D), in nats; at most 2 JSD - log 4.

    The bound is that of densities of mass exactly 1. `d` holds D(x) in [0, 1] on the grid.
    Logarithms are clamped at -100, as in torch's `binary_cross_entropy`, so that a D that rounds
    to 0 or 1 gives a finite value.
    Errors: ValueError as in `js_divergence`, and for d outside [0, 1].
    Source: Goodfellow et al. (2014), equation (1), with the second expectation taken over x.
    """
    d, p_data, p_g = _discriminator_and_densities(d, p_data, p_g, dx)
    log_d = torch.log(d).clamp(min=-100)
    log_not_d = torch.log1p(-d).clamp(min=-100)
    return ((p_data * log_d + p_g * log_not_d) * dx).sum()


def kl_divergence(p: Tensor, q: Tensor, dx: float) -> Tensor:
    """KL(p | q) = integral of p log(p / q), in nats; 0 log 0 = 0, infinity where q = 0 < p.

    Never negative: what rounding, or a mass that is not quite 1, leaves below 0 becomes 0, with the
    derivatives as they are. Errors: ValueError as in `js_divergence`.
    """
    p, q = _densities(p, q, dx=dx)
    divergence = ((torch.xlogy(p, p) - torch.xlogy(p, q)) * dx).sum()
    return divergence - divergence.detach().clamp(max=0)


def js_divergence(p: Tensor, q: Tensor, dx: float) -> Tensor:
    """JSD(p, q) = (KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2, in nats: in [0, log 2].

    The upper bound holds to rounding, for masses of exactly 1. Errors: ValueError for negative,
    non-finite or differently shaped input, and for a mass that differs from 1 by more than 1e-3.
    Source: Lin (1991) with equal weights.
    """
    p, q = _densities(p, q, dx=dx, zero_below=SMALLEST)
    m = (p + q) / 2
    return (kl_divergence(p, m, dx) + kl_divergence(q, m, dx)) / 2


def _densities(
    *densities: Tensor, dx: float | None = None, zero_below: float = 0.0
) -> tuple[Tensor, ...]:
    """The densities, checked, in float64; their values below `zero_below` become 0."""
    for p in densities:
        require_values("a density with finite values", p)
    shapes = {tuple(p.shape) for p in densities}
    if len(shapes) > 1:
        raise ValueError(f"densities on one grid expected, got shapes {sorted(shapes)}")
    checked = []
    for p in densities:
        p = p.to(torch.float64)
        if p.numel() == 0:
            raise ValueError("a density on a grid expected, got no values")
        if (p < 0).any():
            raise ValueError(f"a density without negative values expected, got {p.min().item():g}")
        if dx is not None:
            require_positive(dx=dx)
            mass = (p.sum() * dx).item()
            if abs(mass - 1) > MASS_TOLERANCE:
                raise ValueError(
                    f"a density of mass 1 expected, got mass {mass:.6g}: "
                    "extend the grid, or use normalize(p, dx)"
                )
        checked.append(torch.where(p < zero_below, 0.0, p))
    return tuple(checked)


def _discriminator_and_densities(
    d: Tensor, p_data: Tensor, p_g: Tensor, dx: float
) -> tuple[Tensor, Tensor, Tensor]:
    p_data, p_g = _densities(p_data, p_g, dx=dx)
    require_values("values of D in [0, 1]", d)
    d = d.to(torch.float64)
    if d.shape != p_data.shape:
        raise ValueError(
            f"D on the densities' grid expected, got {tuple(d.shape)} and {tuple(p_data.shape)}"
        )
    if not ((d >= 0) & (d <= 1)).all():
        outside = d[~((d >= 0) & (d <= 1))].flatten()[0].item()
        raise ValueError(f"values of D in [0, 1] expected, got {outside:g}")
    return d, p_data, p_g
