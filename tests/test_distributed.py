"""Two processes that share each batch train as one process does, and resume exactly.

Both processes are started once; they run this file as a script and leave their results in files.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import ganlib
from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.models import MLPGenerator, mlp
from ganlib.runs.checkpoint import load_checkpoint, save_checkpoint
from ganlib.runs.parallel import average_gradients
from ganlib.trainer import State, train

ROOT = Path(ganlib.__file__).parents[1]
STEPS, BATCH = 8, 12


class WithHead(nn.Module):
    """A discriminator with a head that G's optimizer moves, as in InfoGAN, and a fixed layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.Linear(36, 36).requires_grad_(False)
        self.judge, self.head = mlp([36, 32, 1]), mlp([36, 16, 5])

    def forward(self, x: Tensor) -> Tensor:
        return self.judge(self.fixed(x.flatten(1))).flatten(0)


def loss_g(generator: nn.Module, discriminator: nn.Module, batch: Any) -> Any:
    loss, logs = gan_loss_g(generator, discriminator, batch)
    guess = discriminator.get_submodule("head")(generator(batch[1]).flatten(1))
    return loss + (guess - batch[1]).square().mean(), logs


def new_state(seed: int) -> State:
    """Networks without dropout and batch norm."""
    torch.manual_seed(seed)
    generator, discriminator = MLPGenerator(5, (32, 24), (1, 6, 6)), WithHead()
    by_g = [*generator.parameters(), *discriminator.head.parameters()]
    opt_g = torch.optim.Adam(by_g, 2e-3, (0.5, 0.999), fused=True)
    opt_d = torch.optim.Adam(discriminator.judge.parameters(), 1e-3, (0.5, 0.999), fused=True)
    return State(generator, discriminator, opt_g, opt_d, torch.Generator().manual_seed(3))


def weights_of_both(state: State) -> dict[str, Tensor]:
    """The weights of both players by their names."""
    return {
        f"{name}.{key}": value
        for name in ("generator", "discriminator")
        for key, value in getattr(state, name).state_dict().items()
    }


def weights_after(seed: int, share: int, of: int) -> dict[str, Tensor]:
    """Train on the share-th part of each of the same batches; the weights of both players."""
    state = new_state(seed)
    if dist.is_initialized():
        average_gradients(state)

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(BATCH, 1, 6, 6, generator=rng)
        z = torch.randn(BATCH, 5, generator=rng)
        return x.chunk(of)[share], z.chunk(of)[share]

    train(state, draw, gan_loss_d, loss_g, until=STEPS, n_critic=2, progress=False)
    return weights_of_both(state)


RUN = ["train", "conv", "--batch-size", "6", "--latent-dim", "3", "--sample-every", "2"]


