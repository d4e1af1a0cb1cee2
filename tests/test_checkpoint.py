"""Checkpoints: exact through the file, whole at every moment, and never code."""

import copy
import hashlib
import io
import math
import os
import pickle
import signal
import zipfile
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch
from builders import adam_state, assert_equal
from torch import nn

from ganlib.data import image_sampler
from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.models import ConvDiscriminator, ConvGenerator, MaxoutDiscriminator, MLPGenerator
from ganlib.records import replacing
from ganlib.runs.checkpoint import MARK, load_checkpoint, save_checkpoint
from ganlib.runs.state import load_state_dict, state_dict
from ganlib.trainer import State, generate, train

IMAGES = torch.randint(0, 256, (50, 1, 28, 28), generator=torch.Generator().manual_seed(0)).byte()


def maxout_pair() -> tuple[nn.Module, nn.Module]:
    generator = MLPGenerator(6, (16, 12), batch_norm=True)
    return generator, MaxoutDiscriminator(hidden=7, pieces=2)


def conv_pair() -> tuple[nn.Module, nn.Module]:
    return ConvGenerator(6, channels=3), ConvDiscriminator(channels=3)


def new_state(pair: Any = maxout_pair, seed: int = 3, average: float | None = 0.8) -> State:
    torch.manual_seed(seed)
    return adam_state(pair(), seed=seed, average=average, betas=(0.5, 0.999))


def run(state: State, until: int, **options: Any) -> State:
    draw = image_sampler(IMAGES, 5, 6)
    train(state, draw, gan_loss_d, gan_loss_g, until=until, log_every=5, **options)
    return state


# Exact


@pytest.mark.parametrize("pair", [maxout_pair, conv_pair])
@pytest.mark.parametrize("average", [0.8, None])
def test_ten_steps_and_ten_more_through_the_file_equal_twenty_bit_for_bit(pair, average, tmp_path):
    whole = run(new_state(pair, average=average), 20)
    half = run(new_state(pair, average=average), 10)
    save_checkpoint(tmp_path / "c.pt", state_dict(half))
    torch.rand(17)
    rest = new_state(pair, seed=99, average=average)  # another start, other random numbers
    load_state_dict(rest, load_checkpoint(tmp_path / "c.pt"))
    assert rest.step == 10
    assert_equal(state_dict(run(rest, 20)), state_dict(whole))
    start = new_state(pair, average=average)
    first = next(iter(start.generator.parameters()))
    assert not torch.equal(first, next(iter(rest.generator.parameters())))


def test_the_comparison_of_states_sees_a_dropout_mask_that_differs():
    a, b = new_state(), new_state()
    torch.manual_seed(1)
    run(a, 1)
    torch.manual_seed(2)
    run(b, 1)
    with pytest.raises(AssertionError):
        assert_equal(state_dict(a), state_dict(b))


def test_snapshots_and_the_history_come_back_as_they_were(tmp_path):
    z = torch.randn(2, 6)
    state = run(new_state(), 12, snapshot=lambda s: generate(s.generator, z), snapshot_at={0, 7})
    save_checkpoint(tmp_path / "c.pt", state_dict(state))
    other = new_state(seed=4)
    load_state_dict(other, load_checkpoint(tmp_path / "c.pt"))
    assert other.history.scalars == state.history.scalars
    assert list(other.history.snapshots) == [0, 7]
    assert all(
        torch.equal(x, state.history.snapshots[s]) for s, x in other.history.snapshots.items()
    )
    assert [type(x) for x in other.history.scalars["grad/D"][-1]] == [int, float]


def test_checkpoints_are_made_before_the_first_step_every_n_th_and_at_the_end_with_all_scalars():
    seen: list[tuple[int, int]] = []

    def checkpoint(state: State) -> None:
        seen.append((state.step, len(state.history.scalars.get("loss/D", []))))

    state = run(new_state(), 11, checkpoint=checkpoint, checkpoint_every=3)
    assert seen == [(s, s) for s in (0, 3, 6, 9, 11)]
    run(state, 11, checkpoint=checkpoint, checkpoint_every=3)
    assert len(seen) == 5
    run(state, 13, checkpoint=checkpoint, checkpoint_every=3)
    assert seen[5:] == [(12, 12), (13, 13)]


