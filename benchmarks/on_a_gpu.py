"""ganlib on a GPU: images a second, kernels a step, the GPU's busy share, memory, seeds at once.

    python benchmarks/on_a_gpu.py        (at most 8 minutes on an NVIDIA GPU)

Needs torch >= 2.6, numpy, safetensors, tqdm and click only. Trains on MNIST where it is at hand,
else on random images, which cost the same. Writes book/results/gpu.json:

rows    the paper's perceptrons (maxout) and a small DCGAN (conv), batch 64 and 512, in float32
        (precision "medium") and bfloat16: the usual loop of tutorials, ganlib's step, and that
        compiled
seeds   1, 8 and 64 seeds of a GAN on the plane at once, seconds a step and a seed
long    the run of chapter 7 at its GPU size, D's penalty included, for a minute

Seconds are of the clock, medians over blocks of steps. Kernels and the GPU's busy share (their
summed time over the clock's) come from torch's profiler, in a block of its own. A row that this
torch or machine cannot make says why. `--device cpu --quick` tries the script without a GPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset
from usual_loop import loop_of

from ganlib.data import image_sampler, load_images
from ganlib.games import gan_loss_d, gan_loss_g, r1_loss_d
from ganlib.models import (
    ConvDiscriminator,
    ConvGenerator,
    MaxoutDiscriminator,
    MLPGenerator,
    small_pair,
)
from ganlib.records import provenance, write_record
from ganlib.rounding import InBfloat16
from ganlib.seeds import train_seeds
from ganlib.trainer import State, running_average, train, train_step

Run = Callable[[int], object]  # makes that many steps
RESULT = Path(__file__).parents[1] / "book" / "results" / "gpu.json"
PAIRS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "maxout": lambda: (MLPGenerator(batch_norm=True), MaxoutDiscriminator()),
    "conv": lambda: (ConvGenerator(), ConvDiscriminator()),
}
LATENT_DIMS = {"maxout": 100, "conv": 64}


def digits() -> tuple[Tensor, str]:
    """MNIST where it is at hand, else as many random images."""
    try:
        return load_images("mnist", download=False)[0], "mnist"
    except (ImportError, OSError):
        rng = torch.Generator().manual_seed(0)
        return torch.randint(256, (60_000, 1, 28, 28), generator=rng, dtype=torch.uint8), "random"


def new_state(networks: Iterable[nn.Module], device: str, seed: int = 0) -> State:
    generator, discriminator = (network.to(device) for network in networks)
    opt_g, opt_d = (Adam(network.parameters(), lr, betas=(0.5, 0.999), fused=True)
                    for network, lr in ((generator, 8e-4), (discriminator, 4e-4)))  # fmt: skip
    return State(generator, discriminator, opt_g, opt_d, torch.Generator(device).manual_seed(seed))


def usual_loop(pair: str, batch: int, images: Tensor, device: str) -> Run:
    """As tutorials write it, with a DataLoader on the CPU."""
    data = DataLoader(TensorDataset(images.float() / 255), batch, shuffle=True, drop_last=True)
    return loop_of(PAIRS[pair](), data, batch, LATENT_DIMS[pair], device)


def ganlib_loop(pair: str, batch: int, images: Tensor, device: str, row: str) -> Run:
    """ganlib's trainer, with what the row's name tells."""
    networks = PAIRS[pair]()
    if "bfloat16" in row:
        networks = InBfloat16(networks[0]), InBfloat16(networks[1])
    state, step = new_state(networks, device), train_step
    draw = image_sampler(images.to(device), batch, LATENT_DIMS[pair])
    if "compiled" in row:
        from ganlib.runs.compiled import compiled_step  # which an older torch may not know

        step = compiled_step()

    def run(steps: int) -> None:
        until = state.step + steps
        train(state, draw, gan_loss_d, gan_loss_g, until=until, step=step, progress=False)

    return run


def clock(run: Run, steps: int, device: str) -> float:
    """Seconds that `steps` steps take, with the device's work done."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(steps)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def on_the_device(run: Run, steps: int, device: str) -> dict[str, float]:
    """Kernels (and copies) a step, the busy share and the peak of memory, of a CUDA device."""
    if device != "cuda":
        return {}
    torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        seconds = clock(run, steps, device)
    events = [e for e in record.events() or () if e.device_type.name == "CUDA"]
    busy = sum(event.time_range.elapsed_us() for event in events) / 1e6
    return {
        "kernels": round(len(events) / steps, 1),
        "busy": round(busy / seconds, 3),
        "peak MiB": round(torch.cuda.max_memory_allocated() / 2**20),
    }


