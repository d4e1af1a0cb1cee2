"""The command line: exact resume, what a run's folder holds, and one line for each mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from test_checkpoint import assert_equal

import ganlib
from ganlib import cli, data, models, runs
from ganlib.models import ConvGenerator, load_generator
from ganlib.trainer import generate, load_checkpoint, save_checkpoint

ROOT = Path(ganlib.__file__).parents[1]
SMALL = ["--batch-size", "4", "--latent-dim", "5"]


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """The command sets it for its process, which is here the tests'."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def ganlib_command(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="ganlib")


def done(*arguments: object) -> str:
    ran = ganlib_command(*arguments)
    assert ran.exit_code == 0, ran.output
    return ran.output


def interrupt_at(draw_number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when the given batch (two a step) is drawn."""
    make, count = runs.image_sampler, 0

    def image_sampler(*arguments: Any) -> Any:
        inner = make(*arguments)

        def draw(rng: torch.Generator) -> Any:
            nonlocal count
            count += 1
            if count == draw_number:
                raise KeyboardInterrupt
            return inner(rng)

        return draw

    monkeypatch.setattr(runs, "image_sampler", image_sampler)


def checkpoint_of(out: Path) -> dict[str, Any]:
    return load_checkpoint(out / "checkpoint.pt")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# Exact resume


@pytest.mark.parametrize("model", ["maxout", "conv"])  # dropout; batch norm in both
def test_an_interrupted_run_that_goes_on_equals_an_uninterrupted_one_bit_for_bit(
    model, tmp_path, monkeypatch
):
    every = ["--checkpoint-every", 5, "--sample-every", 10]
    run = ["train", model, *SMALL, "--steps", 20, *every]
    done(*run, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(2 * 12 + 2, patch)  # in the 13th step, after D's update
        ran = ganlib_command(*run, "--out", tmp_path / "parts")
    assert ran.exit_code == 130
    again = f"ganlib train {model} --out {tmp_path / 'parts'} --resume"
    assert f"Interrupted; step 10 is saved. To go on from it: {again}\n" in ran.output
    assert checkpoint_of(tmp_path / "parts")["state"]["step"] == 10
    done(*again.split()[1:])
    whole, parts = checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts")
    assert whole["state"]["step"] == 20
    for name in ("settings", "state", "random"):
        assert_equal(parts[name], whole[name], name)
    assert "average" in whole["state"]
    grids = [files_of(tmp_path / name / "samples") for name in ("whole", "parts")]
    assert grids[0] == grids[1]


def test_a_run_whose_total_is_raised_equals_one_that_had_it_from_the_start(tmp_path):
    done("train", "conv", *SMALL, "--steps", 6, "--out", tmp_path / "whole")
    done("train", "conv", *SMALL, "--steps", 3, "--out", tmp_path / "parts")
    done("train", "conv", "--out", tmp_path / "parts", "--resume", "--steps", 6)
    whole, parts = checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts")
    for part in ("generator", "discriminator", "opt_g", "opt_d", "average", "random"):
        assert_equal(parts["state"][part], whole["state"][part], part)


def test_raising_the_total_of_a_falling_learning_rate_is_said_and_takes_the_new_totals_rate(
    tmp_path,
):
    out = tmp_path / "run"
    done("train", "maxout", *SMALL, "--steps", 4, "--out", out)
    assert checkpoint_of(out)["state"]["opt_g"]["param_groups"][0]["lr"] == pytest.approx(
        8e-4 * 0.25 / 0.6
    )
    said = done("train", "maxout", "--out", out, "--resume", "--steps", 8)
    assert "follow the new total from here, and so rise again" in said
    assert checkpoint_of(out)["state"]["opt_d"]["param_groups"][0]["lr"] == pytest.approx(
        4e-4 * 0.125 / 0.6
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_run_that_is_killed_leaves_a_good_file_and_goes_on_to_the_same_end(tmp_path):
    out, run = tmp_path / "killed", ["train", "conv", *SMALL, "--checkpoint-every", "1"]
    places = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ganlib", *run, "--steps", "100", "--out", str(out)],
        env=os.environ | places,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not (out / "checkpoint.pt").exists():
        time.sleep(0.02)
    time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    step = checkpoint_of(out)["state"]["step"]
    assert step < 100
    done("train", "conv", "--out", out, "--resume")
    assert [f.name for f in out.glob(".*")] == []
    told = json.loads((out / "metrics.json").read_text())
    assert told["command"] == f"ganlib {' '.join(run)} --steps 100 --out {out}"
    assert (told["steps"], len(told["resumed_by"])) == (100, 1)
    done(*run, "--steps", 100, "--out", tmp_path / "whole")
    assert_equal(checkpoint_of(out)["state"], checkpoint_of(tmp_path / "whole")["state"])


# What a run's folder holds


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps of the convolutional pair; tests leave it as it is."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done("train", "conv", "--device", "cpu", "--batch-size", 16, "--lr", 1e-3, "--lr-d", 5e-4,
         "--seed", 7, "--steps", 60, "--sample-every", 25, "--out", out)  # fmt: skip
    return out


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
    contents = {"state": state, "settings": settings, "commands": [""], "seconds": 0.0}
    kept = runs.metrics(contents, torch.device("cpu"))["history"]["loss/D"]
    assert min(n, 500) <= len(kept["step"]) <= 1000
    assert kept["step"][-1] == n
    assert len(set(np.diff(kept["step"]))) <= 1
    assert kept["value"] == [step / 8 for step in kept["step"]]


def test_grids_show_one_fixed_latent_sample_by_the_running_average_of_that_step(run):
    names = sorted(f.name for f in (run / "samples").iterdir())
    assert names == [f"step-{step:06d}.png" for step in (0, 25, 50, 60)]
    last = np.asarray(Image.open(run / "samples" / names[-1]))
    assert last.shape == (8 * 29 - 1, 8 * 29 - 1)
    weights, generator = checkpoint_of(run)["state"]["average"], ConvGenerator(64)
    generator.load_state_dict({k.removeprefix("module."): v for k, v in weights.items()
                               if k != "n_averaged"})  # fmt: skip
    z = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    third = (255 * generate(generator, z)[2, 0]).round().numpy()
    assert np.abs(last[:28, 58:86] - third).max() <= 1


def test_a_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        done("train", "conv", *SMALL, "--steps", 2, "--seed", seed, "--out", tmp_path / name)
    a, b, c = (checkpoint_of(tmp_path / name)["state"] for name in "abc")
    assert_equal(a, b)
    assert not torch.equal(a["rng"] if "rng" in a else a["random"]["rng"], c["random"]["rng"])
    name, weight = next(iter(a["generator"].items()))
    assert not torch.equal(weight, c["generator"][name])


def test_epochs_are_counted_in_passes_through_the_data(tmp_path, monkeypatch):
    images = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
    monkeypatch.setattr(runs, "load_images", lambda *a, **k: (images, torch.zeros(10)))
    run = ["train", "conv", "--batch-size", 4, "--latent-dim", 2, "--out", tmp_path / "run"]
    done(*run, "--epochs", 3)
    assert checkpoint_of(tmp_path / "run")["state"]["step"] == 8  # 30 images by fours
    done(*run, "--epochs", 4, "--resume")
    assert checkpoint_of(tmp_path / "run")["state"]["step"] == 10


def test_options_reach_the_training(tmp_path, monkeypatch):
    seen: dict[str, Any] = {}

    def recorded(state: Any, *draw_and_losses: Any, **options: Any) -> None:
        seen.update(options, state=state, losses=draw_and_losses[1:])

    monkeypatch.setattr(runs, "train", recorded)
    done("train", "mlp", "--loss", "minimax", "--n-critic", 3, "--average", 0, "--steps", 7,
         "--checkpoint-every", 2, "--sample-every", 3, "--out", tmp_path / "run")  # fmt: skip
    assert seen["losses"] == (runs.gan_loss_d, runs.minimax_loss_g)
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


def test_bf16_rounds_the_forward_passes_and_little_else(tmp_path):
    run = ["train", "conv", *SMALL, "--average", 0, "--steps", 2, "--out"]
    done(*run, tmp_path / "fp32")
    done(*run, tmp_path / "bf16", "--bf16")
    a, b = (checkpoint_of(tmp_path / name)["state"]["discriminator"] for name in ("fp32", "bf16"))
    assert all(x.dtype == a[name].dtype for name, x in b.items())
    weights = "layers.2.weight"
    assert 0 < (a[weights] - b[weights]).abs().mean() < 2e-4  # two steps of at most 2e-4 each


@pytest.mark.parametrize("model", ["maxout", "mlp"])
def test_color_images_are_drawn_in_color(model, tmp_path, monkeypatch):
    images = torch.randint(0, 256, (10, 3, 32, 32)).byte()
    monkeypatch.setattr(runs, "load_images", lambda *a, **k: (images, torch.zeros(10)))
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


# sample and evaluate


def test_sample_draws_the_same_grid_from_a_folder_and_from_its_checkpoint(run, tmp_path):
    before = files_of(run)
    done("sample", run, "--out", tmp_path / "a.png")
    done("sample", run / "checkpoint.pt", "--out", tmp_path / "b.png")
    done("sample", run, "--out", tmp_path / "c.png", "--seed", 1, "--n", 10)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    assert Image.open(tmp_path / "a.png").size == (231, 231)
    assert Image.open(tmp_path / "c.png").size == (231, 57)
    done("sample", run, "--out", tmp_path / "s.png", "--seed", 1)
    assert (tmp_path / "s.png").read_bytes() == (run / "samples" / "step-000060.png").read_bytes()
    assert files_of(run) == before


def test_evaluate_prints_the_measures_of_generated_beside_those_of_real_images(run, tmp_path):
    said = done("evaluate", run, "--n", 200, "--json", tmp_path / "e.json")
    told = json.loads((tmp_path / "e.json").read_text())
    rows = {row["measure"]: (row["real"], row["fake"]) for row in told["measures"]}
    assert (told["n"], told["step"], told["torch"]) == (200, 60, torch.__version__)
    real, fake = rows["classifier confidence"]
    assert real > 0.97 > fake
    real, fake = rows["Fréchet distance of features"]
    assert 0 < real < fake / 3
    assert rows["smallest class share"][0] > 0.04
    assert rows["recall, k = 3"][0] > 0.7 > rows["recall, k = 3"][1]
    real, fake = rows["Parzen log-likelihood, nats"]
    assert real > fake + 50
    assert rows["distance to nearest image"][0] < rows["distance to nearest image"][1]
    for row in told["measures"]:
        line = f"{row['measure']:28} {row['real']:10.4g} {row['fake']:10.4g}  {row['sizes']}\n"
        assert line in said
    assert "200 real, 200 generated against 200 training images" in said
    assert "200 samples, bandwidth by 250 test images, 250 scored" in said
    assert "200 real, 200 generated against 4500 training images" in said


def test_evaluate_leaves_the_digit_classifier_out_where_it_does_not_apply(
    run, tmp_path, monkeypatch
):
    contents, make = checkpoint_of(run), runs.load_images
    contents["settings"]["dataset"] = "fashion_mnist"
    save_checkpoint(tmp_path / "f.pt", contents)
    monkeypatch.setattr(
        runs, "load_images", lambda name, split, root, download: make("mnist5k", split)
    )
    said = done("evaluate", tmp_path / "f.pt", "--n", 20)
    assert "The digit classifier does not apply to fashion_mnist" in said
    assert "Parzen log-likelihood" in said
    for measure in ("confidence", "share", "Fréchet", "precision", "recall"):
        assert f"{measure} " not in said.replace("classifier does", "")


# Mistakes


def refused(folder: Path, *arguments: object, says: tuple[str, ...]) -> None:
    """Exit code 2, all of `says` on one line, no traceback, and nothing in the folder changed."""
    before = files_of(folder)
    ran = ganlib_command(*arguments)
    assert ran.exit_code == 2, ran.output
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.output
    assert lines[0].startswith("Error: ")
    for text in says:
        assert text in lines[0]
    assert ran.stdout == ""
    assert files_of(folder) == before


NEW = ("train", "conv", "--out", "OUT")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--foo",), ("No such command '--foo'",)),
        (("train",), ("Missing argument", "maxout, mlp, conv")),
        ((*NEW, "--fast"), ("No such option", "--fast")),
        (("train", "dcgan", "--out", "OUT"), ("'dcgan' is not one of", "maxout")),
        (("train", "conv"), ("Missing option '--out'",)),
        ((*NEW, "--dataset", "imagenet"), ("'imagenet' is not one of", "mnist5k")),
        ((*NEW, "--steps", "0"), ("'--steps': 0 is not in the range 1<=x<=",)),
        ((*NEW, "--steps", "ten"), ("'--steps': 'ten' is not a valid integer",)),
        ((*NEW, "--steps", "5", "--epochs", "2"), ("one of --steps and --epochs expected",)),
        ((*NEW, "--batch-size", "1"), ("'--batch-size': 1 is not in the range 2<=x<=",)),
        ((*NEW, "--batch-size", "100000000000"), ("'--batch-size': 100000000000 is not in",)),
        ((*NEW, "--latent-dim", "1000000000000"), ("'--latent-dim': 1000000000000 is not in",)),
        ((*NEW, "--seed", "9" * 26), (f"'--seed': {'9' * 26} is not in", f"<={2**63 - 1}")),
        ((*NEW, "--lr", "0"), ("'--lr': 0.0 is not in the range x>0",)),
        ((*NEW, "--lr-g", "nan"), ("a finite --lr-g expected, got nan",)),
        ((*NEW, "--average", "1"), ("'--average': 1.0 is not in the range 0<=x<1",)),
        ((*NEW, "--average", "nan"), ("a finite --average expected, got nan",)),
        ((*NEW, "--n-critic", "0"), ("'--n-critic': 0",)),
        ((*NEW, "--loss", "hinge"), ("'hinge' is not one of", "minimax")),
        ((*NEW, "--resume"), ("no run in", "OUT", "leave out --resume")),
        ((*NEW, "--dataset", "cifar10"), ("cifar10 are 32 x 32", "take maxout or mlp")),
        (
            (*NEW, "--dataset", "mnist", "--data-dir", "EMPTY", "--no-download"),
            ("no mnist in", "EMPTY", "'mnist5k'"),
        ),
        (("train", "conv", "--out", ""), ("'--out': is empty",)),
        (("train", "conv", "--out", "FILE"), ("FILE cannot be written into", "take another")),
        (("train", "conv", "--out", "FILE/run"), ("FILE/run cannot be written into",)),
        (("sample", "EMPTY", "--out", "x.png"), ("no checkpoint", "EMPTY/checkpoint.pt", "give")),
        (("sample", "nothing.pt", "--out", "x.png"), ("no checkpoint nothing.pt",)),
        (("sample", "FILE", "--out", "x.png"), ("a checkpoint of ganlib expected", "FILE is none")),
        (("sample", "FOREIGN", "--out", "x.png"), ("`ganlib train` expected", "FOREIGN is none")),
        (("sample", "FILE", "--out", "x.jpg"), ("--out FILE.png expected, got x.jpg",)),
        (("sample", "FILE", "--out", "x.png", "--n", "0"), ("'--n': 0",)),
        (("sample", "FILE", "--out", "x.png", "--n", "10000000000"), ("'--n': 10000000000",)),
        (("sample", "FILE", "--out", "DIR.png"), ("'--out': File", "DIR.png' is a directory")),
        (("evaluate", "FILE", "--json", "EMPTY"), ("'--json': File", "EMPTY' is a directory")),
        (("evaluate", "EMPTY"), ("no checkpoint", "EMPTY/checkpoint.pt")),
        (("evaluate", "FOREIGN"), ("`ganlib train` expected", "FOREIGN is none")),
        (("evaluate", "FILE", "--n", "3"), ("'--n': 3 is not in the range 10<=x<=",)),
    ],
)
def test_a_mistake_costs_one_line_exit_code_2_and_no_file(arguments, says, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "DIR.png").mkdir()
    (tmp_path / "FILE").write_text("mine\n")
    torch.save({"weights": torch.ones(3)}, tmp_path / "FOREIGN")
    paths = {"OUT", "EMPTY", "DIR.png", "FILE", "FILE/run", "FOREIGN"}
    refused(tmp_path, *(tmp_path / a if a in paths else a for a in arguments), says=says)


def test_a_step_that_cannot_be_compiled_is_refused_in_one_line(tmp_path, monkeypatch):
    def train(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(runs, "train", train)
    refused(tmp_path, "train", "conv", *SMALL, "--out", tmp_path / "run", "--compile",
            says=("--compile fails here, leave it out: no C++ compiler",))  # fmt: skip


@pytest.mark.parametrize("take", [lambda: torch.empty(10**14), lambda: bytes(10**15)])
def test_a_first_step_without_memory_costs_one_line_and_leaves_a_folder_for_another_try(
    take, tmp_path, monkeypatch
):
    run = ["train", "conv", *SMALL, "--steps", 1, "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "image_sampler", lambda *arguments: lambda rng: take())
        for compile in ([], ["--compile"]) if shutil.which("g++") else ([],):
            ran = ganlib_command(*run, *compile)
            assert ran.exit_code == 2
            assert ran.stderr == f"Error: {cli.OUT_OF_MEMORY}\n"
    assert [f.name for f in (tmp_path / "run").iterdir()] == ["samples"]
    done(*run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_named_with_a_remedy(tmp_path):
    refused(tmp_path, *NEW[:2], "--out", tmp_path / "run", "--device", "cuda",
            says=("device cuda is not available here: take cpu or auto",))  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensorboard_is_named_with_the_way_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused(tmp_path, "train", "conv", "--out", tmp_path / "run", "--tensorboard",
            says=("--tensorboard needs a package: pip install tensorboard",))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), ("holds a run: add --resume", "give another --out")),
        (("--resume", "--lr", "5e-4"), ("has lr-g 0.001, got 0.0005: leave the option out",)),
        (("--resume", "--lr-d", "1e-3"), ("has lr-d 0.0005, got 0.001",)),
        (("--resume", "--seed", "8"), ("has seed 7, got 8",)),
        (("--resume", "--dataset", "mnist"), ("has dataset mnist5k, got mnist",)),
        (("--resume", "--batch-size", "32"), ("has batch-size 16, got 32",)),
        (("--resume", "--bf16"), ("has bf16 False, got True",)),
        (("--resume", "--steps", "59"), ("a total of 60 steps or more expected", "got 59")),
    ],
)
def test_a_run_is_neither_overwritten_nor_gone_on_with_by_other_options(run, options, says):
    refused(run, "train", "conv", "--out", run, *options, says=says)


def test_a_run_does_not_go_on_as_another_model(run):
    refused(run, "train", "mlp", "--out", run, "--resume", says=("has model conv, got mlp",))


def test_options_that_repeat_the_runs_own_are_no_contradiction_and_a_finished_run_stays(run):
    before = files_of(run)
    said = done("train", "conv", "--out", run, "--resume", "--seed", 7, "--lr-g", 1e-3,
                "--steps", 60, "--device", "cpu")  # fmt: skip
    assert said == f"The run in {run} has its 60 steps; a larger --steps goes on.\n"
    assert files_of(run) == before


def test_a_run_keeps_its_flags_when_it_goes_on_without_naming_them(tmp_path):
    run = ["train", "conv", "--out", tmp_path / "run"]
    done(*run, *SMALL, "--bf16", "--steps", 1)
    done(*run, "--resume", "--steps", 2)
    assert checkpoint_of(tmp_path / "run")["state"]["step"] == 2
    assert json.loads((tmp_path / "run/metrics.json").read_text())["options"]["bf16"] is True


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("settings"), "KeyError: 'settings'"),
        (lambda c: c["settings"].update(latent_dim=65), "Error(s) in loading state_dict"),
        (lambda c: c["settings"].update(latent_dim="q"), "latent_dim is of type str"),
        (lambda c: c["settings"].update(steps="q"), "steps is of type str"),
        (lambda c: c["settings"].update(dataset="zzz"), "dataset 'zzz'"),
        (lambda c: c["settings"].update(loss="zzz"), "loss 'zzz'"),
        (lambda c: c.update(state="x"), "state is of type str"),
        (lambda c: c.update(state={"step": 3}), "KeyError: 'average'"),
        (lambda c: c["state"].pop("average"), "KeyError: 'average'"),
    ],
)
def test_a_foreign_checkpoint_is_refused_by_all_commands_and_left_alone(
    change, says, run, tmp_path
):
    out, contents = tmp_path / "run", checkpoint_of(run)
    change(contents)
    save_checkpoint(out / "checkpoint.pt", contents)
    told = (f"`ganlib train` expected, {out / 'checkpoint.pt'} is none", says)
    refused(tmp_path, "train", "conv", "--out", out, "--resume", "--steps", 70, says=told)
    refused(tmp_path, "sample", out, "--out", tmp_path / "x.png", says=told)
    refused(tmp_path, "evaluate", out, says=told)


@pytest.mark.parametrize("part", ["discriminator", "opt_g", "scalars", "snapshots", "random"])
def test_a_state_with_a_foreign_part_is_refused_where_it_is_needed(part, run, tmp_path):
    out, contents = tmp_path / "run", checkpoint_of(run)
    contents["state"][part] = "x"
    save_checkpoint(out / "checkpoint.pt", contents)
    refused(tmp_path, "train", "conv", "--out", out, "--resume", "--steps", 70,
            says=("a checkpoint of `ganlib train` expected, a state is none",))  # fmt: skip


def test_a_cut_checkpoint_is_refused_by_all_commands_and_left_alone(run, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:-1000])
    refused(tmp_path, "train", "conv", "--out", out, "--resume", says=("expected",))
    refused(tmp_path, "sample", out, "--out", tmp_path / "x.png", says=("expected",))
    refused(tmp_path, "evaluate", out, says=("expected",))


@pytest.mark.parametrize("name", ["maxout_generator", "conv_generator", "digit_classifier"])
def test_a_cut_file_of_weights_is_named_with_the_remedy(name, run, tmp_path, monkeypatch):
    cut = (ROOT / "ganlib" / f"{name}.safetensors").read_bytes()[:1000]
    (tmp_path / f"{name}.safetensors").write_bytes(cut)
    monkeypatch.setattr(models, "__file__", str(tmp_path / "models.py"))
    if name == "digit_classifier":
        refused(tmp_path, "evaluate", run, "--n", 10,
                says=(f"{name}.safetensors is missing or damaged: install ganlib",))  # fmt: skip
    else:
        with pytest.raises(ValueError, match=f"{name}.safetensors is missing or damaged: install"):
            load_generator(name.removesuffix("_generator"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_what_cannot_be_written_is_named_as_the_user_named_it(run, tmp_path, monkeypatch):
    refused(tmp_path, "sample", run, "--out", "/proc/x.png", says=("/proc/x.png cannot be wri",))
    monkeypatch.setattr(runs, "evaluate_run", None)  # it is refused before
    refused(tmp_path, "evaluate", run, "--json", "/proc/x.json",
            says=("/proc cannot be written into",))  # fmt: skip


def test_an_interrupt_beside_a_damaged_metrics_file_is_told_in_one_line(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_bytes(b'{"steps": \xff')
    interrupt_at(1, monkeypatch)
    ran = ganlib_command("train", "conv", "--out", tmp_path / "run", "--resume", "--steps", 70)
    assert ran.exit_code == 130
    assert ran.stderr.startswith("Interrupted; the last checkpoint is saved. To go on from it:")


def test_of_several_processes_the_first_says_what_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: None)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        ran = ganlib_command(*NEW[:2], "--out", tmp_path / "run", "--steps", 5, "--epochs", 2)
        assert (ran.exit_code, len(ran.stderr.splitlines())) == (2, lines)


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line_and_the_last_checkpoint(
    tmp_path, monkeypatch
):
    def loss_d(generator: Any, discriminator: Any, batch: Any) -> Any:
        loss, logs = inner(generator, discriminator, batch)
        steps.append(1)
        return loss * (float("nan") if len(steps) == 5 else 1.0), logs

    inner, steps = runs.gan_loss_d, []
    monkeypatch.setattr(runs, "gan_loss_d", loss_d)
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
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
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


# Start


def test_help_answers_without_torch_and_shows_each_models_defaults():
    code = "import sys; sys.argv[1:] = ['train', '--help']; import ganlib.cli as c, atexit\n"
    code += "atexit.register(lambda: print('torch' in sys.modules)); c.main()"
    places = {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | places,
                         capture_output=True, text=True)  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("False\n")
    said = " ".join(ran.stdout.split())
    assert "Default: 0.0008 (maxout), 0.0002 (mlp), 0.0002 (conv)." in said
    assert "Default: 100 (maxout), 100 (mlp), 64 (conv)." in said


def test_the_commands_data_sets_and_settings_are_those_of_the_library():
    assert cli.DATASETS == data.DATASETS
    for values in cli.MODELS.values():
        assert {*cli.COMMON, *values, "model", "n_processes"} == set(runs.SETTINGS)