def test_a_step_whose_loss_is_not_finite_never_reaches_the_checkpoint():
    kept: list[int] = []

    def loss_d(generator: nn.Module, discriminator: nn.Module, batch: Any) -> Any:
        loss, logs = gan_loss_d(generator, discriminator, batch)
        return loss * (math.nan if state.step == 6 else 1.0), logs

    state = new_state()
    draw = image_sampler(IMAGES, 5, 6)
    with pytest.raises(FloatingPointError, match="loss/D is nan at step 7"):
        train(state, draw, loss_d, gan_loss_g, until=20, log_every=50,
              checkpoint=lambda s: kept.append(s.step), checkpoint_every=1)  # fmt: skip
    assert kept == [0, 1, 2, 3, 4, 5, 6]


def loss_g_of_bad_gradient(generator: nn.Module, discriminator: nn.Module, batch: Any) -> Any:
    """A finite value; its gradient is 0 / 0."""
    loss, logs = gan_loss_g(generator, discriminator, batch)
    x = generator(batch[1])
    return loss + (x - x.detach()).square().sum().sqrt(), logs


@pytest.mark.parametrize(("until", "every"), [(1, 1), (3, 1), (3, 2), (3, 1000)])
@pytest.mark.parametrize("good", [0, 4])  # steps before with a loss that is as it should be
def test_weights_that_are_not_finite_are_never_saved_and_the_last_file_stays(
    good, until, every, tmp_path
):
    path, draw = tmp_path / "c.pt", image_sampler(IMAGES, 5, 6)
    saved: list[int] = []

    def checkpoint(state: State) -> None:
        save_checkpoint(path, state_dict(state))
        saved.append(state.step)

    state = new_state()
    run(state, good, checkpoint=checkpoint)
    with pytest.raises(FloatingPointError, match=r"is nan at step \d: training stopped"):
        train(state, draw, gan_loss_d, loss_g_of_bad_gradient, until=good + until,
              checkpoint=checkpoint, checkpoint_every=every)  # fmt: skip
    kept = load_checkpoint(path)
    assert (kept["step"], saved[-1]) == (good, good)
    for part in ("generator", "discriminator", "average"):
        assert all(weight.isfinite().all() for weight in kept[part].values())


# Whole at every moment


def die_while_saving(path: Path, contents: dict[str, Any]) -> None:
    """In a child process: write half of the file, then be killed."""
    child = os.fork()
    if child == 0:
        try:
            buffer = io.BytesIO()
            torch.save(contents, buffer)
            with replacing(path) as file:
                file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_kill_in_the_middle_of_saving_leaves_the_last_good_file(tmp_path):
    path = tmp_path / "c.pt"
    good = state_dict(run(new_state(), 3))
    save_checkpoint(path, good)
    before = path.read_bytes()
    die_while_saving(path, state_dict(run(new_state(), 6)))
    left = [f.name for f in tmp_path.iterdir() if f != path]
    assert len(left) == 1  # half a file: the kill came in the middle
    assert path.read_bytes() == before
    assert_equal(load_checkpoint(path), copy.deepcopy(good))
    save_checkpoint(path, good)


def test_an_interrupt_while_saving_leaves_the_last_good_file_only(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})

    def fsync(number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_while_saving_is_named_and_leaves_the_last_good_file_only(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})
    (tmp_path / f".c.pt.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"/c\.pt cannot be written \(No space left on device\)"):
        save_checkpoint(path, {"step": 2, "weights": torch.ones(10**5)})
    assert load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("thing", [np.ones(3), np.float64(1.0), matplotlib.figure.Figure()])
def test_what_could_not_be_loaded_again_is_refused_when_it_is_saved(thing, tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})
    state = run(new_state(), 5, snapshot=lambda s: thing)
    with pytest.raises(ValueError, match="tensors, numbers, strings and containers of them"):
        save_checkpoint(path, state_dict(state))
    assert load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


# Foreign files


