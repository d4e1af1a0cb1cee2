"""Training runs in folders, by one process or more: what the command line does.

A run's folder holds checkpoint.pt (its settings and all that training changes), metrics.json (what
it was made by and on, its seconds and losses), samples/step-NNNNNN.png (grids of one fixed latent
sample) and, if wanted, tensorboard/. Each file is replaced as a whole.
"""

import atexit
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Adam

import ganlib
from ganlib.data import DATASETS, image_sampler, load_images
from ganlib.losses import gan_loss_d, gan_loss_g, in_bfloat16, minimax_loss_g
from ganlib.metrics import Comparison, evaluate_images, load_digit_classifier
from ganlib.models import (
    ConvDiscriminator,
    ConvGenerator,
    MaxoutDiscriminator,
    MLPGenerator,
    mlp,
)
from ganlib.trainer import (
    State,
    average_gradients,
    generate,
    load_checkpoint,
    replacing,
    running_average,
    save_checkpoint,
    train,
)

LOG_EVERY, POINTS = 50, 1000
CHECKPOINT, METRICS = "checkpoint.pt", "metrics.json"
KEPT = {"state": dict, "random": list, "seconds": float, "commands": list}
LOSSES_G = {"non-saturating": gan_loss_g, "minimax": minimax_loss_g}
DIGITS = ("mnist5k", "mnist")  # what the book's classifier can judge


@dataclass(frozen=True)
class Settings:
    """What determines a run; its checkpoint carries it. `steps` is the total.

    Over the last share `decay` of the steps the learning rates fall linearly to 2 %. `average` is
    the decay of G's running average, 0 for none. `batch_size` is that of all processes together.
    """

    model: str
    dataset: str
    steps: int
    batch_size: int
    latent_dim: int
    lr_g: float
    lr_d: float
    decay: float
    average: float
    n_critic: int
    loss: str
    seed: int
    device: str
    bf16: bool
    compile: bool
    sample_every: int
    checkpoint_every: int
    n_processes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, 32, 32) if self.dataset == "cifar10" else (1, 28, 28)


SETTINGS = tuple(field.name for field in fields(Settings))

# Networks and state


def new_networks(
    settings: Settings, pixel_means: Tensor | None = None
) -> tuple[nn.Module, nn.Module]:
    """The model's generator and discriminator.

    `maxout` is chapter 7's pair, `conv` the convolutional one, `mlp` that of many tutorials: G
    latent-256-512-1024-pixels with ReLU, D pixels-1024-512-256-1 with LeakyReLU, nothing else.
    """
    shape, latent_dim = settings.image_shape, settings.latent_dim
    if settings.model == "conv":
        layout = torch.channels_last  # on an AMX CPU 5 % less process time, --bf16: 8 %
        generator, discriminator = ConvGenerator(latent_dim), ConvDiscriminator()
        return generator.to(memory_format=layout), discriminator.to(memory_format=layout)
    if settings.model == "mlp":
        leaky = partial(nn.LeakyReLU, 0.2)
        layers = mlp([math.prod(shape), 1024, 512, 256, 1], leaky)
        discriminator = nn.Sequential(nn.Flatten(), layers, nn.Flatten(0))
        return MLPGenerator(latent_dim, (256, 512, 1024), shape), discriminator
    generator = MLPGenerator(
        latent_dim, image_shape=shape, batch_norm=True, pixel_means=pixel_means
    )
    return generator, MaxoutDiscriminator(shape)


def new_state(settings: Settings, images: Tensor, contents: dict[str, Any] | None = None) -> State:
    """The state before the first step, or that of a checkpoint's contents.

    Each process gets random numbers of its own.
    """
    torch.manual_seed(settings.seed)
    generator, discriminator = new_networks(settings, images.cpu().float().mean(0) / 255)
    seed = settings.seed + rank() * 1_000_003  # far from the seeds that people choose
    if rank():
        torch.manual_seed(seed)
    generator, discriminator = generator.to(images.device), discriminator.to(images.device)
    average = running_average(generator, settings.average) if settings.average else None
    opt_g, opt_d = (
        Adam(network.parameters(), lr, betas=(0.5, 0.999), fused=True)
        for network, lr in ((generator, settings.lr_g), (discriminator, settings.lr_d))
    )
    rng = torch.Generator(images.device).manual_seed(seed)
    state = State(generator, discriminator, opt_g, opt_d, rng, average=average)
    if contents is not None:
        with reading("a state"):
            state.load_state_dict(contents["state"])
            state.set_random_states(contents["random"][rank()])
    return state


# Processes and devices


def rank() -> int:
    """The number of this process among those that train together, 0 for the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def join_processes() -> int:
    """Join the other processes that torchrun started, if any; how many they are."""
    n = int(os.environ.get("WORLD_SIZE", "1"))
    if n > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        # After an error, too: gloo's threads would abort the process.
        atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    return n


def leave_processes() -> None:
    """Wait for the other processes, if any, and part."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(()))
        dist.destroy_process_group()


