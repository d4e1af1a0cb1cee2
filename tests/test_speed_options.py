"""What makes a step fast changes nothing else: one pass of D, bfloat16, the compiled step."""

import copy
import shutil

import pytest
import torch
from torch import Tensor, nn

from ganlib import cli, runs
from ganlib.compiled import compiled_step
from ganlib.losses import gan_loss_d, gan_loss_g, in_bfloat16, real_and_fake_logits
from ganlib.models import (
    ConvDiscriminator,
    ConvGenerator,
    MaxoutDiscriminator,
    MLPGenerator,
    mlp,
)
from ganlib.trainer import State, simultaneous_step, train

Batch = tuple[Tensor, Tensor]


def mlp_pair() -> tuple[nn.Module, nn.Module]:
    discriminator = nn.Sequential(nn.Flatten(), mlp([784, 40, 1], nn.LeakyReLU), nn.Flatten(0))
    return MLPGenerator(8, (32, 48), batch_norm=True), discriminator


def maxout_pair() -> tuple[nn.Module, nn.Module]:
    return MLPGenerator(8, (40, 40)), MaxoutDiscriminator(hidden=16, dropout=(0.0, 0.0))


def conv_pair() -> tuple[nn.Module, nn.Module]:
    return ConvGenerator(8, channels=8), ConvDiscriminator(channels=8)


PAIRS = [mlp_pair, maxout_pair, conv_pair]


def new_state(pair: tuple[nn.Module, nn.Module], lr: float = 1e-3) -> State:
    """As the command line makes it: with the fused Adam."""
    opt_g, opt_d = (
        torch.optim.Adam(net.parameters(), lr, (0.5, 0.999), fused=True) for net in pair
    )
    return State(*pair, opt_g, opt_d, torch.Generator().manual_seed(1))


def draw(rng: torch.Generator) -> Batch:
    return torch.rand(12, 1, 28, 28, generator=rng), torch.randn(12, 8, generator=rng)


def weights(network: nn.Module) -> Tensor:
    """All weights in one vector."""
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def statistics(network: nn.Module) -> Tensor:
    """What batch norm keeps, its counts among it."""
    return torch.cat([torch.zeros(1), *(b.detach().float().flatten() for b in network.buffers())])


# One pass of D over both batches


class Counting(nn.Module):
    """Counts the passes of a discriminator."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.passes = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.network(x)


@pytest.mark.parametrize(("pair", "passes"), [(mlp_pair, 1), (maxout_pair, 1), (conv_pair, 2)])
def test_logits_of_both_batches_are_those_of_two_passes(pair, passes):
    discriminator = pair()[1]
    other, counting = copy.deepcopy(discriminator), Counting(discriminator)
    x_real, x_fake = torch.rand(5, 1, 28, 28), torch.rand(3, 1, 28, 28)
    real_logits, fake_logits = real_and_fake_logits(counting, x_real, x_fake)
    assert counting.passes == passes
    assert torch.allclose(real_logits, other(x_real), rtol=0, atol=1e-6)
    assert torch.allclose(fake_logits, other(x_fake), rtol=0, atol=1e-6)
    assert torch.equal(statistics(discriminator), statistics(other))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4)])
def test_any_batch_norm_in_the_discriminator_takes_two_passes(norm):
    discriminator = nn.Sequential(nn.Linear(3, 4), nn.Sequential(norm), nn.Flatten())
    counting = Counting(discriminator.eval())
    real_and_fake_logits(counting, torch.rand(5, 3), torch.rand(5, 3))
    assert counting.passes == 2


# The fast path against the plain loop


def play_plainly(pair: tuple[nn.Module, nn.Module], batches: list[Batch], lr: float) -> None:
    """The game written out: D's two batches apart, nothing frozen, Adam as torch has it."""
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


def train_pair() -> tuple[nn.Module, nn.Module]:
    """The convolutional networks that `ganlib train conv` makes, in channels_last."""
    options = cli.COMMON | cli.MODELS["conv"] | {"model": "conv", "n_processes": 1, "latent_dim": 8}
    generator, discriminator = runs.new_networks(runs.Settings(**options))
    assert not all(p.is_contiguous() for p in discriminator.parameters())
    return generator, discriminator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pair", [*PAIRS, train_pair])
