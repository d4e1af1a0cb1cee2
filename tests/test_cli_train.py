"""`ganlib train`: what a run's folder holds, what the options do, and how a run may fail."""

import functools
import importlib
import json
import shutil
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import assert_equal
from cli_builders import SMALL, checkpoint_of, done, ganlib_command, refused
from PIL import Image

import ganlib
from ganlib import games
from ganlib.models import ConvGenerator
from ganlib.runs import cli, training
from ganlib.runs.evaluation import draw_pictures
from ganlib.runs.folder import progress_record
from ganlib.runs.settings import GAMES


def test_metrics_json_tells_what_the_run_was_made_by_and_on(run):
    told = json.loads((run / "metrics.json").read_text())
    assert (told["steps"], told["seed"], told["n_processes"]) == (60, 7, 1)
    assert (told["torch"], told["ganlib"]) == (torch.__version__, ganlib.__version__)
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["date"] == time.strftime("%Y-%m-%d")
    assert 0 < told["seconds"] < 600
    assert "threads: 1" in told["device"]
    assert told["resumed_by"] == []
    options = told["options"]
    assert (options["lr_g"], options["lr_d"], options["average"]) == (1e-3, 5e-4, 0.995)
    assert (options["beta1"], options["beta2"], options["loss"]) == (0.0, 0.99, "r1")
    assert (options["device"], options["batch_size"], options["latent_dim"]) == ("cpu", 16, 64)
    scalars = checkpoint_of(run)["state"]["scalars"]
    for name, rows in scalars.items():
        assert told["history"][name]["step"] == [int(step) for step, _ in rows.tolist()]
        assert told["history"][name]["value"] == [value for _, value in rows.tolist()]
    assert told["history"]["grad/G"]["step"] == [50, 60]


@pytest.mark.parametrize("n", [1, 999, 1000, 1001, 2500, 60_000])
def test_the_history_in_metrics_json_is_thinned_to_a_thousand_points_with_the_last(n):
    steps = torch.arange(1, n + 1, dtype=torch.float64)
    state = {"scalars": {"loss/D": torch.stack([steps, steps / 8], 1)}, "step": n}
    settings = {"n_processes": 1, "seed": 0}
    contents = {"state": state, "settings": settings, "commands": [""], "moves": [], "seconds": 0.0}
    kept = progress_record(contents, torch.device("cpu"))["history"]["loss/D"]
    assert min(n, 500) <= len(kept["step"]) <= 1000
    assert kept["step"][-1] == n
    assert len(set(np.diff(kept["step"]))) <= 1
    assert kept["value"] == [step / 8 for step in kept["step"]]


def test_grids_show_one_fixed_latent_sample_by_the_running_average_of_that_step(run):
    names = sorted(f.name for f in (run / "samples").iterdir())
    assert names == [f"step-{step:06d}.png" for step in (0, 25, 50, 60)]
    last = np.asarray(Image.open(run / "samples" / names[-1]))
    assert last.shape == (8 * 29 - 1, 8 * 29 - 1)
    weights, generator = checkpoint_of(run)["state"]["average"], ConvGenerator(64, channels=16)
    generator.load_state_dict({k.removeprefix("module."): v for k, v in weights.items()
                               if k != "n_averaged"})  # fmt: skip
    third = (255 * draw_pictures(generator, 64, 3, seed=1)[2, 0]).round().numpy()
    assert np.abs(last[:28, 58:86] - third).max() <= 1


def test_a_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        done("train", "conv", *SMALL, "--steps", 2, "--seed", seed, "--out", tmp_path / name)
    a, b, c = (checkpoint_of(tmp_path / name)["state"] for name in "abc")
    assert_equal(a, b)
    assert not torch.equal(a["random"]["rng"], c["random"]["rng"])
    name, weight = next(iter(a["generator"].items()))
    assert not torch.equal(weight, c["generator"][name])


def test_epochs_are_counted_in_passes_through_the_data(tmp_path, monkeypatch):
    images = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
    monkeypatch.setattr(training, "load_images", lambda *a, **k: (images, torch.zeros(10)))
    run = ["train", "conv", "--batch-size", 4, "--latent-dim", 2, "--out", tmp_path / "run"]
    done(*run, "--epochs", 3)
    assert checkpoint_of(tmp_path / "run")["state"]["step"] == 8  # 30 images by fours
    done(*run, "--epochs", 4, "--resume")
    assert checkpoint_of(tmp_path / "run")["state"]["step"] == 10