def from_rank_0(function: Callable[[], Any]) -> Any:
    """What `function()` returns, or raises for the user, in process 0, in all processes."""
    result, error = None, None
    if rank() == 0:
        try:
            result = function()
        except (ValueError, OSError) as raised:
            error = raised
    if dist.is_initialized():
        box = [result, error]
        dist.broadcast_object_list(box, src=0)
        result, error = box
    if error is not None:
        raise error
    return result


def pick_device(name: str, n_processes: int = 1) -> torch.device:
    """The device of this process; "auto" is cuda where there is one, else mps, else cpu."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    kind = next(kind for kind in there if there[kind]) if name == "auto" else name
    if not there.get(kind):
        raise ValueError(
            f"device {kind} is not available here: take cpu or auto (a run goes on only on the "
            "kind of device that it was begun on)"
        )
    if n_processes == 1:
        return torch.device(kind)
    if kind == "mps":
        raise ValueError("device mps works in one process only: take cpu, or no torchrun")
    if kind == "cpu":
        return torch.device(kind)
    local, n_local = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if n_local > torch.cuda.device_count():
        raise ValueError(
            f"as many GPUs as processes expected, got {torch.cuda.device_count()} GPUs and "
            f"{n_local} processes: lower --nproc-per-node"
        )
    torch.cuda.set_device(local)
    return torch.device(kind, local)


def provenance(device: torch.device) -> dict[str, str]:
    """When, on what and by which versions numbers were made."""
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    name = {"cpu": f"{cpu}, threads: {torch.get_num_threads()}", "mps": "Apple GPU"}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": name.get(device.type) or torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "ganlib": ganlib.__version__,
        "python": platform.python_version(),
    }


# A run's folder


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what foreign contents of a checkpoint raise into one ValueError."""
    try:
        yield
    except Exception as error:  # whatever they do to torch
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"a checkpoint of `ganlib train` expected, {what} is none, or another version's "
            f"({reason})"
        ) from error


def check_types(contents: dict[str, Any], types: dict[str, Any]) -> None:
    """TypeError for the first of the named contents that is not of its type."""
    for name, kind in types.items():
        if not isinstance(contents[name], kind):
            raise TypeError(f"{name} is of type {type(contents[name]).__name__}")


def load_run(path: Path) -> dict[str, Any]:
    """A run's checkpoint, from its folder or file, and its generator; ValueError for what is none.

    The generator is G's running average, if the run has one.
    """
    file = path / CHECKPOINT if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(
            f"no checkpoint {file}: give the folder of a run of `ganlib train`, or its {CHECKPOINT}"
        )
    contents = load_checkpoint(file)
    with reading(str(file)):
        settings = Settings(**contents["settings"])
        check_types(asdict(settings), {field.name: field.type for field in fields(Settings)})
        if settings.dataset not in DATASETS or settings.loss not in LOSSES_G:
            raise ValueError(f"dataset {settings.dataset!r}, loss {settings.loss!r}")
        check_types(contents, KEPT)
        check_types(contents["state"], {"step": int})
        generator = new_networks(settings)[0]
        if settings.average:
            average = running_average(generator, settings.average)
            average.load_state_dict(contents["state"]["average"])
            generator = average.module
        else:
            generator.load_state_dict(contents["state"]["generator"])
    return {"settings": settings, "generator": generator, **{name: contents[name] for name in KEPT}}


def open_folder(out: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a new run; refuses to mix the two up."""
    held = [name for name in (CHECKPOINT, METRICS) if (out / name).exists()]
    if resume and not held:
        raise FileNotFoundError(f"no run in {out} to go on with: leave out --resume to start one")
    if held and not resume:
        raise ValueError(f"{out} holds a run: add --resume to go on with it, or give another --out")
    return load_run(out) if resume else None


def make_writable(folder: Path) -> None:
    """Make the folder and see that it can be written into."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written into ({error.strerror}): take another"
        ) from error


def make_folder(out: Path) -> None:
    """Make a run's folder, without what a session left that was killed while it wrote."""
    make_writable(out)
    for names in (f".{CHECKPOINT}.*.part", f".{METRICS}.*.part", "samples/.step-*.png.*.part"):
        for left in out.glob(names):
            left.unlink()


def write_grid(path: Path, images: Tensor) -> None:
    """Write images (n, c, h, w) in [0, 1] as a PNG, eight in a row."""
    from PIL import Image

    from ganlib.plotting import image_array

    pixels = (255 * image_array(images, columns=8)).round().astype("uint8")
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, "PNG", optimize=True)