def test_weights_after_20_fast_steps_equal_those_of_the_plain_loop_within_rounding(pair, dtype):
    share = 1e-4 if dtype == torch.float32 else 1e-12  # of the distance moved
    if pair is mlp_pair and dtype == torch.float32:
        share = 5e-3  # a bias before batch norm has gradient 0: Adam steps by its rounding errors
    fast = tuple(network.to(dtype) for network in pair())
    plain = tuple(copy.deepcopy(net).to(memory_format=torch.contiguous_format) for net in fast)
    start = copy.deepcopy(plain)
    rng = torch.Generator().manual_seed(2)
    batches = [(x.to(dtype), z.to(dtype)) for x, z in (draw(rng) for _ in range(40))]
    supply = iter(batches)
    state = new_state(fast, 1e-4)
    train(state, lambda rng: next(supply), gan_loss_d, gan_loss_g, until=20, progress=False)
    play_plainly(plain, batches, 1e-4)
    for found, expected, before in zip(fast, plain, start, strict=True):
        way = (weights(expected) - weights(before)).norm()
        assert way > 0.01
        assert (weights(found) - weights(expected)).norm() < share * way
        assert torch.allclose(statistics(found), statistics(expected), rtol=share, atol=1e-6)


# bfloat16


@pytest.mark.parametrize("loss", [gan_loss_d, gan_loss_g])
@pytest.mark.parametrize("pair", PAIRS)
def test_bfloat16_rounds_what_the_networks_compute_and_returns_float32(pair, loss):
    generator, discriminator = pair()
    batch = draw(torch.Generator().manual_seed(3))
    exact, logs = loss(generator, discriminator, batch)
    rounded, rounded_logs = in_bfloat16(loss)(generator, discriminator, batch)
    assert rounded.dtype == torch.float32
    assert all(number.dtype == torch.float32 for number in rounded_logs.values())
    assert rounded_logs.keys() == logs.keys()
    assert 0 < abs(rounded.item() - exact.item()) < 0.02
    player = discriminator if loss is gan_loss_d else generator
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, list(player.parameters()))])
        for value in (exact, rounded)
    ]
    assert gradients[1].dtype == torch.float32
    assert 0 < (gradients[1] - gradients[0]).norm() < 0.15 * gradients[0].norm()


def test_a_loss_in_bfloat16_still_reads_the_networks_attributes_and_several_outputs():
    class TwoHeads(nn.Module):
        scale = 3.0

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            both = self.linear(x)
            return both[:, 0], both[:, 1]

    def loss(generator, discriminator, batch):
        first, second = discriminator(batch)
        assert first.dtype == second.dtype == torch.float32
        return discriminator.scale * (first + second).mean(), {}

    network, x = TwoHeads(), torch.randn(5, 2)
    expected = loss(network, network, x)[0].item()
    assert in_bfloat16(loss)(network, network, x)[0].item() == pytest.approx(expected, rel=0.02)


# The compiled step

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a compiler"
)


def weights_of(state: State) -> Tensor:
    return torch.cat([weights(state.generator), weights(state.discriminator)])


@needs_compiler
def test_compiled_training_equals_eager_training_and_compiles_once():
    pair = MLPGenerator(8, (16,), batch_norm=True), mlp_pair()[1]
    eager, compiled = new_state(pair), new_state(copy.deepcopy(pair))
    start = weights_of(eager)

    def before_step(state: State) -> None:
        for optimizer in (state.opt_d, state.opt_g):
            optimizer.param_groups[0]["lr"] = 2e-3 / (state.step + 1)
        if state is compiled and state.step == 1:
            torch.compiler.set_stance("fail_on_recompile")

    options = {"until": 6, "n_critic": 2, "log_every": 2, "before_step": before_step}
    try:
        found = train(
            compiled, draw, gan_loss_d, gan_loss_g, compile=True, **options, progress=False
        )
    finally:
        torch.compiler.set_stance("default")
    expected = train(eager, draw, gan_loss_d, gan_loss_g, **options, progress=False)
    way = (weights_of(eager) - start).norm()
    assert way > 0.01
    assert (weights_of(compiled) - weights_of(eager)).norm() < 0.005 * way
    assert torch.allclose(
        statistics(compiled.generator), statistics(eager.generator), rtol=0, atol=1e-3
    )
    assert found.scalars.keys() == expected.scalars.keys()
    for name in expected.scalars:
        assert found.series(name)[1] == pytest.approx(expected.series(name)[1], abs=1e-4), name
    assert torch.equal(compiled.rng.get_state(), eager.rng.get_state())
    for optimizer in (compiled.opt_d, compiled.opt_g):  # their options are as they were
        assert optimizer.param_groups[0]["lr"] == 2e-3 / 6
        assert optimizer.param_groups[0]["fused"] is True


def test_compile_refuses_another_step_and_quotes_it():
    with pytest.raises(ValueError, match="simultaneous_step"):
        train(new_state(mlp_pair()), draw, gan_loss_d, gan_loss_g, until=1,
              step=simultaneous_step, compile=True)  # fmt: skip


def test_compile_refuses_optimizers_whose_steps_have_hooks():
    state = new_state(mlp_pair())
    state.opt_g.register_step_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks"):
        compiled_step(state, gan_loss_d, gan_loss_g, 1)
