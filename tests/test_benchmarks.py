"""Each benchmark at a tiny size: it trains, and its record has the form of the book's own."""

import json
from dataclasses import replace
from pathlib import Path

import ablations
import common
import digits
import fashion_mnist
import generators
import latent_sizes
import paper_settings_mnist5k as paper
import parzen_paper_protocol as parzen
import pytest
import torch
import train_classifier
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ganlib.data import load_images
from ganlib.metrics import load_digit_classifier

BOOK = common.RESULTS
SCRIPTS = ablations, digits, fashion_mnist, generators, latent_sizes, paper, parzen
MADE_BY = {"command", "date", "device", "torch", "ganlib", "python"}


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Results go to a folder of the test's; no setting of torch survives the test."""
    for script in SCRIPTS:
        if hasattr(script, "RESULTS"):
            monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["script.py", "--folder", str(tmp_path)])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: None)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def full_mnist(monkeypatch):
    """mnist5k's digits, often enough to stand for MNIST; 0 to 4 more often than the others."""
    splits = [load_images("mnist5k", split) for split in ("train", "test")]
    images, labels = (torch.cat(parts) for parts in zip(*splits, strict=True))
    low = (labels < 5).nonzero()[:, 0]
    index = torch.cat([torch.arange(5000).repeat(6), low.repeat(12)])

    def load(name, split="train"):
        if name == "mnist5k" or split == "test":
            return load_images("mnist5k", split)
        return images[index], labels[index]

    for script in (generators, parzen):
        monkeypatch.setattr(script, "load_images", load)


def form(thing):
    """Keys without those of the provenance, and those of the first row of each list of rows."""
    if isinstance(thing, list) and thing and isinstance(thing[0], dict):
        return form(thing[0])
    if not isinstance(thing, dict):
        return None
    return {
        "#" if key.isdigit() else key: form(part)
        for key, part in thing.items()
        if key not in MADE_BY
    }


def assert_form_of_the_book(file: Path):
    made, own = (json.loads((f / file.name).read_text()) for f in (file.parent, BOOK))
    assert form(made) == form(own)
    assert made.keys() >= MADE_BY
    assert (made["command"] == own["command"]) or "parzen" in made["command"]
    return made


@pytest.mark.parametrize("tip", ablations.TIPS)
def test_each_tip_trains_on_the_grid_and_counts_modes_for_each_run(tip):
    task = replace(ablations.grid_task(), steps=3, runs=2, batch_size=8)
    outcomes = ablations.train_runs(task, task.settings(tip), 0)
    assert len(outcomes) == 2
    assert all(run.keys() == {"modes", "high_quality"} for run in outcomes)
    assert outcomes == ablations.train_runs(task, task.settings(tip), 0)


def test_a_tip_that_the_base_of_the_digits_has_is_taken_away():
    task = ablations.digits_task()
    assert task.settings("base") == ablations.Settings(batch_norm=True, r1=1.0)
    assert task.settings("r1") == ablations.Settings(batch_norm=True)
    assert task.settings("k-5") == ablations.Settings(batch_norm=True, r1=1.0, n_critic=5)


def test_runs_on_the_digits_end_in_a_record_of_the_books_form(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "OUT", tmp_path / "10_ablations.json")
    monkeypatch.setattr("sys.argv", ["ablations.py"])
    for name in ("grid_task", "digits_task"):
        task = replace(getattr(ablations, name)(), steps=2, runs=2)
        monkeypatch.setattr(ablations, name, lambda task=task: task)
    monkeypatch.setattr(ablations, "TIPS", {"base": {}})
    ablations.main()
    made, own = (json.loads((f / ablations.OUT.name).read_text()) for f in (tmp_path, BOOK))
    for name, task in made["tasks"].items():
        assert form(task["rows"]["base"]) == form(own["tasks"][name]["rows"]["base"])
        assert [len(v) for k, v in task["rows"]["base"].items() if k != "cpu_seconds"] == [2, 2]


