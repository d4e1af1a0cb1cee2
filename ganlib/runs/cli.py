"""The command line, `ganlib` or `python -m ganlib`: train, sample, evaluate.

Here are the options and the one-line errors; the work is done by the other modules of
`ganlib.runs`, imported when a command runs, so that `--help` does not wait for torch.
"""

import io
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

from ganlib.runs.settings import COMMON, DATASETS, GAMES, MODELS, TYPES, Settings, processes, settle

POSITIVE, SEED = click.IntRange(1, 10**9), click.IntRange(0, 2**63 - 1)
RATE, SHARE = click.FloatRange(min=0, min_open=True), click.FloatRange(0, 1, max_open=True)
OUT_OF_MEMORY = "out of memory: take a smaller --batch-size, --latent-dim or --n"


class PathType(click.Path):
    """As click's, but "~" is the home folder, and the empty path is refused (pathlib's ".")."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not str(value):
            self.fail("is empty", param)
        try:
            value = Path(value).expanduser()
        except RuntimeError as error:
            self.fail(f"{value}: {error}", param)
        return super().convert(value, param, ctx)


PATH, FILE = PathType(path_type=Path), PathType(path_type=Path, dir_okay=False)


class Refused(click.ClickException):
    """An error in one line, said by process 0 where there are more, with exit code 2."""

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))

    def show(self, file: Any = None) -> None:
        if not _speaks():
            time.sleep(1)  # at the first exit torchrun stops all: process 0 has to speak before
        else:
            super().show(file)


class Commands(click.Group):
    """Commands whose expected errors each become one line: click's, ganlib's and the machine's."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a "?" where the terminal has no such letter
        return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # as in `ganlib ... | head`: click's own matter
            raise
        except click.UsageError as error:
            raise Refused(error.format_message()) from error
        except ConnectionResetError as error:  # said by each that is left: process 0 may be gone
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)
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
    default = ", ".join(f"{model.defaults.get(name)} ({key})" for key, model in MODELS.items())
    shown = str(COMMON[name]) if name in COMMON else default
    return click.option(flag, type=kind, help=f"{explanation} Default: {shown}.")


run_argument = click.argument("run", type=PATH)
seed_option = click.option("--seed", type=SEED, default=0, show_default=True)
force = click.option(
    "--force", is_flag=True, help="Replace a file that another command made (never a run's own)."
)
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


TRAIN_HELP = f"""Train MODEL until it has made its total of steps, and write the run into --out.

\b
{chr(10).join(f"{name:7} {model.description}" for name, model in MODELS.items())}

\b
--loss, the game:
{chr(10).join(f"{name:15} {game.description}" for name, game in GAMES.items())}

Both players use Adam, at learning rates that stay as they are. Matrices are multiplied at torch's
precision "medium": inputs rounded to bfloat16 on CPUs with AMX, exact float32 on others, TF32 on
GPUs.

--out gets checkpoint.pt (one before the first step, and at the end), metrics.json and
samples/. A run that was stopped goes on with --resume as if it had not been, bit for bit on a
CPU, from its last checkpoint. With another --device it goes on there, with new random numbers,
and metrics.json says so.

On several GPUs: torchrun --nproc-per-node N -m ganlib train ... Each process draws its own
share of the batch and the gradients are averaged. Batch norm's statistics are those of each
process, the recorded losses those of process 0. --resume takes as many processes as before.
"""


