"""`ganlib sample` and `ganlib evaluate`: pictures, measures, and files that are not theirs."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_builders import checkpoint_of, done, files_of, ganlib_command, refused
from PIL import Image

from ganlib.models import MLPGenerator
from ganlib.runs import cli, evaluation
from ganlib.runs.checkpoint import save_checkpoint
from ganlib.runs.evaluation import draw_latents, draw_pictures


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
    s, last = (Image.open(f) for f in (tmp_path / "s.png", run / "samples" / "step-000060.png"))
    assert s.tobytes() == last.tobytes()
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
    contents, make = checkpoint_of(run), evaluation.load_images
    contents["settings"]["dataset"] = "fashion_mnist"
    save_checkpoint(tmp_path / "f.pt", contents)
    monkeypatch.setattr(
        evaluation, "load_images", lambda name, split, root, download: make("mnist5k", split)
    )
    said = done("evaluate", tmp_path / "f.pt", "--n", 20)
    assert "The digit classifier does not apply to fashion_mnist" in said
    assert "Parzen log-likelihood" in said
    for measure in ("confidence", "share", "Fréchet", "precision", "recall"):
        assert f"{measure} " not in said.replace("classifier does", "")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_what_cannot_be_written_is_named_as_the_user_named_it(run, tmp_path, monkeypatch):
    refused(tmp_path, "sample", run, "--out", "/proc/x.png", says=("/proc/x.png cannot be wri",))
    monkeypatch.setattr(evaluation, "evaluate_run", None)  # it is refused before
    refused(tmp_path, "evaluate", run, "--json", "/proc/x.json",
            says=("/proc cannot be written into",))  # fmt: skip


@pytest.mark.parametrize("latent_dim", [5, 16, 100])
def test_the_ith_picture_depends_on_seed_and_i_alone_to_the_bit(latent_dim):
    generator = MLPGenerator(latent_dim, (32, 24), (1, 6, 6), batch_norm=True)
    many = draw_pictures(generator, latent_dim, 1100, seed=3)
    for n in (1, 2, 7, 63, 64, 65, 1000):
        assert torch.equal(draw_pictures(generator, latent_dim, n, seed=3), many[:n]), n
    assert len({tuple(x.flatten().tolist()) for x in many}) == 1100
    assert not torch.equal(draw_pictures(generator, latent_dim, 1, seed=4), many[:1])
    z = draw_latents(2000, latent_dim, seed=3)
    assert abs(z.mean()) < 4 / (2000 * latent_dim) ** 0.5
    assert abs(z.var() - 1) < 4 * (2 / (2000 * latent_dim)) ** 0.5


def test_few_pictures_of_a_run_are_the_first_of_many_and_fill_their_file(run, tmp_path):
    for n in (1, 3, 20):
        done("sample", run, "--out", tmp_path / f"{n}.png", "--n", n)
    one, three, twenty = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in (1, 3, 20))
    assert (one.shape, three.shape, twenty.shape) == ((28, 28), (28, 86), (86, 231))
    assert np.array_equal(one, three[:, :28])
    assert np.array_equal(three, twenty[:28, :86])


# Files that are not theirs


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to write beside."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


SAMPLE, EVALUATE = ("sample", "--n", 1, "--out"), ("evaluate", "--n", 10, "--json")


@pytest.mark.parametrize("more", [(), ("--force",)])
@pytest.mark.parametrize(
    ("command", "name"),
    [
        (EVALUATE, "checkpoint.pt"),
        (EVALUATE, "metrics.json"),
        (EVALUATE, "samples/step-000060.png"),
        (SAMPLE, "samples/step-000060.png"),
    ],
)
def test_no_output_replaces_a_runs_own_file(command, name, more, own, tmp_path):
    refused(tmp_path, command[0], own, *command[1:], own / name, *more,
            says=(f"{own / name} is a run's own file, which nothing may replace",))  # fmt: skip


def test_no_output_replaces_another_runs_file_or_a_checkpoint_that_is_read(own, run, tmp_path):
    refused(run, "evaluate", own, "--n", 10, "--json", run / "metrics.json", "--force",
            says=("is a run's own file",))  # fmt: skip
    (own / "checkpoint.pt").rename(tmp_path / "kept.png")
    for link in ("link.png", "hard.png"):
        make = os.symlink if link == "link.png" else os.link
        make(tmp_path / "kept.png", tmp_path / link)
        refused(tmp_path, "sample", tmp_path / "kept.png", "--out", tmp_path / link, "--force",
                says=("is a run's own file",))  # fmt: skip


@pytest.mark.parametrize(("command", "name"), [(SAMPLE, "x.png"), (EVALUATE, "x.json")])
def test_a_foreign_file_is_replaced_only_by_force_and_an_earlier_output_at_once(
    command, name, own, tmp_path
):
    file = tmp_path / name
    call = (command[0], own, *command[1:], file)
    for foreign in (
        b"mine\n",
        b'{"made_by": "me"}',
        b"\x89PNG\r\n of ganlib " + command[0].encode(),
    ):
        file.write_bytes(foreign)
        refused(tmp_path, *call, says=(f"{file} exists, and `ganlib {command[0]}` did not make",
                                       "add --force"))  # fmt: skip
    done(*call, "--force")
    assert file.read_bytes() != foreign
    done(*call, "--seed", 1)
    other = SAMPLE if command is EVALUATE else EVALUATE
    if other is EVALUATE:  # a table in the place of a picture
        refused(tmp_path, "evaluate", own, *EVALUATE[1:], file, says=("did not make it",))


def test_what_is_no_file_is_not_written_to_even_by_force(own):
    refused(own, "evaluate", own, "--n", 10, "--json", os.devnull, "--force",
            says=(f"a file expected to write, {os.devnull} is none",))  # fmt: skip


@pytest.mark.parametrize("encoding", ["cp932", "cp1251", "koi8-r"])
def test_a_terminal_without_an_accent_gets_the_table_and_the_file_all_the_same(
    encoding, run, tmp_path, monkeypatch
):
    row = evaluation.Comparison("Fréchet distance of features", 1.0, 2.0, "2 images")
    monkeypatch.setattr(evaluation, "evaluate_run", lambda *arguments: [row])
    terminal = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding, write_through=True))
        arguments = ["evaluate", str(run), "--json", str(tmp_path / "e.json")]
        cli.main(arguments, prog_name="ganlib", standalone_mode=False)
    assert "\nFr?chet distance of features          1" in terminal.getvalue().decode(encoding)
    told = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert told["measures"] == [row._asdict()]


def test_the_table_is_in_its_file_before_it_is_printed(run, tmp_path, monkeypatch):
    def echo(*arguments: object, **options: object) -> None:
        assert (tmp_path / "e.json").exists()
        raise BrokenPipeError

    monkeypatch.setattr(cli.click, "echo", echo)
    ganlib_command("evaluate", run, "--n", 10, "--json", tmp_path / "e.json")
    assert len(json.loads((tmp_path / "e.json").read_text())["measures"]) == 9


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_run_whose_weights_are_not_finite_is_refused_by_name(command, run, tmp_path):
    contents = checkpoint_of(run)
    weights = contents["state"]["average"]
    name = next(n for n, weight in weights.items() if weight.is_floating_point())
    weights[name].view(-1)[3] = float("nan")
    save_checkpoint(tmp_path / "checkpoint.pt", contents)
    more = ["--out", tmp_path / "grid.png"] if command == "sample" else []
    says = ("finite weights expected", name.removeprefix("module."), "diverged")
    refused(tmp_path, command, tmp_path, *more, says=says)