def write_json(path: Path, contents: dict[str, Any]) -> None:
    """Write a JSON file with one line for each key."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in contents.items()]
    with replacing(path) as file:
        file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())


def metrics(contents: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What metrics.json says: a run's provenance, and its history at 1,000 points at most."""
    history = {}
    for name, rows in contents["state"]["scalars"].items():
        every = math.ceil(len(rows) / POINTS)
        kept = rows[(len(rows) - 1) % every :: every].tolist()  # the last is among them
        history[name] = {"step": [int(s) for s, _ in kept], "value": [v for _, v in kept]}
    settings = contents["settings"]
    return {
        "command": contents["commands"][0],
        "resumed_by": contents["commands"][1:],
        **provenance(device),
        "n_processes": settings["n_processes"],
        "seconds": round(contents["seconds"], 1),
        "steps": contents["state"]["step"],
        "seed": settings["seed"],
        "options": settings,
        "history": history,
    }


# Training


def train_run(
    state: State,
    settings: Settings,
    images: Tensor,
    out: Path,
    *,
    command: str,
    commands: Sequence[str] = (),
    seconds: float = 0.0,
    writer: Any = None,
) -> None:
    """Train until settings.steps and write the run into `out`, by process 0.

    `commands` and `seconds` are those of earlier sessions; `writer` is a SummaryWriter of
    TensorBoard or None.
    """
    if settings.n_processes > 1:
        average_gradients(state)
    began, fixed = time.perf_counter(), torch.Generator().manual_seed(1)
    z_fixed = torch.randn(64, settings.latent_dim, generator=fixed).to(images.device)
    draw = image_sampler(images, settings.batch_size // settings.n_processes, settings.latent_dim)
    loss_d, loss_g = gan_loss_d, LOSSES_G[settings.loss]
    if settings.bf16:
        loss_d, loss_g = in_bfloat16(loss_d), in_bfloat16(loss_g)

    def before_step(state: State) -> None:
        left = 1 - state.step / settings.steps
        factor = max(min(left / settings.decay, 1.0), 0.02) if settings.decay else 1.0
        state.opt_g.param_groups[0]["lr"] = settings.lr_g * factor
        state.opt_d.param_groups[0]["lr"] = settings.lr_d * factor
        if writer is not None and state.step % LOG_EVERY == 0:
            write_scalars(state)

    def write_scalars(state: State) -> None:
        for name, rows in state.history.scalars.items():
            if rows[-1][0] == state.step:
                writer.add_scalar(name, rows[-1][1], state.step)

    def snapshot(generator: nn.Module) -> None:
        if rank() == 0:
            images = generate(generator, z_fixed)
            write_grid(out / "samples" / f"step-{state.step:06d}.png", images)

    def checkpoint(state: State) -> None:
        if state.step == settings.steps:
            snapshot(state.sampling_generator)
        random: list[Any] = [state.random_states()]
        if settings.n_processes > 1:
            random = settings.n_processes * random
            dist.all_gather_object(random, state.random_states())
        if rank() == 0:
            kept = {
                "settings": asdict(settings),
                "state": state.state_dict(),
                "random": random,
                "seconds": seconds + time.perf_counter() - began,
                "commands": [*commands, command],
            }
            save_checkpoint(out / CHECKPOINT, kept)
            write_json(out / METRICS, metrics(kept, images.device))

    try:
        train(
            state,
            draw,
            loss_d,
            loss_g,
            until=settings.steps,
            n_critic=settings.n_critic,
            log_every=LOG_EVERY,
            before_step=before_step,
            snapshot=snapshot,
            snapshot_at=range(0, settings.steps, settings.sample_every),
            checkpoint=checkpoint,
            checkpoint_every=settings.checkpoint_every,
            progress=rank() == 0,
            compile=settings.compile,
        )
    except Exception:
        if state.step == 0 and not commands and rank() == 0:  # a try that may be made otherwise
            for name in (CHECKPOINT, METRICS):
                (out / name).unlink(missing_ok=True)
        raise
    if writer is not None:
        write_scalars(state)


# Samples and measures


def draw_samples(contents: dict[str, Any], n: int, seed: int) -> Tensor:
    """n images of a run's generator."""
    latent_dim, rng = contents["settings"].latent_dim, torch.Generator().manual_seed(seed)
    return generate(contents["generator"], torch.randn(n, latent_dim, generator=rng))


def evaluate_run(
    contents: dict[str, Any], n: int, seed: int, data_dir: Path | None, download: bool
) -> list[Comparison]:
    """Chapter 9's measures of n samples; those of the digit classifier for digits only."""
    dataset = contents["settings"].dataset
    x_train, x_test = (
        load_images(dataset, split, data_dir, download=download)[0].float() / 255
        for split in ("train", "test")
    )
    classifier = load_digit_classifier() if dataset in DIGITS else None
    x_fake, rng = draw_samples(contents, n, seed), torch.Generator().manual_seed(seed)
    return evaluate_images(x_train, x_test, x_fake, classifier, rng=rng)