class Opens:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_file_with_pickled_code_is_refused_and_the_code_does_not_run(by_torch, tmp_path):
    path, trace = tmp_path / "c.pt", tmp_path / "trace"
    contents, buffer = {"state": Opens(trace)}, io.BytesIO()
    if by_torch:
        torch.save(contents, buffer)
    else:
        pickle.dump(contents, buffer, protocol=2)
    path.write_bytes(signed(buffer.getvalue()))
    with pytest.raises(ValueError, match=r"a checkpoint of ganlib expected, .*c\.pt is none"):
        load_checkpoint(path)
    assert not trace.exists()


def foreign_bytes() -> dict[str, bytes]:
    whole, zipped, rng = io.BytesIO(), io.BytesIO(), np.random.default_rng(0)
    torch.save({"step": 1, "weights": torch.randn(1000)}, whole)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    noise = {f"noise {i}": rng.bytes(int(n)) for i, n in enumerate(rng.integers(1, 300, 15))}
    return {
        "empty": b"",
        "text": b"no checkpoint\n",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
        "zip": zipped.getvalue(),
        "cut": whole.getvalue()[:-100],
        "half": whole.getvalue()[:2000],
        **noise,
    }


@pytest.mark.parametrize("what", foreign_bytes())
def test_a_foreign_or_damaged_file_is_refused_by_its_name(what, tmp_path):
    path = tmp_path / "c.pt"
    for content in (foreign_bytes()[what], signed(foreign_bytes()[what])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a checkpoint of ganlib expected, .*c\.pt is none"):
            load_checkpoint(path)


def test_a_changed_bit_anywhere_is_found(tmp_path):
    path = tmp_path / "c.pt"
    contents = state_dict(run(new_state(), 2))
    save_checkpoint(path, contents)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, 8 * len(whole), 200), *range(8 * (len(whole) - 61), 8 * len(whole))]
    for place in places:
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(
            ValueError, match=r"a checkpoint of ganlib expected, .*c\.pt is (none|dam)"
        ):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert_equal(load_checkpoint(path), contents)


def test_a_damaged_weight_is_called_damage_and_a_file_without_a_checksum_none(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"weights": torch.full((1000,), 1.5)})
    whole = path.read_bytes()
    i = whole.index(np.float32(1.5).tobytes())
    path.write_bytes(whole[:i] + np.float32(1.25).tobytes() + whole[i + 4 :])
    with pytest.raises(ValueError, match=r"c\.pt is damaged: its checksum is another"):
        load_checkpoint(path)
    torch.save({"weights": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"c\.pt is none: it lacks the checksum at the end"):
        load_checkpoint(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"c\.pt is none: it lacks the checksum at the end"):
        load_checkpoint(path)


def signed(body: bytes) -> bytes:
    """With the checksum that a checkpoint has."""
    return body + MARK + hashlib.sha256(body).digest()


def test_a_tensor_alone_is_no_checkpoint_and_a_missing_file_is_said_to_be_missing(tmp_path):
    buffer = io.BytesIO()
    torch.save(torch.ones(2), buffer)
    (tmp_path / "t.pt").write_bytes(signed(buffer.getvalue()))
    with pytest.raises(ValueError, match=r"t\.pt holds Tensor"):
        load_checkpoint(tmp_path / "t.pt")
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_state_is_refused_where_its_parts_networks_or_devices_are_others():
    contents = state_dict(run(new_state(), 2))
    with pytest.raises(ValueError, match=r"with \['discriminator', 'generator', 'opt_d'.*expected"):
        load_state_dict(new_state(average=None), contents)
    with pytest.raises(ValueError, match=r"expected, got \['a'\]"):
        load_state_dict(new_state(), {"a": 1})
    with pytest.raises(ValueError, match="the saved generator does not fit this state"):
        load_state_dict(new_state(conv_pair), contents)
    contents["random"]["devices"] = ["cuda", "cuda"]
    with pytest.raises(ValueError, match=r"on \['cpu', 'cpu'\] expected, got \['cuda', 'cuda'\]"):
        load_state_dict(new_state(), contents)
