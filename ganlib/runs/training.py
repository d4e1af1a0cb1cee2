"""A run from its first step, or its last checkpoint, to its total; process 0 writes its folder."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from ganlib.data import image_sampler, load_images
from ganlib.records import write_record
from ganlib.runs.checkpoint import save_checkpoint
from ganlib.runs.evaluation import draw_pictures
from ganlib.runs.folder import CHECKPOINT, METRICS, grid_file, progress_record, reading, write_grid
from ganlib.runs.parallel import average_gradients, from_all_ranks, rank
from ganlib.runs.settings import GAMES, Settings, bare, new_networks
from ganlib.runs.state import load_state_dict, random_states, set_random_states, state_dict
from ganlib.trainer import State, running_average, train, train_step

LOG_EVERY = 50
FIXED_SEED = 1  # of the latents that a run's grids show


@dataclass(frozen=True)
class Session:
    """One call of `ganlib train`; `commands`, `moves` and `seconds` are those of earlier ones.

    `moves` says at which steps the run went from one device to another; `writer` is a SummaryWriter
    of TensorBoard or None.
    """

    out: Path
    command: str
    commands: tuple[str, ...] = ()
    moves: tuple[dict[str, Any], ...] = ()
    seconds: float = 0.0
    writer: Any = None
    began: float = field(default_factory=time.perf_counter)


def load_training_images(dataset: str, data_dir: Path | None, download: bool) -> Tensor:
    """The images that a run of this data set trains on."""
    return load_images(dataset, "train", data_dir, download=download)[0]


def new_session(
    settings: Settings, contents: dict[str, Any] | None, out: Path, command: str, writer: Any
) -> Session:
    """The session that goes on from a checkpoint's contents, or the first."""
    if contents is None:
        return Session(out, command, writer=writer)
    moves, old = contents["moves"], contents["settings"].device
    if old != settings.device:
        move = {"step": contents["state"]["step"], "from": old, "to": settings.device}
        moves = [*moves, move | {"random_numbers": "restarted"}]
    return Session(
        out, command, tuple(contents["commands"]), tuple(moves), contents["seconds"], writer
    )


def new_state(settings: Settings, images: Tensor, contents: dict[str, Any] | None = None) -> State:
    """The state before the first step, or that of a checkpoint's contents.

    Each process gets random numbers of its own. Those of another device cannot be gone on with:
    there they start again, from a seed that depends on the step.
    """
    torch.manual_seed(settings.seed)
    generator, discriminator = new_networks(settings, images.cpu().float().mean(0) / 255)
    seed = settings.seed + rank() * 1_000_003  # far from the seeds that people choose
    moved = contents is not None and contents["settings"].device != settings.device
    if contents is not None and moved:
        seed += contents["state"]["step"]
    if rank() or moved:
        torch.manual_seed(seed)
    generator, discriminator = generator.to(images.device), discriminator.to(images.device)
    average = running_average(generator, settings.average) if settings.average else None
    opt_g, opt_d = (
        Adam(network.parameters(), lr, betas=(settings.beta1, settings.beta2), fused=True)
        for network, lr in ((generator, settings.lr_g), (discriminator, settings.lr_d))
    )
    rng = torch.Generator(images.device).manual_seed(seed)
    state = State(generator, discriminator, opt_g, opt_d, rng, average=average)
    if contents is not None:
        own = random_states(state)
        with reading("a state"):
            load_state_dict(state, contents["state"] | ({"random": own} if moved else {}))
            set_random_states(state, own if moved else contents["random"][rank()])
    return state


def write_scalars(state: State, writer: Any) -> None:
    """Give TensorBoard what was recorded at this step."""
    for name, rows in state.history.scalars.items():
        if writer is not None and rows[-1][0] == state.step:
            writer.add_scalar(name, rows[-1][1], state.step)


def save_grid(state: State, settings: Settings, session: Session) -> None:
    """Write the picture of this step, drawn in float32."""
    if rank() == 0:
        generator = bare(state.sampling_generator)
        images = draw_pictures(generator, settings.latent_dim, 64, FIXED_SEED)
        write_grid(grid_file(session.out, state.step), images, "ganlib train")


def save_run(state: State, settings: Settings, session: Session) -> None:
    """Write the run's checkpoint and metrics.json, with the random states of all processes."""
    random = from_all_ranks(random_states(state))
    if rank() == 0:
        kept = {
            "settings": asdict(settings),
            "state": state_dict(state),
            "random": random,
            "seconds": session.seconds + time.perf_counter() - session.began,
            "commands": [*session.commands, session.command],
            "moves": list(session.moves),
        }
        save_checkpoint(session.out / CHECKPOINT, kept)
        write_record(session.out / METRICS, progress_record(kept, state.rng.device))


def _compiled_step() -> Callable[..., dict[str, Tensor]]:
    from ganlib.runs.compiled import compiled_step  # a second to import

    return compiled_step()


def train_run(state: State, settings: Settings, images: Tensor, session: Session) -> None:
    """Train until settings.steps and write the run into its folder."""
    if settings.n_processes > 1:
        average_gradients(state)
    share = settings.batch_size // settings.n_processes
    step = _compiled_step() if settings.compile else train_step

    def before_step(state: State) -> None:
        if state.step % LOG_EVERY == 0:
            write_scalars(state, session.writer)

    def checkpoint(state: State) -> None:
        if state.step == settings.steps:
            save_grid(state, settings, session)
        save_run(state, settings, session)

    try:
        train(
            state,
            image_sampler(images, share, settings.latent_dim),
            *GAMES[settings.loss].losses(),
            until=settings.steps,
            n_critic=settings.n_critic,
            log_every=LOG_EVERY,
            step=step,
            before_step=before_step,
            snapshot=lambda state: save_grid(state, settings, session),
            snapshot_at=range(0, settings.steps, settings.sample_every),
            checkpoint=checkpoint,
            checkpoint_every=settings.checkpoint_every,
            progress=rank() == 0,
        )
    except Exception:
        if state.step == 0 and not session.commands and rank() == 0:  # it may be tried otherwise
            for name in (CHECKPOINT, METRICS):
                (session.out / name).unlink(missing_ok=True)
        raise
    write_scalars(state, session.writer)