def test_options_reach_the_training(tmp_path, monkeypatch):
    seen: dict[str, Any] = {}

    def recorded(state: Any, *draw_and_losses: Any, **options: Any) -> None:
        seen.update(options, state=state, losses=draw_and_losses[1:])

    monkeypatch.setattr(training, "train", recorded)
    done("train", "mlp", "--loss", "minimax", "--n-critic", 3, "--average", 0, "--steps", 7,
         "--checkpoint-every", 2, "--sample-every", 3, "--out", tmp_path / "run")  # fmt: skip
    assert seen["losses"] == (games.gan_loss_d, games.minimax_loss_g)
    assert (seen["n_critic"], seen["until"], seen["checkpoint_every"]) == (3, 7, 2)
    assert list(seen["snapshot_at"]) == [0, 3, 6]  # and the last, see the grids below
    assert seen["state"].average is None
    sizes = [[tuple(p.shape) for p in net.parameters() if p.ndim == 2]
             for net in (seen["state"].generator, seen["state"].discriminator)]  # fmt: skip
    assert sizes[0] == [(256, 100), (512, 256), (1024, 512), (784, 1024)]
    assert sizes[1] == [(1024, 784), (512, 1024), (256, 512), (1, 256)]
    slopes = {m.negative_slope for m in seen["state"].discriminator.modules()
              if isinstance(m, torch.nn.LeakyReLU)}  # fmt: skip
    assert slopes == {0.2}
    group = seen["state"].opt_d.param_groups[0]
    assert (group["lr"], group["betas"], group["fused"]) == (2e-4, (0.5, 0.999), True)
    done("train", "conv", "--beta1", 0.25, "--beta2", 0.75, "--out", tmp_path / "other")
    assert seen["losses"] == (games.r1_loss_d, games.gan_loss_g)
    for optimizer in (seen["state"].opt_g, seen["state"].opt_d):
        assert optimizer.param_groups[0]["betas"] == (0.25, 0.75)


def test_bf16_rounds_the_forward_passes_and_little_else(tmp_path):
    run = ["train", "dcgan", *SMALL, "--average", 0, "--steps", 2, "--out"]
    done(*run, tmp_path / "fp32")
    done(*run, tmp_path / "bf16", "--bf16")
    a, b = (checkpoint_of(tmp_path / name)["state"]["discriminator"] for name in ("fp32", "bf16"))
    assert all(x.dtype == a[name.removeprefix("network.")].dtype for name, x in b.items())
    rounded = b["network.layers.2.weight"]
    assert (
        0 < (a["layers.2.weight"] - rounded).abs().mean() < 2e-4
    )  # two steps of at most 2e-4 each


@pytest.mark.parametrize("model", ["maxout", "mlp"])
def test_color_images_are_drawn_in_color(model, tmp_path, monkeypatch):
    images = torch.randint(0, 256, (10, 3, 32, 32)).byte()
    monkeypatch.setattr(training, "load_images", lambda *a, **k: (images, torch.zeros(10)))
    out = tmp_path / "run"
    done("train", model, *SMALL, "--dataset", "cifar10", "--steps", 1, "--out", out)
    assert np.asarray(Image.open(out / "samples" / "step-000001.png")).shape == (263, 263, 3)
    done("sample", out, "--out", tmp_path / "g.png", "--n", 3)
    assert np.asarray(Image.open(tmp_path / "g.png")).shape[2] == 3


def test_scalars_go_to_tensorboard_at_each_logged_step_and_a_resumed_run_purges(
    tmp_path, monkeypatch
):
    written: list[tuple[str, int]] = []
    opened: list[tuple[Path, int]] = []

    class SummaryWriter:
        def __init__(self, folder: Path, purge_step: int):
            opened.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def close(self) -> None:
            written.append(("closed", 0))

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    run = ["train", "conv", *SMALL, "--out", tmp_path / "run", "--tensorboard"]
    done(*run, "--steps", 52)
    assert [step for name, step in written if name == "loss/G"] == [50, 52]
    assert written[-1] == ("closed", 0)
    done(*run, "--steps", 53, "--resume")
    assert opened == [(tmp_path / "run" / "tensorboard", 0), (tmp_path / "run" / "tensorboard", 52)]
    assert [step for name, step in written if name == "grad/D"] == [50, 52, 53]


