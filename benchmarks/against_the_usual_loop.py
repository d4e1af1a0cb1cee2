"""ganlib's trainer against the usual training loop: same networks, batch and work, one CPU thread.

    python benchmarks/against_the_usual_loop.py        (8 minutes of a core, half of it compiling)

The loop and the networks (of two public scripts, the paper's, a small DCGAN) are in usual_loop.py;
`--public FOLDER`, a clone of their repository with MNIST in data/mnist, times the scripts, too.
ganlib's side is `ganlib.trainer.train` with fused Adam on uint8 tensors. It draws fresh fakes for
each player, as Algorithm 1 does, which is more work. Its rows:

exact float32         matrix products at torch's precision "highest"
float32               at "medium", as `ganlib train`
bfloat16              networks wrapped in `InBfloat16`, as `ganlib train --bf16`
..., contiguous       convolutions without the layout (channels last) that State gives them
bfloat16, compiled    `step=compiled_step()`

Rows take turns, a block of steps each; a row's number is the median of process CPU time (one
thread: wall time on an idle machine). A floor is what the counted floating-point operations take at
the rate of the networks' own products or convolutions, forward and backward, in the same rounds.
`apart`: distance of G's and D's weights after 20 steps in bfloat16 and in float32, over the way.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from usual_loop import PAIRS, Pair, PublicScript, at_side, error_of_medium, usual_loop

from ganlib.data import image_sampler, load_images
from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.records import provenance, write_record
from ganlib.rounding import InBfloat16
from ganlib.runs.compiled import compiled_step
from ganlib.trainer import State, train, train_step

Block = Callable[[int], float]  # runs that many steps and returns the seconds of CPU time
aten = torch.ops.aten
RESULT = Path(__file__).parents[1] / "book" / "results" / "speed.json"


def timed(run: Callable[[int], Any], precision: str) -> Block:
    """A block of steps in this process, at that precision of matrix products."""

    def block(steps: int) -> float:
        torch.set_float32_matmul_precision(precision)
        start = time.process_time()
        run(steps)
        return time.process_time() - start

    return block


def ganlib_state(pair: Pair, row: str) -> State:
    torch.manual_seed(0)
    wrap = InBfloat16 if "bfloat16" in row else lambda network: network
    networks = [wrap(network) for network in pair.networks()]
    opt_g, opt_d = (torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999), fused=True)
                    for n in networks)  # fmt: skip
    state = State(networks[0], networks[1], opt_g, opt_d, torch.Generator().manual_seed(0))
    if "contiguous" in row:
        for weight in (w for network in networks for w in network.parameters()):
            weight.data = weight.data.contiguous()
    return state


def ganlib_loop(pair: Pair, images: Tensor, row: str) -> Callable[[int], None]:
    """ganlib's trainer, with the options that the row's name tells."""
    state = ganlib_state(pair, row)
    draw = image_sampler(images, pair.batch, pair.latent_dim)
    step = compiled_step() if "compiled" in row else train_step

    def run(steps: int) -> None:
        train(state, draw, gan_loss_d, gan_loss_g, until=state.step + steps, step=step,
              progress=False)  # fmt: skip

    return run


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def products_alone(pair: Pair, dtype: torch.dtype) -> tuple[Callable[[int], None], int]:
    """A layer's product forward and both backward, of all layers, and their operations."""
    state, calls = ganlib_state(pair, ""), []
    for network in (state.generator, state.discriminator):
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(lambda *call: calls.append(call))
    with torch.no_grad():
        state.discriminator(state.generator(torch.randn(pair.batch, pair.latent_dim)))
    calls = [(layer, x.to(dtype), layer.weight.to(dtype).detach(), slope.to(dtype))
             for layer, (x,), slope in calls]  # fmt: skip

    def run(steps: int) -> None:
        for layer, x, w, slope in calls * steps:
            if isinstance(layer, nn.Linear):
                _ = x @ w.T, slope @ w, slope.T @ x
            else:
                rest = layer.stride, layer.padding, layer.dilation, layer.transposed
                rest = *rest, layer.output_padding, layer.groups
                aten.convolution(x, w, None, *rest)
                aten.convolution_backward(slope, x, w, None, *rest, [True, True, False])

    return run, flops(lambda: run(1))


