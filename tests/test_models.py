"""ganlib.models: sizes counted by hand, layers computed naively, ranges and shapes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import ganlib
from ganlib.metrics import DigitClassifier, judge_digits, load_digit_classifier
from ganlib.models import (
    ConvDiscriminator,
    ConvGenerator,
    Maxout,
    MaxoutDiscriminator,
    MLPGenerator,
    load_generator,
    mlp,
    small_pair,
    uniform_init_,
)
from ganlib.trainer import generate

IMAGES = (
    lambda: (MLPGenerator(7), 7),
    lambda: (MLPGenerator(7, batch_norm=True), 7),
    lambda: (ConvGenerator(9, channels=4), 9),
)
LOGITS = (
    lambda: MaxoutDiscriminator(hidden=6, pieces=2),
    lambda: ConvDiscriminator(channels=4),
    lambda: ConvDiscriminator(channels=4, batch_norm=False, hidden=3),
)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (MLPGenerator, 100 * 1200 + 1200 + 1200 * 1200 + 1200 + 1200 * 784 + 784),
        (MaxoutDiscriminator, 785 * 1200 + 241 * 1200 + 241),
        (lambda: mlp([3, 5, 2]), 3 * 5 + 5 + 5 * 2 + 2),
        (lambda: small_pair(2, 3, 8)[0], 3 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2),
        (lambda: small_pair(2, 3, 8)[1], 2 * 8 + 8 + 8 * 8 + 8 + 8 + 1),
        (lambda: Maxout(3, 4, 5), 3 * 20 + 20),
        (
            lambda: ConvGenerator(10, 8),
            10 * 32 * 49 + 2 * 32 + 32 * 16 * 16 + 2 * 16 + 16 * 16 + 1,
        ),
        (lambda: ConvDiscriminator(8), 8 * 16 + 8 + 8 * 16 * 16 + 2 * 16 + 16 * 49 + 1),
        (
            lambda: ConvDiscriminator(8, batch_norm=False),
            8 * 16 + 8 + 8 * 16 * 16 + 16 + 16 * 49 + 1,
        ),
        (
            lambda: ConvDiscriminator(8, hidden=5),
            8 * 16 + 8 + 8 * 16 * 16 + 2 * 16 + (16 * 49 + 1) * 5 + 5 + 1,
        ),
        (DigitClassifier, 24 * 9 + 24 + 24 * 48 * 9 + 48 + 48 * 49 * 64 + 64 + 640 + 10),
    ],
)
def test_networks_have_the_number_of_weights_counted_by_hand(network, expected):
    assert count(network()) == expected


@pytest.mark.parametrize("make", IMAGES)
def test_image_generators_map_latents_to_images_between_0_and_1(make):
    generator, latent_dim = make()
    images = generator(50 * torch.randn(5, latent_dim))
    assert images.shape == (5, 1, 28, 28)
    assert 0 <= images.min() < 0.4
    assert 0.6 < images.max() <= 1
    assert generator.latent_dim == latent_dim


WRONG = ((1, 32, 32), (3, 28, 28), (1, 29, 31), (1, 14, 56), (784,), (28, 28))


@pytest.mark.parametrize("shape", WRONG, ids=str)
@pytest.mark.parametrize("make", [*LOGITS, DigitClassifier])
def test_images_of_another_shape_are_refused_with_both_shapes(make, shape):
    told = f"images of shape (n, 1, 28, 28) expected, got {(5, *shape)}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        make()(torch.rand(5, *shape))


def test_a_discriminator_of_color_images_names_their_shape():
    discriminator = MaxoutDiscriminator((3, 4, 5), 6, 2)
    assert discriminator(torch.rand(2, 3, 4, 5)).shape == (2,)
    with pytest.raises(ValueError, match=re.escape("(n, 3, 4, 5) expected, got (2, 3, 5, 4)")):
        discriminator(torch.rand(2, 3, 5, 4))


@pytest.mark.parametrize("shape", [(5, 8), (5, 1), (5,), (5, 7, 1), (5, 9, 1, 1)], ids=str)
@pytest.mark.parametrize("make", IMAGES)
def test_latents_of_another_shape_are_refused_with_both_shapes(make, shape):
    generator, latent_dim = make()
    told = f"latents of shape (n, {latent_dim}) expected, got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        generator(torch.randn(shape))


def test_image_generator_paints_other_image_shapes():
    generator = MLPGenerator(4, hidden=(6,), image_shape=(3, 5, 7))
    assert generator(torch.randn(2, 4)).shape == (2, 3, 5, 7)


@pytest.mark.parametrize("make", LOGITS)
def test_image_discriminators_give_one_unbounded_logit_for_each_image(make):
    discriminator = make().eval()
    logits = discriminator(torch.rand(5, 1, 28, 28))
    assert logits.shape == (5,)
    last = [m for m in discriminator.modules() if isinstance(m, nn.Linear)][-1]
    last.bias.data += 100.0
    moved = discriminator(torch.rand(1, 1, 28, 28))  # no sigmoid after the last layer
    assert 90 < moved.item() < 110
    assert moved.shape == (1,)


def test_small_pair_maps_latents_to_points_and_points_to_logits():
    generator, discriminator = small_pair(data_dim=2, latent_dim=3)
    points = generator(torch.randn(5, 3))
    assert points.shape == (5, 2)
    assert discriminator(points).shape == (5,)


def test_mlp_ends_in_a_linear_layer_and_applies_the_activation_between():
    network = mlp([2, 3, 4, 1], nn.ReLU)
    x = torch.randn(6, 2)
    y = x.numpy()
    layers = [m for m in network if isinstance(m, nn.Linear)]
    for layer in layers:
        y = y @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        y = np.maximum(y, 0) if layer is not layers[-1] else y
    assert len(layers) == 3
    assert np.allclose(network(x).detach().numpy(), y, atol=1e-6)


@pytest.mark.parametrize("sizes", [[], [3]])
def test_mlp_without_two_sizes_is_refused_and_quoted(sizes):
    with pytest.raises(ValueError) as caught:
        mlp(sizes)
    assert f"got {sizes}" in str(caught.value)


def test_maxout_is_the_maximum_over_its_linear_maps():
    layer = Maxout(3, 4, pieces=5)
    x = torch.randn(6, 3)
    weight, bias = layer.linear.weight.detach().numpy(), layer.linear.bias.detach().numpy()
    maps = [x.numpy() @ weight[i::5].T + bias[i::5] for i in range(5)]
    assert np.allclose(layer(x).detach().numpy(), np.max(maps, axis=0), atol=1e-6)


def test_maxout_discriminator_drops_a_fifth_of_the_input_and_half_of_each_hidden_layer():
    discriminator = MaxoutDiscriminator()
    dropped = []

    def watch(module, inputs, output):
        dropped.append((output == 0).float().mean().item())

    for module in discriminator.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(watch)
    discriminator(torch.ones(40, 1, 28, 28))
    assert dropped == pytest.approx([0.2, 0.5, 0.5], abs=0.02)
    discriminator.eval()
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(discriminator(x), discriminator(x))


def test_pixel_means_are_what_the_generator_paints_before_its_weights_speak():
    means = torch.rand(1, 4, 6)
    means[0, 0, :2] = torch.tensor([0.0, 1.0])
    generator = MLPGenerator(3, (5,), (1, 4, 6), pixel_means=means)
    output = generator.layers[-1]
    assert isinstance(output, nn.Linear)
    output.weight.data.zero_()
    painted = generator(torch.randn(2, 3))
    assert torch.allclose(painted[1], means.clamp(0.001, 0.999), atol=1e-6)


def test_batch_norm_has_the_usual_eps_and_momentum():
    layers = [m for m in MLPGenerator(batch_norm=True).modules() if isinstance(m, nn.BatchNorm1d)]
    assert [(m.num_features, m.eps, m.momentum) for m in layers] == [(1200, 1e-5, 0.1)] * 2
    assert not any(isinstance(m, nn.BatchNorm1d) for m in MLPGenerator().modules())


def test_uniform_init_fills_the_interval_and_leaves_the_biases():
    network = MLPGenerator(20, hidden=(40,))
    biases = [m.bias.clone() for m in network.modules() if isinstance(m, nn.Linear)]
    uniform_init_(network, 0.05)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    for layer, bias in zip(layers, biases, strict=True):
        assert torch.equal(layer.bias, bias)
        assert -0.05 <= layer.weight.min() < -0.048
        assert 0.048 < layer.weight.max() <= 0.05
        assert layer.weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.1)


def test_conv_discriminator_works_on_images_in_minus_1_to_1():
    discriminator = ConvDiscriminator(channels=2).eval()
    x = torch.rand(3, 1, 28, 28)
    assert torch.allclose(discriminator(x), discriminator.layers((x - 0.5) / 0.5), atol=1e-6)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_without_batch_norm_a_logit_depends_on_its_own_image_only(batch_norm):
    discriminator, x = (
        ConvDiscriminator(channels=2, batch_norm=batch_norm),
        torch.rand(3, 1, 28, 28),
    )
    together, alone = discriminator(x), discriminator(x[:1])
    assert torch.allclose(together[:1], alone, rtol=0, atol=1e-5) == (not batch_norm)


def test_digit_classifier_gives_ten_logits():
    logits = DigitClassifier().eval()(torch.rand(3, 1, 28, 28))
    assert logits.shape == (3, 10)
    assert (logits < 0).any()


@pytest.mark.parametrize("name", ["maxout", "conv"])
def test_shipped_generators_draw_digits_of_all_classes(name):
    generator = load_generator(name)
    assert not generator.training
    assert {p.dtype for p in generator.parameters()} == {torch.float32}
    images = generate(generator, torch.randn(500, generator.latent_dim))
    confidence, shares = judge_digits(images, load_digit_classifier())
    assert confidence > 0.9
    assert shares.min() > 0.01


@pytest.mark.parametrize("name", ["maxout", "conv"])
def test_shipped_generators_say_what_made_them(name):
    file = Path(ganlib.__file__).with_name(f"{name}_generator.safetensors")
    with safe_open(file, "pt") as opened:
        assert {"command", "date", "steps", "seed", "torch"} <= opened.metadata().keys()


def test_shipped_networks_weigh_at_most_8_megabytes_in_all():
    files = list(Path(ganlib.__file__).parent.glob("*.safetensors"))
    assert len(files) >= 3
    assert sum(file.stat().st_size for file in files) <= 8_000_000


def test_load_generator_refuses_and_quotes_another_name():
    with pytest.raises(ValueError, match="'maxout' or 'conv' expected, got 'dcgan'"):
        load_generator("dcgan")
