"""The usual training loop, and the networks of two public scripts, to measure ganlib against.

The networks are those of gan.py and dcgan.py (at 32 px) of github.com/eriklindernoren/PyTorch-GAN,
but for G's last layer (a sigmoid where they have tanh, for images in [0, 1]) and D's sigmoid, which
is in the loop's loss; and the paper's perceptrons and a small DCGAN. The loop is theirs, too: a
DataLoader over PIL images, BCELoss, torch's default Adam, gradients of both networks in G's update,
D's update on the fakes just made for G's, `.item()` at each step.
"""

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from ganlib.models import ConvDiscriminator, ConvGenerator, MaxoutDiscriminator, MLPGenerator, mlp

Networks = tuple[nn.Module, nn.Module]
leaky = partial(nn.LeakyReLU, 0.2)


def perceptrons() -> Networks:
    """Those of gan.py."""
    layers: list[nn.Module] = [nn.Linear(100, 128), leaky()]
    for n_in, n_out in pairwise((128, 256, 512, 1024)):
        layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out, eps=0.8), leaky()]
    layers += [nn.Linear(1024, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28))]
    judge = nn.Sequential(nn.Flatten(), mlp([784, 512, 256, 1], leaky), nn.Flatten(0))
    return nn.Sequential(*layers), judge


def convolutions() -> Networks:
    """Those of dcgan.py at 32 px."""
    layers: list[nn.Module] = [nn.Linear(100, 128 * 64), nn.Unflatten(1, (128, 8, 8))]
    layers += [nn.BatchNorm2d(128)]
    for n_in, n_out in pairwise((128, 128, 64)):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(n_in, n_out, 3, padding=1)]
        layers += [nn.BatchNorm2d(n_out, eps=0.8), leaky()]
    layers += [nn.Conv2d(64, 1, 3, padding=1), nn.Sigmoid()]
    judge: list[nn.Module] = []
    for n_in, n_out in pairwise((1, 16, 32, 64, 128)):
        judge += [nn.Conv2d(n_in, n_out, 3, 2, 1), leaky(), nn.Dropout2d(0.25)]
        judge += [nn.BatchNorm2d(n_out, eps=0.8)] if n_in > 1 else []
    judge += [nn.Flatten(), nn.Linear(512, 1), nn.Flatten(0)]
    return nn.Sequential(*layers), nn.Sequential(*judge)


class Pair(NamedTuple):
    """Networks, what they are trained on, and how many times the usual loop's speed is aimed at."""

    networks: Callable[[], Networks]
    goals: dict[str, float]
    latent_dim: int = 100
    batch: int = 64
    steps: int = 10  # in a block
    side: int = 28
    conv: bool = False


PAIRS = {
    "gan.py": Pair(perceptrons, {"float32": 2.4, "bfloat16": 3.0}),
    "maxout": Pair(lambda: (MLPGenerator(), MaxoutDiscriminator()),
                   {"float32": 2.1, "bfloat16": 2.5}, batch=100, steps=5),
    "dcgan.py": Pair(convolutions, {"float32": 1.2, "bfloat16": 2.3}, steps=2, side=32, conv=True),
    "conv": Pair(lambda: (ConvGenerator(), ConvDiscriminator()),
                 {"float32": 1.2, "bfloat16": 1.6}, latent_dim=64, steps=5, conv=True),
}  # fmt: skip


def at_side(digits: Tensor, side: int) -> Tensor:
    """Digits as `image_sampler` takes them, of another size."""
    return interpolate(digits.float(), side).to(torch.uint8)


class Pictures(Dataset):
    """Digits as torchvision gives them, PIL images put through a transform; with one label."""

    def __init__(self, images: Tensor, side: int):
        from torchvision import transforms  # which on_a_gpu.py does without

        # Mean 0 and deviation 1 cost what 0.5 and 0.5 do, and leave [0, 1], where the networks work
        normalize = transforms.Normalize((0.0,), (1.0,))
        parts = [transforms.Resize(side), transforms.ToTensor(), normalize]
        self.images, self.transform = images, transforms.Compose(parts)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index, 0].numpy())), 0


def usual_loop(pair: Pair, images: Tensor) -> Callable[[int], None]:
    """The loop that tutorials write, on a pair of networks and PIL images."""
    torch.manual_seed(0)
    data = DataLoader(Pictures(images, pair.side), pair.batch, shuffle=True, drop_last=True)
    return loop_of(pair.networks(), data, pair.batch, pair.latent_dim)


def loop_of(
    networks: Networks, data: DataLoader, batch: int, latent_dim: int, device: str = "cpu"
) -> Callable[[int], None]:
    """The loop that tutorials write, over batches whose first part are real images."""
    generator, discriminator = (network.to(device) for network in networks)
    opt_g, opt_d = (
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for network in (generator, discriminator)
    )
    criterion = nn.BCELoss()
    batches = chain.from_iterable(repeat(data))  # epoch after epoch

    def run(steps: int) -> None:
        for _ in range(steps):
            x_real = next(batches)[0].to(device)
            real_target = torch.ones(batch, device=device)
            fake_target = torch.zeros(batch, device=device)
            opt_g.zero_grad()
            x_fake = generator(torch.randn(batch, latent_dim, device=device))
            loss_g = criterion(discriminator(x_fake).sigmoid(), real_target)
            loss_g.backward()
            opt_g.step()
            opt_d.zero_grad()
            loss_real = criterion(discriminator(x_real).sigmoid(), real_target)
            loss_fake = criterion(discriminator(x_fake.detach()).sigmoid(), fake_target)
            loss_d = (loss_real + loss_fake) / 2
            loss_d.backward()
            opt_d.step()
            _ = loss_d.item(), loss_g.item()  # the progress line

    return run


class PublicScript:
    """One of the scripts, unchanged, in a process that runs while a block is measured."""

    def __init__(self, file: Path):
        self.file, self.lines = file, iter(())

    def start(self) -> None:
        """Not before the first block: what is printed unread would not be timed."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-u", self.file.name],
            cwd=self.file.parent, env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        atexit.register(self.process.kill)  # between blocks it is stopped, and never ends
        self.lines = (line for line in self.process.stdout or () if "Batch" in line)

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __call__(self, steps: int) -> float:
        """Seconds of CPU time; Linux counts hundredths, so that four times the steps are run."""
        if not hasattr(self, "process"):
            self.start()
        self.process.send_signal(signal.SIGCONT)
        next(self.lines)
        start = self._cpu_seconds()
        for _ in range(4 * steps):
            next(self.lines)
        seconds = self._cpu_seconds() - start
        self.process.send_signal(signal.SIGSTOP)
        return seconds / 4


def error_of_medium() -> float:
    """Relative error of a product of float32 matrices at precision "medium"."""
    torch.manual_seed(0)
    a, b = torch.randn(64, 784), torch.randn(784, 512)
    torch.set_float32_matmul_precision("medium")
    exact = a.double() @ b.double()
    return ((a @ b - exact).norm() / exact.norm()).item()
