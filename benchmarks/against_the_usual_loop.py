"""ganlib's trainer against the usual training loop: same networks, batch and work, one CPU thread.

    python benchmarks/against_the_usual_loop.py    (5 minutes of a core, half of it compiling)

The usual loop is the one that tutorials write: a DataLoader over PIL images with ToTensor and
Normalize, torch.randn, a sigmoid and BCELoss, torch's default Adam, gradients of both networks in
G's update, D's update on the fakes just made for G's, two passes of D, `.item()` at each step.
ganlib's side is `ganlib.trainer.train` with what the command line sets: uint8 tensors, fused Adam,
matmul precision "medium"; the convolutional pair is in channels_last. It draws fresh fakes for
each player, as Algorithm 1 does, which is more work. Rows:

float32               as `ganlib train`
fakes reused          the same, but one batch of fakes serves both updates, as in the usual loop
bfloat16              as `ganlib train --bf16`
compiled              as `ganlib train --compile`, in float32 and in bfloat16
exact ...             at matmul precision "highest"; only where "medium" is not exact (AMX units)

Each pair is measured in rounds; a round runs a block of steps of every row, and a row's number is
the median over rounds of process CPU time (one thread: equal to wall time on an idle machine).
The table and its provenance are written to book/results/speed.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ganlib.compiled import compiled_step
from ganlib.data import image_sampler, load_images
from ganlib.losses import (
    discriminator_loss,
    gan_loss_d,
    gan_loss_g,
    in_bfloat16,
    nonsaturating_generator_loss,
    real_and_fake_logits,
)
from ganlib.models import ConvDiscriminator, ConvGenerator, MaxoutDiscriminator, MLPGenerator, mlp
from ganlib.runs import provenance
from ganlib.trainer import State, frozen, train, train_step

Block = Callable[[int], object]  # runs that many steps
BETAS, LR = (0.5, 0.999), 2e-4
GOALS = {
    "mlp-bn": {"float32": 2.4, "fakes reused": 2.7, "bfloat16": 3.3},
    "maxout": {"float32": 2.1, "bfloat16": 2.5},
    "conv": {"float32": 1.2, "bfloat16": 1.6},
}
RESULT = Path(__file__).parents[1] / "book" / "results" / "speed.json"


def new_pair(name: str) -> tuple[MLPGenerator | ConvGenerator, nn.Module]:
    """A generator and a discriminator: images in [0, 1], logits (n,)."""
    torch.manual_seed(0)
    if name == "mlp-bn":
        layers = mlp([784, 512, 256, 1], nn.LeakyReLU)
        generator = MLPGenerator(100, (128, 256, 512, 1024), batch_norm=True)
        return generator, nn.Sequential(nn.Flatten(), layers, nn.Flatten(0))
    if name == "maxout":
        return MLPGenerator(), MaxoutDiscriminator()
    return ConvGenerator(), ConvDiscriminator()


class Pictures(Dataset):
    """Digits as torchvision gives them, PIL images put through a transform; with one label."""

    def __init__(self, images: Tensor):
        # Mean 0 and deviation 1 cost what 0.5 and 0.5 do, and leave [0, 1], where the networks work
        normalize = transforms.Normalize((0.0,), (1.0,))
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x: Any = self.transform(Image.fromarray(self.images[index, 0].numpy()))
        return x, 0


def usual_loop(name: str, batch: int, images: Tensor) -> Block:
    """The loop that tutorials write."""
    generator, discriminator = new_pair(name)
    opt_g = torch.optim.Adam(generator.parameters(), lr=LR, betas=BETAS)
    opt_d = torch.optim.Adam(discriminator.parameters(), lr=LR, betas=BETAS)
    criterion = nn.BCELoss()

    def probability(x: Tensor) -> Tensor:
        return torch.sigmoid(discriminator(x))

    loader = DataLoader(Pictures(images), batch, shuffle=True, drop_last=True)
    data = chain.from_iterable(repeat(loader))  # epoch after epoch

    def block(steps: int) -> None:
        torch.set_float32_matmul_precision("highest")
        for _ in range(steps):
            x_real, _ = next(data)
            real_target, fake_target = torch.ones(batch), torch.zeros(batch)
            opt_g.zero_grad()
            x_fake = generator(torch.randn(batch, generator.latent_dim))
            loss_g = criterion(probability(x_fake), real_target)
            loss_g.backward()
            opt_g.step()
            opt_d.zero_grad()
            loss_real = criterion(probability(x_real), real_target)
            loss_fake = criterion(probability(x_fake.detach()), fake_target)
            loss_d = (loss_real + loss_fake) / 2
            loss_d.backward()
            opt_d.step()
            _ = loss_d.item(), loss_g.item()  # the progress line

    return block


def step_reusing_fakes(state: State, draw, *_) -> dict[str, Tensor]:
    """G's fakes serve both updates, as in the usual loop; the rest is ganlib's."""
    x_real, z = draw(state.rng)
    x_fake = state.generator(z)
    logits = real_and_fake_logits(state.discriminator, x_real, x_fake.detach())
    loss_d = discriminator_loss(*logits)
    state.opt_d.zero_grad()
    loss_d.backward()
    state.opt_d.step()
    with frozen(state.discriminator):
        loss_g = nonsaturating_generator_loss(state.discriminator(x_fake))
        state.opt_g.zero_grad()
        loss_g.backward()
    state.opt_g.step()
    return {"loss/D": loss_d.detach(), "loss/G": loss_g.detach()}


def ganlib_loop(name: str, batch: int, images: Tensor, row: str) -> Block:
    """ganlib's trainer, with the options that the row's name tells."""
    generator, discriminator = new_pair(name)
    if name == "conv":
        for network in (generator, discriminator):
            network.to(memory_format=torch.channels_last)  # in place
    opt_g, opt_d = (
        torch.optim.Adam(network.parameters(), LR, BETAS, fused=True)
        for network in (generator, discriminator)
    )
    state = State(generator, discriminator, opt_g, opt_d, torch.Generator().manual_seed(0))
    draw = image_sampler(images, batch, generator.latent_dim)
    loss_d, loss_g, step = gan_loss_d, gan_loss_g, train_step
    if "bfloat16" in row:
        loss_d, loss_g = in_bfloat16(loss_d), in_bfloat16(loss_g)
    if "reused" in row:
        step = step_reusing_fakes
    if "compiled" in row:  # made once: each call of train(compile=True) would compile anew
        step = compiled_step(state, loss_d, loss_g, 1)

    def block(steps: int) -> None:
        torch.set_float32_matmul_precision("highest" if "exact" in row else "medium")
        until = state.step + steps
        train(state, draw, loss_d, loss_g, until=until, step=step, progress=False)

    return block


def error_of_medium() -> float:
    """Relative error of a product of float32 matrices at precision "medium"."""
    torch.manual_seed(0)
    a, b = torch.randn(64, 784), torch.randn(784, 512)
    torch.set_float32_matmul_precision("medium")
    exact = a.double() @ b.double()
    return ((a @ b - exact).norm() / exact.norm()).item()


def cpu_name() -> str:
    """As Linux tells it; elsewhere the kind of machine."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measure(blocks: dict[str, Block], rounds: int, steps: int) -> dict[str, float]:
    """Median milliseconds of CPU time a step, of interleaved blocks."""
    times: dict[str, list[float]] = {row: [] for row in blocks}
    for block in blocks.values():
        block(3)
    for _ in range(rounds):
        for row, block in blocks.items():
            start = time.process_time()
            block(steps)
            times[row].append(1000 * (time.process_time() - start) / steps)
    return {row: statistics.median(values) for row, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time ganlib beside the usual loop.")
    parser.add_argument("--pairs", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=15, help="steps in a block")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, _ = load_images("mnist" if os.environ.get("GANLIB_DATA") else "mnist5k")
    error = error_of_medium()
    names = ["float32", "fakes reused", "bfloat16"]
    names += ["exact float32", "exact, fakes reused"] if error > 1e-5 else []
    names += ["float32 compiled", "bfloat16 compiled"] if options.compile else []
    rows = []
    for pair in options.pairs:
        batch = 100 if pair == "maxout" else 64
        blocks = {"usual loop": usual_loop(pair, batch, images)}
        blocks |= {row: ganlib_loop(pair, batch, images, row) for row in names}
        medians = measure(blocks, options.rounds, options.steps)
        for row, ms in medians.items():
            ratio, goal = medians["usual loop"] / ms, GOALS[pair].get(row)
            rows.append({"pair": pair, "batch": batch, "row": row, "ms": round(ms, 2)})
            rows[-1] |= {"ratio": round(ratio, 2), "goal": goal}
            aim = f"  goal {goal}" if goal else ""
            print(f"{pair:8}{batch:4}  {row:20}{ms:8.2f} ms {ratio:6.2f} x{aim}", flush=True)
    arguments = "" if options.compile else " --no-compile"
    record = {
        "command": f"python benchmarks/against_the_usual_loop.py{arguments}",
        **provenance(torch.device("cpu")),
        "cpu": cpu_name(),
        "seed": 0,
        "seconds": round(time.process_time()),
        "load": [round(load, 1) for load in os.getloadavg()],
        "error_of_medium": error,
        "rounds": options.rounds,
        "steps_in_a_block": options.steps,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