def test_loss_d_with_r1_and_smoothing_is_the_formula():
    discriminator = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Flatten(0)).double()
    generator, (x, z) = nn.Linear(2, 2).double(), torch.randn(2, 6, 2, dtype=torch.float64)
    settings = ablations.Settings(r1=0.4, real_target=0.9)
    loss_d, _ = ablations.game(settings, torch.tensor(0.0))
    (slope,) = torch.autograd.grad(discriminator(x.requires_grad_()).sum(), x)
    real, fake = discriminator(x).sigmoid(), discriminator(generator(z)).sigmoid()
    smoothed = 0.9 * real.log() + 0.1 * (1 - real).log()
    expected = (
        -smoothed.mean() - (1 - fake).log().mean() + 0.4 / 2 * slope.norm(dim=1).square().mean()
    )
    assert loss_d(generator, discriminator, (x, z))[0].item() == pytest.approx(
        expected.item(), abs=1e-12
    )


def test_clipped_runs_take_steps_of_gradients_of_norm_one_at_most():
    state = ablations.new_state(ablations.grid_task(), ablations.Settings(clip=1.0), 0)
    for weight in state.generator.parameters():
        weight.grad = torch.full_like(weight, 3.0)
    state.opt_g.step()
    assert state.gradient_norms()["grad/G"].item() == pytest.approx(1, abs=1e-3)


def test_paper_settings_follow_the_published_schedule(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "STEPS", 3)
    monkeypatch.setattr(paper, "SEEDS", (0,))
    state = paper.train_one(0, load_images("mnist5k")[0])
    group = state.opt_g.param_groups[0]
    assert group["lr"] == pytest.approx(0.1 / 1.000004**2, rel=1e-12)
    assert group["momentum"] == pytest.approx(0.5 + 0.2 * (2 / 45) / 250, rel=1e-12)
    paper.main()
    assert len(assert_form_of_the_book(tmp_path / "07_paper_settings.json")["runs"]) == 1


