"""The command line, `ganlib` or `python -m ganlib`: train, sample, evaluate.

Here are the options, their defaults and the one-line errors; the work is done by `ganlib.runs`,
imported when a command runs, so that `--help` does not wait for torch.
"""

import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

DATASETS = ("mnist5k", "mnist", "fashion_mnist", "cifar10")
COMMON: dict[str, Any] = {
    "dataset": "mnist5k",
    "steps": 4000,
    "batch_size": 64,
    "average": 0.995,
    "n_critic": 1,
    "loss": "non-saturating",
    "seed": 0,
    "device": "auto",
    "bf16": False,
    "compile": False,
    "sample_every": 500,
    "checkpoint_every": 1000,
}
MODELS: dict[str, dict[str, Any]] = {
    "maxout": {"latent_dim": 100, "lr_g": 8e-4, "lr_d": 4e-4, "decay": 0.6},
    "mlp": {"latent_dim": 100, "lr_g": 2e-4, "lr_d": 2e-4, "decay": 0.0},
    "conv": {"latent_dim": 64, "lr_g": 2e-4, "lr_d": 2e-4, "decay": 0.0},
}
POSITIVE, RATE = click.IntRange(1, 10**9), click.FloatRange(min=0, min_open=True)
SEED = click.IntRange(0, 2**63 - 1)
OUT_OF_MEMORY = "out of memory: take a smaller --batch-size, --latent-dim or --n"


class PathType(click.Path):
    """As click's, but refuses the empty path, which pathlib takes for the current folder."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return super().convert(value, param, ctx) if str(value) else self.fail("is empty", param)


PATH, FILE = PathType(path_type=Path), PathType(path_type=Path, dir_okay=False)


class Refused(click.ClickException):
    """An error in one line, said by process 0 where there are more, with exit code 2."""

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))

    def show(self, file: Any = None) -> None:
        if not _is_rank_0():
            time.sleep(1)  # at the first exit torchrun stops all: process 0 has to speak before
        else:
            super().show(file)


class Commands(click.Group):
    """Commands whose expected errors each become one line: click's, ganlib's and the machine's."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # as in `ganlib ... | head`: click's own matter
            raise
        except click.UsageError as error:
            raise Refused(error.format_message()) from error
        except (ValueError, OSError) as error:
            raise Refused(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not _lacks_memory(error):
                raise
            click.echo(f"Error: {OUT_OF_MEMORY}", err=True)  # by the process that lacks it
            sys.exit(2)


def setting(flag: str, kind: Any, explanation: str) -> Callable[[Any], Any]:
    """An option of a run that is None unless given; its help shows each model's default."""
    name = flag.removeprefix("--").replace("-", "_")
    default = ", ".join(f"{values.get(name)} ({model})" for model, values in MODELS.items())
    shown = str(COMMON[name]) if name in COMMON else default
    return click.option(flag, type=kind, help=f"{explanation} Default: {shown}.")


data_dir = click.option(
    "--data-dir",
    type=PATH,
    help="Folder of the data sets (mnist5k needs none). Default: $GANLIB_DATA, else a cache.",
)
download = click.option(
    "--download/--no-download", default=True, show_default=True, help="Download a missing data set."
)


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "ignore_unknown_options": True,  # here; `invoke` then finds no such command
    },
)
@click.version_option(package_name="ganlib")
def main() -> None:
    """Train the GANs of the book, draw samples from them, and measure those."""