@pytest.mark.parametrize("model", ["conv", "dcgan"])
def test_a_compiled_run_with_r1_equals_a_plain_one(model, tmp_path, monkeypatch):
    traced = functools.partial(torch.compile, backend="aot_eager")  # but for the compiler
    monkeypatch.setattr(torch, "compile", functools.update_wrapper(traced, torch.compile))
    run = ["train", model, "--loss", "r1", *SMALL, "--steps", 3, "--device", "cpu", "--out"]
    done(*run, tmp_path / "plain")
    done(*run, tmp_path / "traced", "--compile")
    plain, found = (checkpoint_of(tmp_path / n)["state"]["scalars"] for n in ("plain", "traced"))
    assert found.keys() == plain.keys() >= {"loss/D", "loss/G", "R1"}
    for name, rows in plain.items():
        assert torch.allclose(found[name], rows, rtol=1e-3), name


def test_a_step_that_cannot_be_compiled_is_refused_in_one_line(tmp_path, monkeypatch):
    def train(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(training, "train", train)
    refused(tmp_path, "train", "conv", *SMALL, "--out", tmp_path / "run", "--compile",
            says=("--compile fails here, leave it out: no C++ compiler",))  # fmt: skip


@pytest.mark.parametrize("take", [lambda: torch.empty(10**14), lambda: bytes(10**15)])
def test_a_first_step_without_memory_costs_one_line_and_leaves_a_folder_for_another_try(
    take, tmp_path, monkeypatch
):
    run = ["train", "conv", *SMALL, "--steps", 1, "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "image_sampler", lambda *arguments: lambda rng: take())
        for compile in ([], ["--compile"]) if shutil.which("g++") else ([],):
            ran = ganlib_command(*run, *compile)
            assert ran.exit_code == 2
            assert ran.stderr == f"Error: {cli.OUT_OF_MEMORY}\n"
    assert [f.name for f in (tmp_path / "run").iterdir()] == ["samples"]
    done(*run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_named_with_a_remedy(tmp_path):
    refused(tmp_path, "train", "conv", "--out", tmp_path / "run", "--device", "cuda",
            says=("device cuda is not available here: take --device cpu or auto",))  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensorboard_is_named_with_the_way_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused(tmp_path, "train", "conv", "--out", tmp_path / "run", "--tensorboard",
            says=("--tensorboard needs a package: pip install tensorboard",))  # fmt: skip


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line_and_the_last_checkpoint(
    tmp_path, monkeypatch
):
    def loss_d(generator: Any, discriminator: Any, batch: Any) -> Any:
        loss, logs = inner(generator, discriminator, batch)
        steps.append(1)
        return loss * (float("nan") if len(steps) == 5 else 1.0), logs

    inner, steps = games.gan_loss_d, []
    monkeypatch.setattr(games, "gan_loss_d", loss_d)
    ran = ganlib_command("train", "conv", *SMALL, "--checkpoint-every", 2, "--steps", 9,
                         "--out", tmp_path / "run")  # fmt: skip
    assert ran.exit_code == 1
    assert "Error: loss/D is nan at step 5: training stopped." in ran.stderr
    assert "Traceback" not in ran.output
    assert checkpoint_of(tmp_path / "run")["state"]["step"] == 4


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_file_that_cannot_grow_ends_the_run_with_one_line_and_the_last_checkpoint(
    tmp_path, monkeypatch
):
    """The limit lies between the checkpoints before and after Adam has moments."""
    import resource

    out, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(cli, "_command", lambda: "ganlib")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, before[1]))
    try:
        ran = ganlib_command("train", "conv", *SMALL, "--steps", 2, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert ran.exit_code == 2
    assert ran.stderr == (
        f"Error: {out / 'checkpoint.pt'} cannot be written (File too large): it stays as it was\n"
    )
    assert checkpoint_of(out)["state"]["step"] == 0
    assert [f.name for f in out.glob(".*")] == []


@pytest.mark.parametrize(("steps", "kept"), [(1, 0), (3, 0)])
def test_weights_that_are_not_finite_are_never_saved_and_the_last_checkpoint_stays(
    steps, kept, tmp_path, monkeypatch
):
    """By a loss of G that is finite, with a gradient that is not."""
    inner, out = games.gan_loss_g, tmp_path / "run"

    def loss_g(generator: Any, discriminator: Any, batch: Any) -> Any:
        loss, logs = inner(generator, discriminator, batch)
        x = generator(batch[1])
        return loss + (x - x.detach()).square().sum().sqrt(), logs

    monkeypatch.setattr(games, "gan_loss_g", loss_g)
    ran = ganlib_command("train", "conv", *SMALL, "--checkpoint-every", 1, "--steps", steps,
                         "--out", out)  # fmt: skip
    assert ran.exit_code == 1
    assert "is nan at step 1: training stopped." in ran.stderr
    assert checkpoint_of(out)["state"]["step"] == kept
    for part in ("generator", "discriminator", "average"):
        for name, weight in checkpoint_of(out)["state"][part].items():
            assert weight.isfinite().all(), name


def test_a_picture_of_another_program_in_the_samples_of_a_new_run_is_not_replaced(tmp_path):
    out = tmp_path / "run"
    (out / "samples").mkdir(parents=True)
    Image.new("L", (9, 9)).save(out / "samples" / "step-000000.png")
    refused(tmp_path, "train", "conv", *SMALL, "--out", out,
            says=("step-000000.png is there, and is not of a run",))  # fmt: skip


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    done("train", "conv", *SMALL, "--steps", 1, "--out=~/x")
    assert checkpoint_of(tmp_path / "home" / "x")["state"]["step"] == 1
    assert [f.name for f in tmp_path.iterdir()] == ["home"]


def test_an_empty_ganlib_data_is_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GANLIB_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refused(tmp_path, "train", "conv", "--dataset", "mnist", "--no-download", "--out",
            tmp_path / "run", says=(f"no mnist in {tmp_path / 'cache' / 'ganlib'} ",))  # fmt: skip


def strict(path: Path) -> dict[str, Any]:
    """JSON as its standard has it: NaN and Infinity are none."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path.name} holds {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("model", ["maxout", "dcgan"])
def test_no_json_of_a_run_that_diverges_holds_a_nan(model, tmp_path):
    out, table = tmp_path / "run", tmp_path / "table.json"
    done("train", model, "--loss", "non-saturating", "--device", "cpu", *SMALL, "--lr", 1e4,
         "--steps", 6, "--out", out)  # fmt: skip
    told = strict(out / "metrics.json")
    assert max(told["history"]["loss/G"]["value"]) > 1e6
    done("evaluate", out, "--n", 10, "--json", table)
    assert len(strict(table)["measures"]) == 9


def test_a_record_of_a_run_with_a_nan_is_refused_in_one_line(tmp_path, monkeypatch):
    def spoiled(*arguments: Any) -> dict[str, Any]:
        return progress_record(*arguments) | {"seconds": float("nan")}

    monkeypatch.setattr(training, "progress_record", spoiled)
    out = tmp_path / "run"
    ran = ganlib_command("train", "conv", "--device", "cpu", *SMALL, "--steps", 1, "--out", out)
    assert ran.exit_code == 2, ran.output
    assert ran.stderr.strip().endswith("finite numbers expected in a record, got nan at seconds")
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize("game", list(GAMES))
def test_each_game_of_the_table_trains_by_the_two_losses_that_it_names(game, tmp_path, monkeypatch):
    told, seen = GAMES[game], []
    for name in {told.loss_d, told.loss_g}:
        module, function = name.split(":")
        inner = getattr(importlib.import_module(module), function)

        def spied(*arguments: Any, name: str = name, inner: Any = inner) -> Any:
            seen.append(name)
            return inner(*arguments)

        monkeypatch.setattr(f"{module}.{function}", spied)
    done("train", "conv", *SMALL, "--loss", game, "--steps", 1, "--out", tmp_path / "run")
    assert seen == [told.loss_d, told.loss_g]
    scalars = checkpoint_of(tmp_path / "run")["state"]["scalars"]
    assert ("loss/real" in scalars) == (game != "least-squares")


def test_d_and_g_of_least_squares_go_toward_their_labels(tmp_path):
    """D tells real from generated data on the labels' scale, 1 and 0, better than at the start."""
    done("train", "dcgan", "--loss", "least-squares", "--batch-size", 16, "--steps", 30,
         "--out", tmp_path / "run")  # fmt: skip
    scalars = checkpoint_of(tmp_path / "run")["state"]["scalars"]
    real, fake = (scalars[name][:, 1] for name in ("D(x)", "D(G(z))"))
    assert abs(real[-1] - 1) < abs(real[0] - 1) / 2
    assert real[-1] - fake[-1] > 0.5 > abs(real[0] - fake[0])
