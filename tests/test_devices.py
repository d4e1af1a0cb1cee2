"""Nothing is made on a device other than that of the images, seen without a GPU.

Tensors on torch's `meta` device have a shape and no numbers; one of another device mixed in raises.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from ganlib.data import image_sampler
from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.models import (
    ConvDiscriminator,
    ConvGenerator,
    MaxoutDiscriminator,
    MLPGenerator,
    small_pair,
)
from ganlib.runs import training
from ganlib.runs.settings import COMMON, GAMES, MODELS, Settings
from ganlib.seeds import train_seeds
from ganlib.trainer import State, generate, running_average, train

META_IMAGES = torch.zeros(9, 1, 28, 28, dtype=torch.uint8, device="meta")


@pytest.fixture(autouse=True)
def read_as_zeros(monkeypatch):
    """What is read from a device is 0 where there are no numbers."""

    def read(tensor: Tensor) -> Tensor:
        return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.clone()

    numbers, number = Tensor.tolist, Tensor.item
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: numbers(read(tensor.detach())))
    monkeypatch.setattr(Tensor, "item", lambda tensor: number(read(tensor.detach())))
    monkeypatch.setattr(Tensor, "cpu", read)


def on_meta(networks: tuple[nn.Module, nn.Module]) -> State:
    generator, discriminator = (network.to("meta") for network in networks)
    opt_g, opt_d = (Adam(n.parameters(), fused=False) for n in (generator, discriminator))
    average = running_average(generator, 0.9)
    return State(generator, discriminator, opt_g, opt_d, torch.Generator(), average=average)


def assert_on_meta(tensors) -> None:
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_image_sampler_draws_on_the_device_of_the_images():
    labels = torch.zeros(9, dtype=torch.int64, device="meta")
    assert_on_meta(image_sampler(META_IMAGES, 4, 3, labels=labels)(torch.Generator()))


PAIRS = {
    "maxout": lambda: (MLPGenerator(batch_norm=True), MaxoutDiscriminator()),
    "conv": lambda: (ConvGenerator(100), ConvDiscriminator()),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_training_averaging_and_generating_stay_on_the_device(pair):
    state = on_meta(PAIRS[pair]())
    draw = image_sampler(META_IMAGES, 4, 100)
    train(state, draw, gan_loss_d, gan_loss_g, until=2, log_every=1, progress=False)
    networks = state.generator, state.discriminator, state.sampling_generator
    assert_on_meta(t for network in networks for t in network.state_dict().values())
    assert_on_meta([generate(state.sampling_generator, torch.zeros(5, 100, device="meta"))])


@pytest.mark.parametrize("pair", PAIRS)
def test_a_batch_of_another_device_raises(pair):
    draw = image_sampler(torch.zeros(9, 1, 28, 28, dtype=torch.uint8), 4, 100)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|device"):
        train(on_meta(PAIRS[pair]()), draw, gan_loss_d, gan_loss_g, until=1, progress=False)


def test_several_seeds_at_once_stay_on_the_device():
    def draw(_: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros(4, 2, device="meta"), torch.zeros(4, 2, device="meta")

    states = [on_meta(small_pair(2, 2, 8)) for _ in range(3)]
    train_seeds(states, draw, gan_loss_d, gan_loss_g, until=2, log_every=1, progress=False)
    for state in states:
        assert_on_meta([*state.generator.parameters(), *state.sampling_generator.parameters()])


@pytest.mark.parametrize("loss", GAMES)
@pytest.mark.parametrize("model", MODELS)
def test_the_command_lines_training_stays_on_the_device(model, loss, monkeypatch):
    whole = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: whole())  # meta has none
    monkeypatch.setattr(
        training, "Adam", lambda *given, **options: Adam(*given, **(options | {"fused": False}))
    )
    settings = Settings(**(COMMON | MODELS[model].defaults | {
        "model": model, "loss": loss, "device": "meta", "n_processes": 1}))  # fmt: skip
    state = training.new_state(settings, META_IMAGES)
    draw = image_sampler(META_IMAGES, 4, settings.latent_dim)
    train(state, draw, *GAMES[loss].losses(), until=2, n_critic=2, progress=False)
    networks = state.generator, state.discriminator, state.sampling_generator
    assert_on_meta(t for network in networks for t in network.state_dict().values())