@main.command()
@click.argument("model", type=click.Choice(list(MODELS)))
@click.option("--out", type=PATH, required=True, help="The run's folder.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, by its own options.")
@setting("--dataset", click.Choice(DATASETS), "conv takes no cifar10.")
@data_dir
@download
@setting("--steps", POSITIVE, "Total of steps; --resume may raise it.")
@click.option("--epochs", type=POSITIVE, help="The total in passes through the data, instead.")
@setting("--batch-size", click.IntRange(2, 10**5), "Real images a step, of all processes together.")
@setting("--latent-dim", click.IntRange(1, 10**4), "Numbers in a latent z.")
@click.option("--lr", type=RATE, help="Adam's learning rate, of both players.")
@setting("--lr-g", RATE, "G's learning rate.")
@setting("--lr-d", RATE, "D's learning rate.")
@setting("--average", click.FloatRange(0, 1, max_open=True), "Decay of G's running average, or 0.")
@setting("--n-critic", POSITIVE, "Updates of D for each of G.")
@setting("--loss", click.Choice(["non-saturating", "minimax"]), "G's loss.")
@setting("--seed", SEED, "Seed of all random numbers.")
@setting("--device", click.Choice(["auto", "cpu", "cuda", "mps"]), "auto: a GPU if there is one.")
@click.option(
    "--bf16",
    is_flag=True,
    default=None,
    help="Forward passes in bfloat16: coarser; faster for conv, on GPUs, and on CPUs with bfloat16 "
    "units that do not round float32 anyway (see below).",
)
@click.option(
    "--compile",
    is_flag=True,
    default=None,
    help="Compile the step: a slow start; measure whether it pays.",
)
@setting("--sample-every", POSITIVE, "Steps between image grids.")
@setting("--checkpoint-every", POSITIVE, "Steps between checkpoints.")
@click.option("--tensorboard", is_flag=True, help="Write scalars to --out/tensorboard, too.")
def train(**options: Any) -> None:
    """Train MODEL until it has made its total of steps, and write the run into --out.

    \b
    maxout  chapter 7's: batch-norm G 100-1200-1200-784, maxout D with dropout
    mlp     of many tutorials: G 100-256-512-1024-784, D 784-1024-512-256-1
    conv    convolutional, batch norm in both

    Both players use Adam with betas (0.5, 0.999). maxout's learning rates fall linearly over the
    last 60 % of the total, to 2 %; where --resume raises the total they follow the new one from the
    step reached, and so rise again. Matrices are multiplied at torch's precision "medium":
    inputs rounded to bfloat16 on CPUs with AMX, exact float32 on others, TF32 on GPUs.

    --out gets checkpoint.pt (one before the first step, and at the end), metrics.json and
    samples/. A run that was stopped goes on with --resume as if it had not been, bit for bit on a
    CPU, from its last checkpoint.

    On several GPUs: torchrun --nproc-per-node N -m ganlib train ... Each process draws its own
    share of the batch and the gradients are averaged. Batch norm's statistics are those of each
    process, the recorded losses those of process 0. --resume takes as many processes as before.
    """
    try:
        _train(options)
    except KeyboardInterrupt:
        _say_how_to_go_on(options)
        sys.exit(130)


def _say_how_to_go_on(options: dict[str, Any]) -> None:
    told = options["out"] / "metrics.json"
    again = shlex.join(["ganlib", "train", options["model"], "--out", str(options["out"])])
    text = "Interrupted before the first checkpoint."
    if told.exists():
        found = re.search(r'^ "steps": (\d+),$', told.read_text(errors="replace"), re.MULTILINE)
        step = f"step {found[1]}" if found else "the last checkpoint"
        text = f"Interrupted; {step} is saved. To go on from it: {again} --resume"
    if _is_rank_0():
        click.echo(text, err=True)


def _is_rank_0() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _lacks_memory(error: Exception) -> bool:
    told = str(error).lower()  # torch's errors, of CPUs, of MPS and of CUDA in its two kinds
    return isinstance(error, MemoryError) or "tried to allocate" in told or "out of memory" in told


def _train(options: dict[str, Any]) -> None:
    out = options["out"]
    if options["steps"] and options["epochs"]:
        raise Refused("one of --steps and --epochs expected, got both")
    writer_class = _summary_writer() if options["tensorboard"] else None
    import torch

    from ganlib import runs

    torch.set_float32_matmul_precision("medium")
    n_processes = runs.join_processes()
    contents = runs.from_rank_0(lambda: runs.open_folder(out, options["resume"]))
    old = asdict(contents["settings"]) if contents else None
    device, values = _values(options, old, n_processes)
    images = runs.from_rank_0(lambda: _training_images(values["dataset"], options)).to(device)
    if options["epochs"]:
        values["steps"] = math.ceil(options["epochs"] * len(images) / values["batch_size"])
    if old and values["steps"] < old["steps"]:
        raise ValueError(
            f"a total of {old['steps']} steps or more expected, with which the run in {out} "
            f"was begun, got {values['steps']}"
        )
    settings = runs.Settings(**values)
    state = runs.new_state(settings, images, contents)
    runs.from_rank_0(lambda: runs.make_folder(out))
    if old and settings.decay and settings.steps > old["steps"]:
        click.echo("The learning rates follow the new total from here, and so rise again.")
    if contents and state.step >= settings.steps:
        click.echo(f"The run in {out} has its {state.step} steps; a larger --steps goes on.")
        return
    told = {"commands": contents["commands"], "seconds": contents["seconds"]} if contents else {}
    writer = None
    if writer_class is not None and runs.rank() == 0:
        writer = writer_class(out / "tensorboard", purge_step=state.step)
    try:
        runs.train_run(state, settings, images, out, command=_command(), writer=writer, **told)
    except (ValueError, RuntimeError) as error:
        if not settings.compile or _lacks_memory(error):
            raise
        what = str(error).strip().splitlines()[0]
        raise Refused(f"--compile fails here, leave it out: {what}") from error
    except FloatingPointError as error:
        raise click.ClickException(f"{error}. The last checkpoint is whole.") from error
    finally:
        if writer is not None:
            writer.close()
    runs.leave_processes()


def _training_images(dataset: str, options: dict[str, Any]) -> Any:
    from ganlib import runs

    download = options["download"]
    return runs.load_images(dataset, "train", options["data_dir"], download=download)[0]