def in_each_process(folder: Path, ports: list[str]) -> None:
    """What the script does in each of the two processes."""
    from ganlib.runs.cli import main

    rank, outcome = int(os.environ["RANK"]), {}

    def command(port: str, *arguments: str) -> None:
        os.environ["MASTER_PORT"] = port
        try:
            main(arguments, prog_name="ganlib", standalone_mode=False)
        except Exception as error:
            outcome[arguments[-1]] = str(error)
        if dist.is_initialized():
            dist.destroy_process_group()

    torch.set_num_threads(1)
    os.environ["MASTER_PORT"] = ports[0]
    dist.init_process_group("gloo")
    save_checkpoint(folder / f"weights{rank}.pt", weights_after(10 + rank, rank, 2))
    dist.destroy_process_group()
    whole, parts = str(folder / "whole"), str(folder / "parts")
    command(ports[1], *RUN, "--out", whole, "--steps", "4")
    command(ports[2], *RUN, "--out", parts, "--steps", "2")
    command(ports[3], *RUN[:2], "--out", parts, "--resume", "--steps", "4")
    command(ports[4], *RUN, "--out", str(folder / "odd"), "--batch-size", "7")
    command(ports[5], *RUN, "--out", whole)
    (folder / f"outcome{rank}.json").write_text(json.dumps(outcome))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes left their results."""
    folder = tmp_path_factory.mktemp("two")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    places = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
              "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), *ports],
            env=os.environ | places | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=900)
        (folder / f"out{rank}").write_text(out)
        assert process.returncode == 0, err
    return folder


pytestmark = [
    pytest.mark.xdist_group("distributed"),  # one worker, so that the fixture runs once
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
]


def test_two_processes_with_half_of_each_batch_make_the_weights_of_one_with_all_of_it(folder):
    # Process 0 starts from seed 10, process 1 from seed 11: rank 0's weights are everybody's.
    whole, start = weights_after(10, 0, 1), weights_of_both(new_state(10))
    found = [load_checkpoint(folder / f"weights{rank}.pt") for rank in range(2)]
    for name, weight in whole.items():
        assert torch.equal(found[0][name], found[1][name]), name
        assert (found[0][name] - weight).abs().max() < 2e-6, name
    moved = {name: (whole[name] - weight).abs().max().item() for name, weight in start.items()}
    fixed = {name for name, by in moved.items() if by == 0}
    assert fixed == {"discriminator.fixed.weight", "discriminator.fixed.bias"}
    # A thousand times the difference that is allowed.
    assert min(by for name, by in moved.items() if name not in fixed) > 1e-3


def test_half_of_each_batch_alone_leads_elsewhere():
    whole, half = weights_after(10, 0, 1), weights_after(10, 0, 2)
    assert max((half[name] - whole[name]).abs().max() for name in whole) > 1e-3


def test_a_resumed_run_of_two_processes_equals_an_uninterrupted_one_bit_for_bit(folder):
    from builders import assert_equal

    whole, parts = (load_checkpoint(folder / name / "checkpoint.pt") for name in ("whole", "parts"))
    for contents in (whole, parts):  # the norms of gradients are also recorded at the last step
        for name in ("grad/D", "grad/G"):
            contents["state"]["scalars"].pop(name)
    assert whole["state"]["step"] == 4
    assert len(whole["state"]["scalars"]["R1"]) == 4  # a gradient of a gradient
    assert_equal(parts["state"], whole["state"])
    assert_equal(parts["random"], whole["random"])


def test_each_process_has_random_numbers_of_its_own_and_all_are_kept(folder):
    random = load_checkpoint(folder / "whole" / "checkpoint.pt")["random"]
    assert len(random) == 2
    assert not torch.equal(random[0]["rng"], random[1]["rng"])
    assert not torch.equal(random[0]["cpu"], random[1]["cpu"])


def test_only_process_0_writes_and_shows_a_bar_and_the_number_of_processes_is_recorded(folder):
    assert "4/4" in (folder / "out0").read_text()
    assert (folder / "out1").read_text() == ""
    assert sorted(f.name for f in (folder / "parts").rglob("*.*")) == [
        "checkpoint.pt", "metrics.json", "step-000000.png", "step-000002.png", "step-000004.png"
    ]  # fmt: skip
    told = json.loads((folder / "parts" / "metrics.json").read_text())
    assert (told["n_processes"], told["steps"]) == (2, 4)
    assert told["command"].startswith("torchrun --nproc-per-node 2 -m ganlib ")


def test_a_mistake_is_refused_by_each_process_in_the_same_words(folder):
    for rank in range(2):
        outcome = json.loads((folder / f"outcome{rank}.json").read_text())
        assert list(outcome) == ["7", str(folder / "whole")]
        assert "--batch-size expected that 2 processes share equally" in outcome["7"]
        assert "holds a run: add --resume" in outcome[str(folder / "whole")]
    assert not (folder / "odd").exists()


def test_a_run_of_two_processes_does_not_go_on_in_one(folder):
    from click.testing import CliRunner

    from ganlib.runs.cli import main

    before = (folder / "whole" / "checkpoint.pt").read_bytes()
    arguments = ["train", "conv", "--out", str(folder / "whole"), "--resume", "--steps", "9"]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 2
    assert "begun by 2 processes, got 1: torchrun --nproc-per-node 2" in ran.output
    assert (folder / "whole" / "checkpoint.pt").read_bytes() == before


if __name__ == "__main__":
    in_each_process(Path(sys.argv[1]), sys.argv[2:])
