"""What all commands share: one line for each mistake, foreign checkpoints, help without torch."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from cli_builders import ROOT, SMALL, checkpoint_of, done, ganlib_command, refused

from ganlib import data, models
from ganlib.models import load_generator
from ganlib.runs import cli
from ganlib.runs.checkpoint import save_checkpoint
from ganlib.runs.settings import COMMON, DATASETS, MODELS, TYPES, Settings, new_networks

NEW = ("train", "conv", "--out", "OUT")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--foo",), ("No such command '--foo'",)),
        (("train",), ("Missing argument", "maxout, mlp, conv, dcgan")),
        ((*NEW, "--fast"), ("No such option", "--fast")),
        (("train", "wgan", "--out", "OUT"), ("'wgan' is not one of", "maxout")),
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
        ((*NEW, "--beta1", "1"), ("'--beta1': 1.0 is not in the range 0<=x<1",)),
        ((*NEW, "--beta1", "nan"), ("a finite --beta1 expected, got nan",)),
        ((*NEW, "--beta2", "-0.1"), ("'--beta2': -0.1 is not in the range 0<=x<1",)),
        ((*NEW, "--beta2", "nan"), ("a finite --beta2 expected, got nan",)),
        ((*NEW, "--average", "1"), ("'--average': 1.0 is not in the range 0<=x<1",)),
        ((*NEW, "--average", "nan"), ("a finite --average expected, got nan",)),
        ((*NEW, "--n-critic", "0"), ("'--n-critic': 0",)),
        ((*NEW, "--loss", "hinge"), ("'hinge' is not one of", "r1", "minimax")),
        ((*NEW, "--resume"), ("no run in", "OUT", "leave out --resume")),
        ((*NEW, "--dataset", "cifar10"), ("cifar10, 32 x 32 in 3 channels", "take maxout or mlp")),
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
    save_checkpoint(tmp_path / "FOREIGN", {"weights": torch.ones(3)})
    paths = {"OUT", "EMPTY", "DIR.png", "FILE", "FILE/run", "FOREIGN"}
    refused(tmp_path, *(tmp_path / a if a in paths else a for a in arguments), says=says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("settings"), "KeyError: 'settings'"),
        (lambda c: c["settings"].pop("beta1"), "missing 1 required positional argument: 'beta1'"),
        (lambda c: c["settings"].update(decay=0.0), "unexpected keyword argument 'decay'"),
        (lambda c: c["settings"].update(beta2="q"), "beta2 is of type str"),
        (lambda c: c["settings"].update(latent_dim=65), "Error(s) in loading state_dict"),
        (lambda c: c["settings"].update(latent_dim="q"), "latent_dim is of type str"),
        (lambda c: c["settings"].update(steps="q"), "steps is of type str"),
        (lambda c: c["settings"].update(dataset="zzz"), "dataset 'zzz'"),
        (lambda c: c["settings"].update(loss="zzz"), "loss 'zzz'"),
        (lambda c: c["settings"].update(model="zzz"), "model 'zzz'"),
        (lambda c: c["settings"].update(dataset="cifar10"), "dataset 'cifar10'"),
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


def several(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: None)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


BOTH = ("train", "conv", "--steps", "5", "--epochs", "2", "--out")


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_of_several_processes_the_first_says_what_is_wrong(rank, lines, monkeypatch, tmp_path):
    several(monkeypatch, RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    ran = ganlib_command(*BOTH, tmp_path / "run")
    assert (ran.exit_code, len(ran.stderr.splitlines())) == (2, lines)


@pytest.mark.parametrize(
    "variables",
    [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": ""}, {"RANK": "1", "WORLD_SIZE": "1"},
     {"RANK": "1", "WORLD_SIZE": "2"}],
)  # fmt: skip
def test_a_rank_that_is_left_in_the_environment_hides_no_error(variables, monkeypatch, tmp_path):
    several(monkeypatch, **variables)
    refused(tmp_path, *BOTH, tmp_path / "run", says=("one of --steps and --epochs expected",))


def test_an_empty_world_size_is_one_process(monkeypatch, tmp_path):
    several(monkeypatch, WORLD_SIZE="", RANK="3")
    done("train", "conv", *SMALL, "--steps", 1, "--out", tmp_path / "run")
    assert checkpoint_of(tmp_path / "run")["settings"]["n_processes"] == 1


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"WORLD_SIZE": "two"}, "an integer >= 1 in WORLD_SIZE expected, got 'two': unset it"),
        ({"WORLD_SIZE": "0"}, "an integer >= 1 in WORLD_SIZE expected, got '0'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "a RANK below 2 expected, got '2'",
        ),
    ],
)
def test_variables_of_torchrun_that_make_no_sense_are_named(variables, says, monkeypatch, tmp_path):
    several(monkeypatch, **variables)
    refused(tmp_path, "train", "conv", "--out", tmp_path / "run", says=(says,))


def test_help_answers_without_torch_and_shows_each_models_defaults():
    code = "import sys; sys.argv[1:] = ['train', '--help']; import ganlib.runs.cli as c, atexit\n"
    code += "atexit.register(lambda: print('torch' in sys.modules)); c.main()"
    places = {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | places,
                         capture_output=True, text=True)  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("False\n")
    said = " ".join(ran.stdout.split())
    for name in ("latent_dim", "lr_g", "beta1", "beta2", "average", "loss"):
        own = ", ".join(f"{model.defaults[name]} ({key})" for key, model in MODELS.items())
        assert f"Default: {own}." in said, name
    assert "Default: 0.001 (maxout), 0.0002 (mlp), 0.002 (conv), 0.0002 (dcgan)." in said
    assert "Default: r1 (maxout), non-saturating (mlp), r1 (conv)," in said


def test_each_model_and_its_defaults_are_complete_and_draw_data_sets_of_the_library():
    assert tuple(DATASETS) == data.DATASETS
    given = {"n_processes": 1, "device": "cpu"}
    for name, model in MODELS.items():
        assert {*COMMON, *model.defaults, "model", "n_processes"} == set(TYPES)
        assert model.datasets.items() <= DATASETS.items()
        for dataset, shape in model.datasets.items():
            values: dict[str, Any] = (
                COMMON | model.defaults | given | {"model": name, "dataset": dataset}
            )
            generator, discriminator = new_networks(Settings(**values))
            x = generator(torch.zeros(2, values["latent_dim"]))
            assert x.shape == (2, *shape)
            assert discriminator(x).shape == (2,)


@pytest.mark.parametrize("dataset", ["mnist5k"])
def test_the_shapes_in_the_table_are_those_of_the_images(dataset):
    assert data.load_images(dataset)[0].shape[1:] == DATASETS[dataset]


ONE_MORE = """
from ganlib.runs import settings
settings.MODELS["tiny"] = settings.Model(
    "a small pair", settings.mlp_pair, settings.GRAY,
    {"latent_dim": 3, "lr_g": 1e-3, "lr_d": 2e-3, **settings.USUAL},
)
settings.GAMES["swapped"] = settings.Game(
    "as an example", "ganlib.games:least_squares_loss_d", "ganlib.games:gan_loss_g"
)
import sys
from ganlib.runs.cli import main
main(sys.argv[1:], prog_name="ganlib")
"""


def test_a_model_or_a_game_is_added_by_one_entry(tmp_path):
    def call(*arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", ONE_MORE, *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        return " ".join(ran.stdout.split())

    said = call("train", "--help")
    for text in ("tiny a small pair", "swapped as an example", "64 (dcgan), 3 (tiny)"):
        assert text in said
    out = str(tmp_path / "run")
    call("train", "tiny", "--loss", "swapped", "--batch-size", "4", "--steps", "2", "--out", out)
    call("sample", out, "--out", str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").exists()