@main.command("train", help=TRAIN_HELP)
@click.argument("model", type=click.Choice(list(MODELS)))
@click.option("--out", type=PATH, required=True, help="The run's folder.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, by its own options.")
@setting("--dataset", click.Choice(list(DATASETS)), "The training images.")
@data_dir
@download
@setting("--steps", POSITIVE, "Total of steps; --resume may raise it.")
@click.option("--epochs", type=POSITIVE, help="The total in passes through the data, instead.")
@setting("--batch-size", click.IntRange(2, 10**5), "Real images a step, of all processes together.")
@setting("--latent-dim", click.IntRange(1, 10**4), "Numbers in a latent z.")
@click.option("--lr", type=RATE, help="Adam's learning rate, of both players.")
@setting("--lr-g", RATE, "G's learning rate.")
@setting("--lr-d", RATE, "D's learning rate.")
@setting("--beta1", SHARE, "Adam's first beta, of both players.")
@setting("--beta2", SHARE, "Adam's second beta, of both players.")
@setting("--average", SHARE, "Decay of G's running average, or 0.")
@setting("--n-critic", POSITIVE, "Updates of D for each of G.")
@setting("--loss", click.Choice(list(GAMES)), "The losses of both players.")
@setting("--seed", SEED, "Seed of all random numbers.")
@setting("--device", click.Choice(["auto", "cpu", "cuda", "mps"]), "auto: a GPU if there is one.")
@click.option(
    "--bf16",
    is_flag=True,
    default=None,
    help="Forward passes in bfloat16: coarser; faster for dcgan, on GPUs, and on CPUs with "
    "bfloat16 units that do not round float32 anyway (see above).",
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
def train_command(**options: Any) -> None:
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
    if _speaks():
        click.echo(text, err=True)


def _speaks() -> bool:
    """Whether this process is the one that talks; each is, where the variables make no sense."""
    try:
        return processes()[0] == 0
    except ValueError:
        return True


def _lacks_memory(error: Exception) -> bool:
    told = str(error).lower()  # torch's errors, of CPUs, of MPS and of CUDA in its two kinds
    return isinstance(error, MemoryError) or "tried to allocate" in told or "out of memory" in told


def _train(options: dict[str, Any]) -> None:
    out = options["out"]
    if options["steps"] and options["epochs"]:
        raise Refused("one of --steps and --epochs expected, got both")
    writer_class = _summary_writer() if options["tensorboard"] else None
    import torch

    from ganlib.runs import folder, parallel, training

    torch.set_float32_matmul_precision("medium")
    n_processes = parallel.join_processes()
    contents = parallel.from_rank_0(lambda: folder.open_folder(out, options["resume"]))
    settings, images = _settings_and_images(options, contents, n_processes)
    state = training.new_state(settings, images, contents)
    parallel.from_rank_0(lambda: folder.make_folder(out))
    _say_what_changes(settings, contents)
    if contents and state.step >= settings.steps:
        click.echo(f"The run in {out} has its {state.step} steps; a larger --steps goes on.")
        return
    writer = None
    if writer_class is not None and parallel.rank() == 0:
        writer = writer_class(out / "tensorboard", purge_step=state.step)
    session = training.new_session(settings, contents, out, _command(), writer)
    try:
        training.train_run(state, settings, images, session)
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
    parallel.leave_processes()


def _say_what_changes(settings: Settings, contents: dict[str, Any] | None) -> None:
    if contents is None or not _speaks():
        return
    old = contents["settings"].device
    if settings.device != old:
        click.echo(f"From {old} to {settings.device}: the random numbers start again.")


def _settings_and_images(
    options: dict[str, Any], contents: dict[str, Any] | None, n_processes: int
) -> tuple[Settings, Any]:
    """The run's settings, and its training images on the device of this process."""
    from ganlib.runs import parallel, training

    lr, out = options["lr"], options["out"]
    given = {"lr_g": lr, "lr_d": lr} | {k: v for k, v in options.items() if v is not None}
    given = {k: v for k, v in given.items() if k in TYPES and v is not None}
    old = asdict(contents["settings"]) if contents else None
    values = settle(given, old, n_processes, out)
    device = parallel.pick_device(values["device"], n_processes)
    values["device"] = device.type
    images = parallel.from_rank_0(
        lambda: training.load_training_images(
            values["dataset"], options["data_dir"], options["download"]
        )
    )
    if options["epochs"]:
        values["steps"] = math.ceil(options["epochs"] * len(images) / values["batch_size"])
    if old and values["steps"] < old["steps"]:
        raise ValueError(
            f"a total of {old['steps']} steps or more expected, with which the run in {out} "
            f"was begun, got {values['steps']}"
        )
    return Settings(**values), images.to(device)


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


@main.command("sample")
@run_argument
@click.option("--out", type=FILE, required=True, help="The PNG to write.")
@click.option("--n", type=click.IntRange(1, 10**5), default=64, show_default=True,
              help="Number of images.")  # fmt: skip
@seed_option
@force
def sample_command(run: Path, out: Path, n: int, seed: int, force: bool) -> None:
    """Draw a grid of images from RUN, a run's folder or checkpoint.

    By the running average of G, if the run has one. The i-th image depends on RUN, --seed and i
    alone, not on --n. A file that is there is replaced if this command made it.
    """
    if out.suffix.lower() != ".png":
        raise Refused(f"--out FILE.png expected, got {out}")
    import torch

    from ganlib.runs import evaluation, folder

    torch.set_float32_matmul_precision("medium")
    contents = folder.load_run(run)
    folder.check_output(out, "ganlib sample", folder.checkpoint_of(run), force)
    folder.write_grid(out, evaluation.draw_samples(contents, n, seed), "ganlib sample")
    click.echo(f"{n} images in {out}")


@main.command("evaluate")
@run_argument
@click.option("--n", type=click.IntRange(10, 10**5), default=2000, show_default=True,
              help="Number of generated images.")  # fmt: skip
@data_dir
@download
@seed_option
@click.option("--json", "json_file", type=FILE, help="Write the table into this file, too.")
@force
def evaluate_command(
    run: Path,
    n: int,
    data_dir: Path | None,
    download: bool,
    seed: int,
    json_file: Path | None,
    force: bool,
) -> None:
    """Measure images of RUN, a run's folder or checkpoint, as chapter 9 does, beside real ones.

    Real images are held-out ones (for the Parzen window, which is scored on those, training
    images). The digit classifier's measures are for digits, mnist5k and mnist, only. A --json file
    that is there is replaced if this command made it.
    """
    import torch

    from ganlib.data import DIGITS
    from ganlib.records import provenance, write_record
    from ganlib.runs import evaluation, folder

    torch.set_float32_matmul_precision("highest")  # rounding would move distances and scores
    contents = folder.load_run(run)
    if json_file is not None:  # before the evaluation, not after it
        folder.check_output(json_file, "ganlib evaluate", folder.checkpoint_of(run), force)
        folder.make_writable(json_file.parent)
    rows = evaluation.evaluate_run(contents, n, seed, data_dir, download)
    dataset, step = contents["settings"].dataset, contents["state"]["step"]
    if json_file is not None:  # before the output, which a closed pipe may end
        told = {"made_by": "ganlib evaluate", "command": _command(), **provenance("cpu")}
        told |= {"step": step, "n": n, "seed": seed, "measures": [row._asdict() for row in rows]}
        write_record(json_file, told)
    click.echo(f"{run}: {contents['settings'].model} on {dataset}, step {step}")
    click.echo(f"{'':28} {'real':>10} {'generated':>10}  taken on")
    for row in rows:
        click.echo(f"{row.measure:28} {row.real:10.4g} {row.fake:10.4g}  {row.sizes}")
    if dataset not in DIGITS:
        click.echo(f"The digit classifier does not apply to {dataset}: its measures are left out.")
