"""What makes a step fast changes nothing else, and the benchmarks of speed run and count right."""

import copy
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import against_the_usual_loop as against
import pytest
import torch
import usual_loop
from test_bfloat16 import PAIRS, Batch, conv_pair, draw, mlp_pair
from torch import Tensor, nn

from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.trainer import State, train, train_step

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = usual_loop.Pair(conv_pair, {"float32": 1e9}, latent_dim=8, batch=4, steps=1, conv=True)


@pytest.fixture(autouse=True)
def settings_of_torch_stay(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    yield
    torch.set_float32_matmul_precision("highest")


def vector(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def statistics(network: nn.Module) -> Tensor:
    """What batch norm keeps, its counts among it."""
    return torch.cat([torch.zeros(1), *(b.detach().float().flatten() for b in network.buffers())])


def play_plainly(pair: tuple[nn.Module, nn.Module], batches: list[Batch], lr: float) -> None:
    """The game written out, with Adam as torch has it and convolutions as they come."""
    generator, discriminator = pair
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), lr, (0.5, 0.999)) for net in pair)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    for (x_real, z_d), (_, z_g) in zip(batches[::2], batches[1::2], strict=True):
        x_fake = generator(z_d).detach()
        real_logits, fake_logits = discriminator(x_real), discriminator(x_fake)
        loss_d = cross_entropy(real_logits, torch.ones_like(real_logits))
        loss_d = loss_d + cross_entropy(fake_logits, torch.zeros_like(fake_logits))
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        fake_logits = discriminator(generator(z_g))
        loss_g = cross_entropy(fake_logits, torch.ones_like(fake_logits))
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pair", PAIRS)
def test_weights_after_20_fast_steps_equal_those_of_the_plain_loop_within_rounding(pair, dtype):
    share = 1e-4 if dtype == torch.float32 else 1e-12  # of the distance moved
    if pair is mlp_pair and dtype == torch.float32:
        share = 5e-3  # a bias before batch norm has gradient 0: Adam steps by its rounding errors
    fast = [network.to(dtype) for network in pair()]
    plain, start = copy.deepcopy(fast), copy.deepcopy(fast)
    rng = torch.Generator().manual_seed(2)
    batches = [(x.to(dtype), z.to(dtype)) for x, z in (draw(rng) for _ in range(40))]
    supply = iter(batches)
    opt_g, opt_d = (torch.optim.Adam(n.parameters(), 1e-4, (0.5, 0.999), fused=True) for n in fast)
    state = State(fast[0], fast[1], opt_g, opt_d, torch.Generator())
    if pair is conv_pair:
        assert not all(p.is_contiguous() for p in fast[1].parameters())
    train(state, lambda rng: next(supply), gan_loss_d, gan_loss_g, until=20, progress=False)
    play_plainly((plain[0], plain[1]), batches, 1e-4)
    for found, expected, before in zip(fast, plain, start, strict=True):
        way = (vector(expected) - vector(before)).norm()
        assert way > 0.01
        assert (vector(found) - vector(expected)).norm() < share * way
        assert torch.allclose(statistics(found), statistics(expected), rtol=share, atol=1e-6)


def test_the_counted_work_is_that_of_each_product_once():
    pair = usual_loop.PAIRS["gan.py"]
    g, d = [100, 128, 256, 512, 1024, 784], [784, 512, 256, 1]
    of_g, of_d = (sum(a * b for a, b in pairwise(s)) for s in (g, d))
    step_d = of_g + 2 * of_d + 2 * (2 * of_d - d[0] * d[1])  # no slope of an image is wanted
    step_g = of_g + of_d + of_d + 2 * of_g - g[0] * g[1]  # nor of D's weights, nor of a latent
    state = against.ganlib_state(pair, "float32")
    images = torch.zeros(5, 1, 28, 28, dtype=torch.uint8)
    sampler = against.image_sampler(images, pair.batch, pair.latent_dim)
    found = against.flops(lambda: train_step(state, sampler, gan_loss_d, gan_loss_g, 1))
    assert found == 2 * pair.batch * (step_d + step_g)
    assert against.products_alone(pair, torch.float32)[1] == 3 * 2 * pair.batch * (of_g + of_d)


def test_the_networks_are_those_of_the_public_scripts():
    for name, sizes in (("gan.py", (1_510_032, 533_505)), ("dcgan.py", (1_049_985, 98_113))):
        networks = usual_loop.PAIRS[name].networks()
        assert tuple(sum(p.numel() for p in n.parameters()) for n in networks) == sizes
        x = networks[0](torch.randn(2, 100))
        assert x.shape == (2, 1, *2 * (usual_loop.PAIRS[name].side,))
        assert networks[1](x).shape == (2,)


def test_the_contiguous_row_undoes_the_layout_that_state_gives():
    for row, expected in (("float32", False), ("float32, contiguous", True)):
        state = against.ganlib_state(TINY, row)
        assert all(w.is_contiguous() for w in state.discriminator.parameters()) is expected


def test_the_record_of_speed_says_what_was_aimed_at_and_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(against, "PAIRS", {"conv": TINY})
    monkeypatch.setattr(against, "compiled_step", lambda: train_step)
    monkeypatch.setattr("sys.argv", ["x", "--rounds", "1", "--out", str(tmp_path / "speed.json")])
    against.main()
    record = json.loads((tmp_path / "speed.json").read_text())
    rows = {row["row"]: row for row in record["rows"]}
    assert rows["float32"]["goal"] == 1e9
    assert rows["float32"]["reached"] is False
    for name, row in rows.items():
        if name != "usual loop":
            share = row["floor ms"] / row["ms"]
            assert row["share of floor"] == pytest.approx(share, abs=0.01 + 0.02 * share)
            if abs(row["ratio"] - row["goal"]) > 0.01:  # rounded
                assert row["reached"] is (row["ratio"] > row["goal"])
    assert all(0 < moved < 1 for moved in record["apart"]["conv"])


def test_the_script_for_a_gpu_runs_through_on_a_cpu_and_needs_five_packages_only(tmp_path):
    file = tmp_path / "gpu.json"
    code = f"""
import sys
for name in ("torchvision", "PIL", "matplotlib", "scipy", "mlxtend", "ipywidgets", "pandas"):
    sys.modules[name] = None
sys.argv = ["on_a_gpu.py", "--device", "cpu", "--quick", "--out", {str(file)!r}]
import on_a_gpu
on_a_gpu.main()
"""
    folders = f"{BENCHMARKS.parent}{os.pathsep}{BENCHMARKS}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(file.read_text())
    assert record["images"] == "random"
    kinds = {(row["pair"], row["row"]) for row in record["rows"]}
    expected = ("usual loop", "float32", "bfloat16")
    assert kinds == {(pair, row) for pair in ("maxout", "conv") for row in expected}
    assert all(row["images/s"] > 0 for row in record["rows"])
    assert [row["seeds"] for row in record["seeds"]] == [1, 2]
    assert record["long"]["steps"] >= 50