def measure(make: Callable[[], Run], batch: int, blocks: int, steps: int, device: str) -> Any:
    """What a row says of a loop, or why it cannot be made."""
    try:
        run = make()
        first = clock(run, 5, device)
        seconds = statistics.median(clock(run, steps, device) for _ in range(blocks)) / steps
        told = {"ms": round(1000 * seconds, 3), "images/s": round(batch / seconds)}
        return told | {"first 5 steps, s": round(first, 2)} | on_the_device(run, steps, device)
    except (ImportError, ValueError, RuntimeError) as error:
        return {"fails": (str(error).splitlines() or [type(error).__name__])[0]}


def loops(images: Tensor, device: str, quick: bool) -> list[dict[str, Any]]:
    rows, kinds = [], ["usual loop", "float32", "bfloat16"]
    kinds += [] if quick else ["float32, compiled", "bfloat16, compiled"]
    blocks, steps = (1, 2) if quick else (5, 50)
    for pair in PAIRS:
        for batch in (8,) if quick else (64, 512):
            for kind in kinds:
                torch.manual_seed(0)
                make = usual_loop if kind == "usual loop" else partial(ganlib_loop, row=kind)
                loop = partial(make, pair, batch, images, device)
                told = measure(loop, batch, blocks, steps, device)
                rows.append({"pair": pair, "batch": batch, "row": kind, **told})
                print(rows[-1], flush=True)
    return rows


def seeds_at_once(device: str, quick: bool) -> list[dict[str, Any]]:
    """A GAN of three layers of 128 on the plane, batch 256."""

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x, z = (torch.randn(256, 2, generator=rng, device=device) for _ in range(2))
        return x.sign() + 0.05 * x, z

    rows, (first, last) = [], (2, 4) if quick else (20, 220)
    for n in (1, 2) if quick else (1, 8, 64):
        torch.manual_seed(0)
        states = [new_state(small_pair(2, 2, 128), device, seed) for seed in range(n)]
        reached: list[float] = []

        def note(state: State) -> None:
            if state.step == first:
                clock(lambda _: None, 0, device)  # waits
                reached.append(time.perf_counter())  # noqa: B023

        train_seeds(states, draw, gan_loss_d, gan_loss_g, until=last, before_step=note,
                    progress=False)  # fmt: skip
        if device == "cuda":
            torch.cuda.synchronize()
        ms = 1000 * (time.perf_counter() - reached[0]) / (last - first)
        rows.append({"seeds": n, "ms": round(ms, 3), "ms a seed": round(ms / n, 3)})
        print(rows[-1], flush=True)
    return rows


def long_run(images: Tensor, device: str, seconds: float, batch: int) -> dict[str, Any]:
    """Chapter 7's networks, optimizers and running average, for that long."""
    torch.manual_seed(2)
    means = images.float().mean(0) / 255
    generator = MLPGenerator(batch_norm=True, pixel_means=means)
    discriminator = MaxoutDiscriminator(dropout=(0.0, 0.0))
    state = new_state((generator, discriminator), device, 2)
    for optimizer in (state.opt_g, state.opt_d):
        optimizer.param_groups[0].update(lr=1e-3, betas=(0.0, 0.99))
    state.average = running_average(state.generator, 0.995)
    draw, start = image_sampler(images.to(device), batch, 100), time.perf_counter()
    while time.perf_counter() - start < seconds:
        train(state, draw, r1_loss_d, gan_loss_g, until=state.step + 50, progress=False)
    took = time.perf_counter() - start
    return {"seconds": round(took, 1), "steps": state.step,
            "images/s": round(state.step * batch / took),
            **state.history.last("loss/D", "loss/G")}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure ganlib on a GPU.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="only try the script")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU that torch can use: --device cpu --quick tries the script")
    torch.set_float32_matmul_precision("medium")
    start, (images, of) = time.perf_counter(), digits()
    device, quick = options.device, options.quick
    contents = {
        "command": "python benchmarks/on_a_gpu.py" + (" --quick" if quick else ""),
        **provenance(device),
        "images": of,
        "rows": loops(images[:2000] if quick else images, device, quick),
        "seeds": seeds_at_once(device, quick),
        "long": long_run(images, device, 0.1 if quick else 60, 8 if quick else 100),
    }
    write_record(options.out, contents | {"seconds": round(time.perf_counter() - start, 1)})


if __name__ == "__main__":
    main()
