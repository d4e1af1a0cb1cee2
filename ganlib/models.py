"""The book's networks. A generator maps latents (n, latent_dim) to data; a discriminator maps
data to logits of shape (n,), one unbounded number for each sample, without a sigmoid.

Images outside a network are float in [0, 1], of shape (n, channels, height, width). Images or
latents of another shape than a network takes are a ValueError.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ganlib.guards import (
    require_at_least,
    require_batch,
    require_between,
    require_images,
    require_real,
)


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    """Perceptron with layers of the given sizes, (n, sizes[0]) to (n, sizes[-1]).

    The activation stands between linear layers, not after the last.
    """
    require_at_least(1, sizes=list(sizes))
    if len(sizes) < 2:
        raise ValueError(f"at least an input and an output size expected, got {list(sizes)}")
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def small_pair(
    data_dim: int, latent_dim: int, hidden: int = 64
) -> tuple[nn.Sequential, nn.Sequential]:
    """Generator and discriminator with two hidden layers, for points (n, data_dim)."""
    generator = mlp([latent_dim, hidden, hidden, data_dim])
    discriminator = nn.Sequential(mlp([data_dim, hidden, hidden, 1]), nn.Flatten(0))
    return generator, discriminator


class MLPGenerator(nn.Module):
    """Fully connected generator, (n, latent_dim) to images (n, *image_shape) in (0, 1).

    The defaults are the 2014 paper's MNIST generator (100-1200-1200-784, ReLU, sigmoid);
    `batch_norm` adds what it did not have. `pixel_means`, of shape `image_shape`, sets the
    output bias to their logit, so that the untrained network already paints the mean image.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        hidden: Sequence[int] = (1200, 1200),
        image_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        batch_norm: bool = False,
        pixel_means: Tensor | None = None,
    ):
        sizes = [latent_dim, *hidden]
        require_at_least(1, sizes=sizes, image_shape=image_shape)
        super().__init__()
        self.latent_dim, self.image_shape = latent_dim, image_shape
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            norm = [nn.BatchNorm1d(n_out)] if batch_norm else []
            layers += [nn.Linear(n_in, n_out), *norm, nn.ReLU()]
        output = nn.Linear(sizes[-1], math.prod(image_shape))
        if pixel_means is not None:
            require_real("pixel means", pixel_means)
            require_images(pixel_means[None], image_shape)
            output.bias.data.copy_(pixel_means.reshape(-1).clamp(0.001, 0.999).logit())
        self.layers = nn.Sequential(*layers, output)

    def forward(self, z: Tensor) -> Tensor:
        require_batch("latents", z, (self.latent_dim,))
        return torch.sigmoid(self.layers(z)).reshape(-1, *self.image_shape)


class Maxout(nn.Module):
    """Maximum over `pieces` linear maps, (n, n_in) to (n, n_out). Goodfellow et al. (2013)."""

    def __init__(self, n_in: int, n_out: int, pieces: int):
        require_at_least(1, n_in=n_in, n_out=n_out, pieces=pieces)
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(n_in, n_out * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class MaxoutDiscriminator(nn.Module):
    """The 2014 paper's MNIST discriminator: two maxout layers of 240 units with 5 pieces.

    Dropout rates are the shares set to 0 at the input and at the two hidden layers; images
    (n, *image_shape) in [0, 1] to logits (n,).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: int = 240,
        pieces: int = 5,
        *,
        dropout: tuple[float, float] = (0.2, 0.5),
    ):
        require_between(0, 1, dropout=dropout)
        super().__init__()
        self.image_shape = image_shape
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout[0]),
            Maxout(math.prod(image_shape), hidden, pieces),
            nn.Dropout(dropout[1]),
            Maxout(hidden, hidden, pieces),
            nn.Dropout(dropout[1]),
            nn.Linear(hidden, 1),
            nn.Flatten(0),
        )

    def forward(self, x: Tensor) -> Tensor:
        require_batch("images", x, self.image_shape)
        return self.layers(x)


def uniform_init_(network: nn.Module, bound: float) -> None:
    """Draw the weights of all linear layers from U(-bound, bound), in place; biases stay.

    The 2014 paper's code uses 0.05 for the generator and 0.005 for the discriminator.
    """
    require_between(0, 1e30, bound=bound)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -bound, bound)


class ConvGenerator(nn.Module):
    """Convolutional generator for 28 x 28 images, (n, latent_dim) to (n, 1, 28, 28) in (0, 1).

    A linear map to (4 channels, 7, 7), then two transposed convolutions that double the side.
    `bias` gives the linear map a bias, needed for latents of few numbers: without it G(0) is the
    same at all places of a channel.
    """

    def __init__(self, latent_dim: int = 64, channels: int = 32, *, bias: bool = False):
        require_at_least(1, latent_dim=latent_dim, channels=channels)
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, 4 * channels * 49, bias=bias),
            nn.Unflatten(1, (4 * channels, 7, 7)),
            nn.BatchNorm2d(4 * channels),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * channels, 2 * channels, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * channels, 1, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        require_batch("latents", z, (self.latent_dim,))
        return torch.sigmoid(self.layers(z))


class ConvDiscriminator(nn.Module):
    """Convolutional discriminator, images (n, 1, 28, 28) in [0, 1] to logits (n,).

    It works on 2x - 1, in [-1, 1], as convolutional GANs usually do. `batch_norm` puts batch norm
    after the second convolution, where it takes the place of a bias; `hidden` is the number of
    units of a linear layer before the last, 0 for none.
    """

    def __init__(self, channels: int = 32, *, batch_norm: bool = True, hidden: int = 0):
        require_at_least(1, channels=channels)
        require_at_least(0, hidden=hidden)
        super().__init__()
        norm = [nn.BatchNorm2d(2 * channels)] if batch_norm else []
        n = 2 * channels * 49
        middle = [nn.Linear(n, hidden), nn.LeakyReLU(0.2)] if hidden else []
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=not batch_norm),
            *norm,
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            *middle,
            nn.Linear(hidden or n, 1),
            nn.Flatten(0),
        )

    def forward(self, x: Tensor) -> Tensor:
        require_batch("images", x, (1, 28, 28))
        return self.layers(2 * x - 1)


def load_generator(name: str, device: torch.device | str = "cpu") -> MLPGenerator | ConvGenerator:
    """A trained generator of MNIST digits, "maxout" or "conv", in evaluation mode.

    `benchmarks/generators.py` made the weights, which are stored in half precision.
    """
    if name not in ("maxout", "conv"):
        raise ValueError(f"a generator 'maxout' or 'conv' expected, got {name!r}")
    generator = MLPGenerator(batch_norm=True) if name == "maxout" else ConvGenerator(channels=16)
    load_weights(generator, f"{name}_generator")
    return generator.to(device).eval()


def load_weights(network: nn.Module, name: str) -> None:
    """Fill a network from the file of that name which comes with ganlib."""
    file = Path(__file__).with_name(f"{name}.safetensors")
    try:
        network.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{file} is missing or damaged: install ganlib again") from error