def time_pair(pair: Pair, digits: Tensor, public: Path | None, rounds: int) -> dict[str, float]:
    """Median seconds of CPU time a step of each row, in interleaved rounds."""
    images = at_side(digits, pair.side)
    rows = ["exact float32", "float32", "bfloat16", "bfloat16, compiled"]
    rows += ["float32, contiguous", "bfloat16, contiguous"] if pair.conv else []
    blocks = {"usual loop": timed(usual_loop(pair, digits), "highest")}
    for row in rows:
        blocks[row] = timed(ganlib_loop(pair, images, row), precision(row))
    for row in rows[:3]:
        dtype = torch.bfloat16 if row == "bfloat16" else torch.float32
        blocks[f"products, {row}"] = timed(products_alone(pair, dtype)[0], precision(row))
    if public is not None:
        blocks["public script"] = PublicScript(public)
    times: dict[str, list[float]] = {row: [] for row in blocks}
    for block in blocks.values():
        block(2)
    for _ in range(rounds):
        for row, block in blocks.items():
            times[row].append(block(pair.steps) / pair.steps)
    return {row: statistics.median(values) for row, values in times.items()}


def precision(row: str) -> str:
    return "highest" if "exact" in row else "medium"


def rows_of(
    name: str, pair: Pair, digits: Tensor, seconds: dict[str, float]
) -> list[dict[str, Any]]:
    """The record's rows of a pair: milliseconds, ratios, goals, work and floors."""
    blank = torch.zeros(1, 1, pair.side, pair.side, dtype=torch.uint8)
    state, draw = ganlib_state(pair, ""), image_sampler(blank, pair.batch, pair.latent_dim)
    work = flops(lambda: train_step(state, draw, gan_loss_d, gan_loss_g, 1))
    usual = flops(lambda: usual_loop(pair, digits)(1))
    alone = products_alone(pair, torch.float32)[1]
    rows = []
    for row, took in seconds.items():
        if row.startswith("products"):
            continue
        ratio, goal = seconds["usual loop"] / took, pair.goals.get(row, 1.0)
        told = {"pair": name, "batch": pair.batch, "row": row, "ms": round(1000 * took, 2),
                "ratio": round(ratio, 2)}  # fmt: skip
        told["GFLOP"] = round((usual if row in ("usual loop", "public script") else work) / 1e9, 2)
        if "public script" in seconds:
            told["over the script"] = round(seconds["public script"] / took, 2)
        if row not in ("usual loop", "public script"):
            kind = next(kind for kind in ("exact float32", "float32", "bfloat16") if kind in row)
            rate = alone / seconds[f"products, {kind}"]
            floor = work / rate
            told |= {
                "goal": goal,
                "reached": ratio >= goal,
                "GFLOP/s of products": round(rate / 1e9),
            }
            told |= {"floor ms": round(1000 * floor, 2), "share of floor": round(floor / took, 2)}
        rows.append(told)
        print(
            "  ".join(f"{key} {value}" for key, value in told.items() if key != "batch"), flush=True
        )
    return rows


def apart(pair: Pair, images: Tensor) -> list[float]:
    """How far rounding moves the weights of G and of D in 20 steps, over the way they go."""
    weights = {}
    for row in ("start", "float32", "bfloat16"):
        state, draw = ganlib_state(pair, row), image_sampler(images, pair.batch, pair.latent_dim)
        until = 0 if row == "start" else 20
        train(state, draw, gan_loss_d, gan_loss_g, until=until, progress=False)
        weights[row] = [torch.cat([w.detach().flatten() for w in n.parameters()])
                        for n in (state.generator, state.discriminator)]  # fmt: skip
    triples = zip(*weights.values(), strict=True)
    return [round(((b - a).norm() / (a - start).norm()).item(), 3) for start, a, b in triples]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time ganlib beside the usual loop.")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--public", type=Path, help="a clone of PyTorch-GAN, with its MNIST")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, rows, moved = time.process_time(), [], {}
    digits = load_images("mnist5k")[0]
    error, load_before = error_of_medium(), os.getloadavg()[0]
    for name in options.pairs:
        pair, public = PAIRS[name], None
        if options.public is not None and name.endswith(".py"):
            public = options.public.absolute() / "implementations" / name[:-3] / name
        seconds = time_pair(pair, digits, public, options.rounds)
        rows += rows_of(name, pair, digits, seconds)
        moved[name] = apart(pair, at_side(digits, pair.side))
    record = {
        "command": "python benchmarks/against_the_usual_loop.py"
        + (" --public FOLDER" if options.public else ""),
        **provenance(),
        "seed": 0,
        "seconds": round(time.process_time() - start),
        "load": [round(load, 1) for load in (load_before, os.getloadavg()[0])],
        "error_of_medium": error,
        "rounds": options.rounds,
        "steps_in_a_block": {name: PAIRS[name].steps for name in options.pairs},
        "apart": moved,
        "rows": rows,
    }
    write_record(options.out, record)


if __name__ == "__main__":
    main()