def _values(
    options: dict[str, Any], old: dict[str, Any] | None, n_processes: int
) -> tuple[Any, dict[str, Any]]:
    """The device, and the settings: the options given, else the old run's or the defaults.

    Refused are an unknown device, what contradicts the old run (its total may change) and what
    does not fit together.
    """
    from ganlib import runs

    lr, out = options["lr"], options["out"]
    given = {"lr_g": lr, "lr_d": lr} | {k: v for k, v in options.items() if v is not None}
    given = {k: v for k, v in given.items() if k in runs.SETTINGS and v is not None}
    if "device" in given:
        given["device"] = runs.pick_device(given["device"], n_processes).type
    if old and n_processes != old["n_processes"]:
        raise ValueError(
            f"the run in {out} was begun by {old['n_processes']} processes, got {n_processes}: "
            f"torchrun --nproc-per-node {old['n_processes']}"
        )
    for name, value in given.items():
        if old and name != "steps" and value != old[name]:
            raise ValueError(
                f"the run in {out} has {_flag(name)} {old[name]}, got {value}: leave the option "
                "out, or start a run in another --out"
            )
    values: dict[str, Any] = (
        (old or COMMON | MODELS[options["model"]]) | given | {"n_processes": n_processes}
    )
    device = runs.pick_device(values["device"], n_processes)
    _check(values)
    return device, values | {"device": device.type}


def _check(values: dict[str, Any]) -> None:
    """Refuse values that fit their own ranges, but not each other."""
    if values["model"] == "conv" and values["dataset"] == "cifar10":
        raise ValueError(
            "conv draws 28 x 28 gray images, those of cifar10 are 32 x 32 in color: take maxout "
            "or mlp"
        )
    for name in ("lr_g", "lr_d", "average"):
        if not math.isfinite(values[name]):
            raise ValueError(f"a finite --{_flag(name)} expected, got {values[name]}")
    batch, n = values["batch_size"], values["n_processes"]
    if batch % n or batch < 2 * n:
        raise ValueError(
            f"a --batch-size expected that {n} processes share equally, 2 or more for each, got "
            f"{batch}"
        )
    if values["compile"] and n > 1:
        raise ValueError(f"--compile works in one process, got {n}: leave it out")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Refused("--tensorboard needs a package: pip install tensorboard") from error
    return SummaryWriter


def _command() -> str:
    """The command line of this process, as one would type it."""
    n = os.environ.get("LOCAL_WORLD_SIZE")
    start = "ganlib" if n is None else f"torchrun --nproc-per-node {n} -m ganlib"
    return f"{start} {shlex.join(sys.argv[1:])}"


@main.command()
@click.argument("run", type=PATH)
@click.option("--out", type=FILE, required=True, help="The PNG to write.")
@click.option("--n", type=click.IntRange(1, 10**5), default=64, show_default=True,
              help="Number of images.")  # fmt: skip
@click.option("--seed", type=SEED, default=0, show_default=True)
def sample(run: Path, out: Path, n: int, seed: int) -> None:
    """Draw a grid of images from RUN, a run's folder or checkpoint.

    By the running average of G, if the run has one.
    """
    if out.suffix.lower() != ".png":
        raise Refused(f"--out FILE.png expected, got {out}")
    import torch

    from ganlib import runs

    torch.set_float32_matmul_precision("medium")
    runs.write_grid(out, runs.draw_samples(runs.load_run(run), n, seed))
    click.echo(f"{n} images in {out}")


@main.command()
@click.argument("run", type=PATH)
@click.option("--n", type=click.IntRange(10, 10**5), default=2000, show_default=True,
              help="Number of generated images.")  # fmt: skip
@data_dir
@download
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--json", "json_file", type=FILE, help="Write the table into this file, too.")
def evaluate(
    run: Path, n: int, data_dir: Path | None, download: bool, seed: int, json_file: Path | None
) -> None:
    """Measure images of RUN, a run's folder or checkpoint, as chapter 9 does, beside real ones.

    Real images are held-out ones (for the Parzen window, which is scored on those, training
    images). The digit classifier's measures are for digits, mnist5k and mnist, only.
    """
    import torch

    from ganlib import runs

    torch.set_float32_matmul_precision("highest")  # rounding would move distances and scores
    contents = runs.load_run(run)
    if json_file is not None:
        runs.make_writable(json_file.parent)  # before the evaluation, not after it
    rows = runs.evaluate_run(contents, n, seed, data_dir, download)
    dataset, step = contents["settings"].dataset, contents["state"]["step"]
    click.echo(f"{run}: {contents['settings'].model} on {dataset}, step {step}")
    click.echo(f"{'':28} {'real':>10} {'generated':>10}  taken on")
    for row in rows:
        click.echo(f"{row.measure:28} {row.real:10.4g} {row.fake:10.4g}  {row.sizes}")
    if dataset not in runs.DIGITS:
        click.echo(f"The digit classifier does not apply to {dataset}: its measures are left out.")
    if json_file is not None:
        told = {"command": _command(), **runs.provenance(torch.device("cpu"))}
        told |= {"step": step, "n": n, "seed": seed, "measures": [row._asdict() for row in rows]}
        runs.write_json(json_file, told)