def test_every_recipe_for_digits_trains_as_long_and_is_judged_by_the_same_measures(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(digits, "SECONDS", 0.01)
    monkeypatch.setattr(digits, "SEEDS", (0,))
    images, labels = load_images("mnist5k")
    some = images[::10].contiguous(), labels[::10]
    monkeypatch.setattr(digits, "load_images", lambda *_: some)
    digits.main()
    made = assert_form_of_the_book(tmp_path / "07_digits.json")
    assert [run["recipe"] for run in made["runs"]] == list(digits.RECIPES)
    assert {run["steps"] for run in made["runs"]} == {20}
    assert made["real"]["distance"] < 1e-6  # here the test images are the training images
    before = (tmp_path / "07_digits.json").read_bytes()
    digits.main()
    assert (tmp_path / "07_digits.json").read_bytes() == before


def test_a_dark_pixel_is_lit_by_the_share_of_samples_that_light_it():
    x_real, x = torch.zeros(2000, 1, 28, 28), torch.zeros(50, 1, 28, 28)
    x_real[:, 0, 5, 5], x_real[0, 0, 6, 6] = 1.0, 1.0  # one pixel of all, one of 1 in 2,000
    x_real[::2, 0, 8:20, 12:16] = 1.0
    x[:, 0, 5, 5], x[:20, 0, 6, 6] = 1.0, 0.2
    judged = digits.judge(x + 0.001 * torch.rand(x.shape), x_real, load_digit_classifier())
    assert judged["lit"] == pytest.approx(20 / 50)


def test_relativistic_losses_are_the_formula():
    torch.manual_seed(0)
    g, linear = nn.Linear(3, 2), nn.Linear(2, 1)
    d = nn.Sequential(linear, nn.Flatten(0))
    x_real, z = torch.randn(8, 2), torch.randn(8, 3)
    gap = d(x_real) - d(g(z))
    penalty = linear.weight.square().sum()  # R1 and R2 of a linear D: half of it each
    expected = (-gap.sigmoid().log()).mean() + penalty
    assert torch.allclose(digits.relativistic_loss_d(g, d, (x_real, z))[0], expected)
    expected = (-(-gap).sigmoid().log()).mean()
    assert torch.allclose(digits.relativistic_loss_g(g, d, (x_real, z))[0], expected)


def test_latent_sizes_repeats_no_seed_and_refuses_other_settings(tmp_path, monkeypatch):
    tiny = latent_sizes.SETTINGS | {"steps": 4, "every": 2, "n_z": 10}
    monkeypatch.setattr(latent_sizes, "SETTINGS", tiny)
    monkeypatch.setattr(latent_sizes, "SHOWN", (2, 4))
    monkeypatch.setattr(latent_sizes, "MAPS", (0, 3, 4))
    monkeypatch.setattr(latent_sizes, "SEEDS", (0,))
    latent_sizes.main()
    file = tmp_path / "08_latent_sizes.json"
    made = assert_form_of_the_book(file)
    assert [len(run["average"]["moved"]) for run in made["runs"]] == [1, 1]
    assert Image.open(tmp_path / "08_map.png").size == (448, 3 * 448)
    before = file.read_bytes()
    latent_sizes.main()
    assert file.read_bytes() == before
    monkeypatch.setattr(latent_sizes, "SETTINGS", tiny | {"lr": 1.0})
    with pytest.raises(
        SystemExit, match=r"08_latent_sizes\.json holds runs of another seed or setup"
    ):
        latent_sizes.main()


def test_generators_are_trained_once_and_judged_beside_all_controls(
    tmp_path, monkeypatch, full_mnist
):
    monkeypatch.setattr(generators, "STEPS", 2)
    monkeypatch.setattr(generators, "SEEDS", (0,))
    monkeypatch.setattr(generators, "SAMPLES", 50)
    monkeypatch.setattr(generators, "WEIGHTS", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    assert len(generators.training_images()[0]) == 45_000  # without mnist5k's test split
    generators.main()
    made = assert_form_of_the_book(tmp_path / "09_metrics.json")
    own = json.loads((BOOK / "09_metrics.json").read_text())
    assert made["summary"].keys() == own["summary"].keys()
    for name in generators.LATENT_DIMS:
        weights = load_file(tmp_path / "shipped" / f"{name}_generator.safetensors")
        generators.new_generator(name).load_state_dict(weights)
    monkeypatch.setattr(generators, "train_one", None)
    monkeypatch.setattr(generators, "new_judge", lambda _: lambda *_: made["rows"][0])
    generators.main()
    again = json.loads((tmp_path / "09_metrics.json").read_text())
    assert again["cpu_seconds_of_training"] == made["cpu_seconds_of_training"]


def test_parzen_protocol_trains_the_seeds_that_are_missing_and_reports(
    tmp_path, monkeypatch, full_mnist
):
    monkeypatch.setattr(parzen, "LENGTHS", range(2, 5, 2))
    monkeypatch.setattr(parzen, "LONG", 6)
    monkeypatch.setattr(parzen, "STEPS", {0: 6, 1: 4})
    monkeypatch.setattr(parzen, "SAMPLES", 50)
    parzen.train_seed(0, tmp_path)
    kept = {file.name: load_file(file) for file in tmp_path.glob("*.safetensors")}
    weight = {name: w["layers.2.weight"] for name, w in kept.items()}
    assert not torch.equal(weight["seed0-4-raw.safetensors"], weight["seed0-6-raw.safetensors"])
    moved, lagging = (
        (weight[f"seed0-2-{name}.safetensors"] - weight[f"seed0-4-{name}.safetensors"]).norm()
        for name in ("raw", "average-.9999")
    )
    assert 0 < lagging < 0.01 * moved
    parzen.main()
    made = assert_form_of_the_book(tmp_path / "09_parzen.json")
    what = [row["what"] for row in made["rows"]]
    assert what.count("raw, 250 epochs") == 1
    assert what.count("k-means centers") == what.count("real images") == 2


def test_fashion_mnist_runs_the_command_line(tmp_path, monkeypatch):
    options = fashion_mnist.OPTIONS.replace("fashion_mnist", "mnist5k").replace("4000", "2")
    monkeypatch.setattr(fashion_mnist, "OPTIONS", options)
    monkeypatch.setattr(
        fashion_mnist, "load_images", lambda _, split="train": load_images("mnist5k", split)
    )
    fashion_mnist.main()
    made = assert_form_of_the_book(tmp_path / "08_fashion_mnist.json")
    assert made["judge_accuracy"] > 0.9


def test_classifier_learns_and_carries_its_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr(train_classifier, "FILE", tmp_path / "classifier.safetensors")
    monkeypatch.setattr(
        train_classifier, "load_images", lambda _, split="train": load_images("mnist5k", split)
    )
    monkeypatch.setattr(train_classifier, "EPOCHS", 2)
    train_classifier.main()
    with safe_open(train_classifier.FILE, "pt") as file:
        facts = file.metadata()
    assert facts.keys() == MADE_BY | {"test_accuracy", "seconds"}
    assert 0.8 < float(facts["test_accuracy"]) <= 1
