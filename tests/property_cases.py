"""The cases of tests/test_properties.py: arguments, laws and spoiled arguments by function."""

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from builders import draw_points, point_state
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.datasets import MNIST

from ganlib import games, plotting
from ganlib.data import gaussian_mixture
from ganlib.history import History
from ganlib.metrics import DigitClassifier, load_digit_classifier
from ganlib.models import small_pair
from ganlib.theory import js_divergence
from ganlib.trainer import running_average

NAN, INF = math.nan, math.inf
Draw = Callable[[Any], Any]


def nothing(*_: Any, **__: Any) -> None:
    """No law but that the numbers are finite."""


@dataclass(frozen=True)
class Case:
    """`spoils` draws, of a good argument, a bad one and what the error must quote of it."""

    arguments: st.SearchStrategy[dict[str, Any]]
    law: Callable[..., Any] = nothing
    spoils: dict[str, Callable[[Any], st.SearchStrategy]] = field(default_factory=dict)
    infinite: bool = False  # whether the result may be infinite
    first: tuple[str, ...] = ()  # arguments that are passed by position

    def leading(self, arguments: dict[str, Any]) -> list[Any]:
        return [arguments.pop(name) for name in self.first]


def numbers_in(result: Any) -> Iterator[float]:
    """All numbers in a result, however deep; of an array the least and the largest (or NaN)."""
    if isinstance(result, bool | int | float):
        yield float(result)
    elif isinstance(result, np.ndarray) and result.dtype != object:
        yield from numbers_in(torch.tensor(result))
    elif isinstance(result, Tensor) and result.numel():
        yield from (bound.item() for bound in result.detach().aminmax())
    elif isinstance(result, dict):
        for inner in result.values():
            yield from numbers_in(inner)
    elif isinstance(result, list | tuple):
        for inner in result:
            yield from numbers_in(inner)


# Drawing


@st.composite
def tensors(draw: Draw, *shape: Any, dtype: Any = (torch.float32, torch.float64), low: float = -1.0,
            high: float = 1.0, scales: tuple[float, ...] = (1.0,)) -> Tensor:  # fmt: skip
    """A random tensor; sizes are numbers or ranges, and values are scaled by one of `scales`."""
    sizes = [draw(st.integers(*n)) if isinstance(n, tuple) else n for n in shape]
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    x = low + (high - low) * torch.rand(sizes, generator=rng, dtype=torch.float64)
    of = draw(st.sampled_from(dtype)) if isinstance(dtype, tuple) else dtype
    return (x * draw(st.sampled_from(scales))).to(of)


def together(**strategies: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(strategies)


@st.composite
def several(draw: Draw, names: tuple[str, ...], *shape: Any, **options: Any) -> dict[str, Any]:
    """Tensors of one shape, drawn once."""
    sizes = [draw(st.integers(*n)) if isinstance(n, tuple) else n for n in shape]
    return {name: draw(tensors(*sizes, **options)) for name in names}


@st.composite
def densities(draw: Draw, names: tuple[str, ...], d: bool = False) -> dict[str, Any]:
    found = draw(several(names, (1, 6), low=0.0, dtype=torch.float64))
    dx = draw(st.sampled_from([1e-6, 0.1, 1.0, 30.0]))
    found = {name: (p + 1e-9) / ((p + 1e-9).sum() * dx) for name, p in found.items()}
    if d:
        found["d"] = draw(tensors(len(found[names[0]]), low=0.0))
    return found | {"dx": dx}


@st.composite
def clouds(draw: Draw, names: tuple[str, str], least: int = 2, **options: Any) -> dict[str, Any]:
    """Two sets of points of one dimension, near 0 or anywhere in float32."""
    d, scales = draw(st.sampled_from([1, 2, 20])), (1e-20, 1.0, 1e30)
    return {n: draw(tensors((least, 8), d, scales=scales, **options)) for n in names}


# Spoiling: each returns a strategy of pairs, a bad value and what the error must quote of it


def one_of(*bad: Any) -> Callable[[Any], st.SearchStrategy]:
    pairs = [(b, "" if b is None else str(b)) for b in bad]
    return lambda _: st.sampled_from(pairs)


def told(*pairs: tuple[Any, str]) -> Callable[[Any], st.SearchStrategy]:
    return lambda _: st.sampled_from(list(pairs))


POSITIVE = told(*((b, repr(b)) for b in (NAN, INF, -INF, 0, 0.0, -1.0, 1e200, "1", None, 1j)),
                (torch.ones(2), "tensor([1., 1.])"))  # fmt: skip
COUNT = told(*((b, repr(b)) for b in (0, -1, NAN, INF, 2.5, "3", None)))
FROM_0 = told(*((b, repr(b)) for b in (-1, -7, NAN, INF, 2.5, "3", None)))


def not_a_tensor(good: Tensor) -> list[tuple[Any, str]]:
    return [(None, "None"), ("text", "text"), (NAN, "nan"), (good.to(torch.complex64), "complex64")]


def values(good: Tensor) -> st.SearchStrategy:
    """A number that is not finite, or so large that squares overflow, and no numbers at all."""

    @st.composite
    def spoiled(draw: Draw) -> tuple[Any, str]:
        x = good.to(torch.float64).clone()
        bad = draw(st.sampled_from([NAN, INF, -INF, 1e200, -1e200]))
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = bad
        return x, str(bad)

    rest = [*not_a_tensor(good), (good.to("meta"), "meta")]
    return st.one_of(spoiled(), spoiled(), st.sampled_from(rest))


def unscaled(good: Tensor) -> st.SearchStrategy:
    """A density of any mass but none."""
    negative = good.clone()
    negative[-1] = -2.5
    others = [(negative, "-2.5"), (good[:0], "no values"), (0 * good, "mass 0")]
    return st.one_of(values(good), st.sampled_from(others))


def density(good: Tensor) -> st.SearchStrategy:
    negative = good.clone()
    negative[0] = -2.5
    more = [(negative, "-2.5"), (torch.cat([good, good]), "expected, got")]
    return st.one_of(values(good), st.sampled_from(more))


def filled(good: Tensor) -> st.SearchStrategy:
    """As `values`, or without any rows, or of another number of axes."""
    others = [(good[:0], str(tuple(good[:0].shape))), (good[0], str(tuple(good[0].shape)))]
    return st.one_of(values(good), st.sampled_from(others))


def of_images(good: Tensor) -> st.SearchStrategy:
    shapes = [good[:0], good[0], good[None], (good * 255).to(torch.uint8)]
    pairs = [(x, str(tuple(x.shape))) for x in shapes]
    return st.one_of(
        values(good), st.sampled_from([*pairs, (good * 255 + 2, "to 2"), (good - 2, "-")])
    )


def logits(good: Tensor) -> st.SearchStrategy:
    shapes = [(x, str(tuple(x.shape))) for x in (good[:, None], good[:0], good[0])]
    return st.sampled_from([*not_a_tensor(good), *shapes, (good.long(), "int64"),
                            (good > 0, "bool")])  # fmt: skip


# Networks, states, losses


@st.composite
def players(draw: Draw) -> dict[str, Any]:
    torch.manual_seed(draw(st.integers(0, 99)))
    generator, discriminator = small_pair(2, 3, 4)
    batch = (
        draw(tensors((1, 5), 2, dtype=torch.float32)),
        draw(tensors((1, 5), 3, dtype=torch.float32)),
    )
    return {"generator": generator, "discriminator": discriminator, "batch": batch}


COLUMN = told((nn.Linear(2, 1), ", 1)"), (nn.Linear(2, 3), ", 3)"))


@st.composite
def stepped(draw: Draw, **more: Any) -> dict[str, Any]:
    state = point_state(seed=draw(st.integers(0, 99)))
    chosen = {"draw": draw_points, "loss_d": games.gan_loss_d, "loss_g": games.gan_loss_g}
    return {"state": state, **chosen, **{name: draw(s) for name, s in more.items()}}


FOREIGN = {"loss_g": told((games.gan_loss_d, "gan_loss_d"))}  # a loss that moves nothing of G
TIMES = {"until": FROM_0, "n_critic": COUNT, "log_every": COUNT}
SMALL = st.integers(1, 3)


def history_of(n: int) -> History:
    history = History()
    for step in range(1, n + 1):
        history.record(step, {"loss/D": float(step % 7)})
    return history


def close(found: Any, expected: float, tolerance: float) -> None:
    assert abs(float(found) - expected) <= tolerance


def within(low: float, high: float) -> Callable[..., None]:
    def law(result: Any, **_: Any) -> None:
        assert all(low <= number <= high for number in numbers_in(result))

    return law


# Theory, losses, games


def value_law(result: Tensor, d: Tensor, p_data: Tensor, p_g: Tensor, dx: float) -> None:
    assert result <= 2 * js_divergence(p_data, p_g, dx) - math.log(4) + 1e-9


P_Q, DATA_G = ("p", "q"), ("p_data", "p_g")
CASES: dict[str, Case] = {
    "theory.normalize": Case(
        together(p=tensors((1, 6), low=0.01, scales=(1e-30, 1.0, 1e30)),
                 dx=st.sampled_from([1e-9, 0.5, 1.0, 1e9])),
        lambda result, p, dx: close(result.sum() * dx, 1.0, 1e-12),
        {"p": unscaled, "dx": POSITIVE},
    ),
    "theory.optimal_discriminator": Case(
        several(DATA_G, (1, 6), low=0.0, scales=(1e-300, 1.0, 1e70), dtype=torch.float64),
        within(0, 1), dict.fromkeys(DATA_G, density),
    ),
    "theory.value": Case(
        densities(DATA_G, d=True), value_law,
        {"p_data": density, "p_g": density, "dx": POSITIVE, "d": density},
    ),
    "theory.kl_divergence": Case(
        densities(P_Q), within(0, INF), {"p": density, "q": density, "dx": POSITIVE}, infinite=True
    ),
    "theory.js_divergence": Case(
        densities(P_Q), within(0, math.log(2) + 1e-12),
        {"p": density, "q": density, "dx": POSITIVE},
    ),
}  # fmt: skip
LOGITS = {"low": -1.0, "scales": (1.0, 100.0, 1e6), "dtype": (torch.float32, torch.float64)}
for name, of in {
    "real_loss": ("real_logits",), "fake_loss": ("fake_logits",),
    "discriminator_loss": ("real_logits", "fake_logits"),
    "least_squares_discriminator_loss": ("real_logits", "fake_logits"),
    "minimax_generator_loss": ("fake_logits",), "nonsaturating_generator_loss": ("fake_logits",),
    "least_squares_generator_loss": ("fake_logits",),
}.items():  # fmt: skip
    bounds = (-INF, 0) if name.startswith("minimax") else (0, INF)
    CASES[f"losses.{name}"] = Case(
        several(of, (1, 6), **LOGITS), within(*bounds), dict.fromkeys(of, logits)
    )
for name in ("gan_loss_d", "r1_loss_d", "gan_loss_g", "minimax_loss_g", "least_squares_loss_d",
             "least_squares_loss_g"):  # fmt: skip
    CASES[f"games.{name}"] = Case(players(), spoils={"discriminator": COLUMN})

# Trainer, seeds


def moved(result: Any, optimizer: Any) -> None:
    assert result
    assert all(weight.requires_grad for weight in result)


@st.composite
def gradient_arguments(draw: Draw) -> dict[str, Any]:
    state = point_state(seed=draw(st.integers(0, 99)))
    return {"loss_function": games.gan_loss_d, "state": state, "batch": draw_points(state.rng),
            "optimizer": state.opt_d}  # fmt: skip


@st.composite
def generated(draw: Draw) -> dict[str, Any]:
    chosen = {"network": small_pair(2, 3, 4)[0], "z": draw(tensors((1, 9), 3, dtype=torch.float32))}
    return chosen | {"batch_size": draw(st.integers(1, 5))}


def recorded(result: History, until: int, **_: Any) -> None:
    assert (result.series("loss/D")[0].tolist() if until else []) == list(range(1, until + 1))
    assert all(math.isfinite(n) for rows in result.scalars.values() for _, n in rows)


@st.composite
def seed_states(draw: Draw, **more: Any) -> dict[str, Any]:
    found = draw(stepped(**more))
    del found["state"]
    return {"states": [point_state(seed=s) for s in range(draw(st.integers(1, 3)))], **found}


QUIET = {"progress": st.just(False)}
CASES |= {
    "trainer.weights_of": Case(together(optimizer=st.builds(lambda: point_state().opt_d)), moved),
    "trainer.compute_gradients": Case(gradient_arguments()),
    "trainer.train_step": Case(stepped(n_critic=SMALL), spoils=FOREIGN),
    "trainer.simultaneous_step": Case(stepped(n_critic=SMALL), spoils=FOREIGN),
    "trainer.running_average": Case(
        together(generator=st.builds(lambda: small_pair(2, 3, 4)[0]), decay=st.floats(0, 0.999)),
        spoils={"decay": one_of(NAN, INF, -INF, -0.1, 1.0, 7)},
    ),
    "trainer.generate": Case(
        generated(), spoils={"batch_size": COUNT}, first=("network", "z")
    ),
    "trainer.train": Case(
        stepped(until=SMALL, n_critic=SMALL, log_every=SMALL, checkpoint_every=SMALL, **QUIET),
        recorded, {**TIMES, **FOREIGN, "checkpoint_every": COUNT},
    ),
    "seeds.train_seeds": Case(
        seed_states(until=SMALL, n_critic=SMALL, log_every=SMALL, **QUIET),
        lambda result, until, **_: [recorded(state.history, until) for state in result],
        {**TIMES, "states": told(([], "[]"))},
    ),
}  # fmt: skip

# Guards


@st.composite
def shared_out(draw: Draw) -> dict[str, Any]:
    generator, discriminator = small_pair(2, 3, draw(st.integers(1, 4)))
    moved = {"by_g": list(generator.parameters()), "by_d": list(discriminator.parameters())}
    return {"generator": generator, "discriminator": discriminator, **moved}


@st.composite
def averaged(draw: Draw) -> dict[str, Any]:
    generator = small_pair(2, 3, draw(st.integers(1, 4)))[0]
    return {"generator": generator, "average": running_average(generator, 0.5)}


OTHER = small_pair(2, 3, 9)[0]
CASES |= {
    "guards.check_players": Case(
        shared_out(), spoils={"by_g": told(([], "opt_g")), "by_d": told(([], "opt_d"))}
    ),
    "guards.check_average": Case(
        averaged(), spoils={"average": told((running_average(OTHER, 0.5), "(9, 3)"))}
    ),
    "guards.difference": Case(
        together(network=st.builds(lambda: small_pair(2, 3, 4)[0]), other=st.just(OTHER)),
        lambda result, **_: close(result[2][0], 9, 0) if result[0] == "tensor 0.weight" else 1 / 0,
    ),
    "guards.require_some_gradient": Case(
        together(loss_function=st.just(games.gan_loss_d),
                 weights=st.builds(lambda: [torch.zeros(1, requires_grad=True)])
                 .map(lambda w: [w[0].sum().backward(), w][1])),
        spoils={"weights": told(([torch.zeros(1)], "none of the 1"))},
    ),
    "guards.require_at_least": Case(
        together(least=st.integers(-5, 0), count=st.integers(0, 9)), spoils={"count": told(
            (-6, "-6"), (NAN, "nan"), (INF, "inf"), (0.5, "0.5"), ("7", "'7'"), (None, "None"))},
    ),
    "guards.require_between": Case(
        together(least=st.just(0.5), most=st.just(2.0), width=st.floats(0.5, 2)),
        spoils={"width": POSITIVE},
    ),
    "guards.require_positive": Case(
        together(width=st.floats(1e-70, 1e70)), spoils={"width": POSITIVE}
    ),
    "guards.require_real": Case(
        together(what=st.just("numbers"), x=tensors((0, 3))),
        spoils={"x": lambda good: st.sampled_from(not_a_tensor(good))},
    ),
    "guards.require_values": Case(
        together(what=st.just("numbers"), x=tensors((1, 3), (1, 3), scales=(0.0, 1e30))),
        spoils={"x": values},
    ),
    "guards.require_finite": Case(
        together(name=st.just("loss/D"), number=st.floats(-1e9, 1e9), step=SMALL),
        spoils={"number": one_of(NAN, INF, -INF, [1.0, NAN])},
    ),
    "guards.require_points": Case(clouds(("x", "y")), spoils={"x": values, "y": filled}),
    "guards.require_samples": Case(
        several(("x", "y"), (1, 6), scales=(1.0, 1e30)), spoils={"x": filled, "y": filled}
    ),
    "guards.require_vectors": Case(
        several(("x", "y"), (1, 4), 1, 2, 3), spoils={"x": values, "y": values}
    ),
    "guards.require_batch": Case(
        together(what=st.just("latents"), x=tensors((0, 3), 4), shape=st.just((4,))),
        spoils={"shape": told(((3,), "(n, 3)"), ((2, 2), "(n, 2, 2)"), ((), "(n, )"))},
    ),
    "guards.require_images": Case(
        together(images=tensors((1, 3), 1, 2, 3, low=0.0)), spoils={"images": of_images}
    ),
}  # fmt: skip

# Models, data


def layers_law(result: Any, **_: Any) -> None:
    networks = result if isinstance(result, tuple) else (result,)
    assert all(w.isfinite().all() for network in networks for w in network.parameters())


@st.composite
def means_stds(draw: Draw) -> dict[str, Any]:
    k, d = draw(st.integers(1, 4)), draw(st.sampled_from([(), (2,)]))
    means = draw(tensors(k, *d, scales=(1.0, 1e20)))
    stds = draw(tensors(k, *d, low=0.1, dtype=means.dtype))
    return {"means": means, "stds": stds, "weights": draw(tensors(k, low=0.1, dtype=means.dtype))}


def pixel_mean(good: Tensor) -> st.SearchStrategy:
    """But None, for no means."""
    others = [(good[0], "(1, 2, 3)"), (good * 255 + 2, "to 2"), (good.long(), "int64")]
    spoiled = values(good).filter(lambda pair: pair[0] is not None)
    return st.one_of(spoiled, st.sampled_from(others))


def no_std(good: Tensor) -> st.SearchStrategy:
    bad = good.clone().double()
    bad.view(-1)[0] = -0.5
    return st.one_of(values(good), st.sampled_from([(bad, "-0.5"), (good.long(), "int64"),
                                                    (good[:0], "(0")]))  # fmt: skip


def mixture_law(result: Any, **_: Any) -> None:
    samples = result.sample((4,))
    assert samples.isfinite().all()
    assert result.log_prob(samples).isfinite().all()


def sampler_law(result: Any, batch_size: int, latent_dim: int, **_: Any) -> None:
    x_real, z = result(torch.Generator().manual_seed(0))
    assert z.shape == (batch_size, latent_dim)
    assert 0 <= x_real.min() <= x_real.max() <= 1


BYTES = tensors((1, 5), 1, 3, 3, low=0, high=255, dtype=torch.uint8)
LINE = gaussian_mixture(torch.zeros(2), torch.ones(2), torch.ones(2))
ONE, UPTO = st.just(1), st.integers(1, 4)
CLASSIFIER = load_digit_classifier()
BROKEN = DigitClassifier()
for weight in BROKEN.parameters():
    weight.data.fill_(NAN)
CASES |= {
    "models.mlp": Case(
        together(sizes=st.lists(UPTO, min_size=2, max_size=4)), layers_law,
        {"sizes": told(*(([2, b, 3], repr(b)) for b in (0, -1, 2.5, NAN, "3")), ([3], "[3]"))},
    ),
    "models.small_pair": Case(
        together(data_dim=UPTO, latent_dim=UPTO, hidden=UPTO), layers_law,
        dict.fromkeys(("data_dim", "latent_dim", "hidden"), COUNT),
    ),
    "models.MLPGenerator": Case(
        together(latent_dim=UPTO, hidden=st.lists(UPTO, max_size=2), image_shape=st.just((1, 2, 3)),
                 batch_norm=st.booleans(), pixel_means=tensors(1, 2, 3, low=0.0)),
        layers_law,
        {"latent_dim": COUNT, "hidden": told(([0], "0"), ([2.5], "2.5"), ([NAN], "nan")),
         "image_shape": told(((1, 0, 3), "0"), ((1, 2.5, 3), "2.5")), "pixel_means": pixel_mean},
    ),
    "models.Maxout": Case(
        together(n_in=UPTO, n_out=UPTO, pieces=UPTO), layers_law,
        dict.fromkeys(("n_in", "n_out", "pieces"), COUNT),
    ),
    "models.MaxoutDiscriminator": Case(
        together(image_shape=st.just((1, 2, 3)), hidden=UPTO, pieces=UPTO,
                 dropout=st.tuples(st.floats(0, 1), st.floats(0, 1))),
        layers_law,
        {"hidden": COUNT, "pieces": COUNT,
         "dropout": told(*(((0.5, b), repr(b)) for b in (NAN, INF, -0.1, 1.1, None, "0")))},
    ),
    "models.ConvGenerator": Case(
        together(latent_dim=UPTO, channels=UPTO), layers_law,
        {"latent_dim": COUNT, "channels": COUNT},
    ),
    "models.ConvDiscriminator": Case(
        together(channels=UPTO, batch_norm=st.booleans(), hidden=st.integers(0, 3)), layers_law,
        {"channels": COUNT, "hidden": FROM_0},
    ),
    "models.uniform_init_": Case(
        together(network=st.builds(lambda: small_pair(2, 3, 4)[0]), bound=st.floats(0, 1e9)),
        spoils={"bound": told(*((b, repr(b)) for b in (NAN, INF, -INF, -1.0, 1e200, "1", None)))},
    ),
    "models.load_generator": Case(
        together(name=st.just("maxout")), layers_law, {"name": one_of("gan", "", NAN, 3)}
    ),
    "models.load_weights": Case(
        together(network=st.builds(DigitClassifier), name=st.just("digit_classifier")),
        spoils={"name": one_of("nothing", "conv_generator"),
                "network": told((nn.Linear(1, 1), "digit_classifier"))},
    ),
    "rounding.in_bfloat16": Case(
        together(function=st.builds(lambda: small_pair(2, 3, 4)[0]),
                 z=tensors((1, 4), 3, dtype=torch.float32)),
        lambda result, **_: close(result.dtype == torch.float32, 1, 0), first=("function", "z"),
    ),
    "data.load_images": Case(
        together(name=st.just("mnist5k"), split=st.sampled_from(["train", "test"])),
        lambda result, **_: close(len(result[0]), len(result[1]), 0),
        {"name": one_of("digits", "", NAN, 3), "split": one_of("validation", "", NAN, 3)},
    ),
    "data.image_sampler": Case(
        together(images=BYTES, batch_size=UPTO, latent_dim=UPTO), sampler_law,
        {"batch_size": COUNT, "latent_dim": COUNT,
         "images": lambda good: st.sampled_from([*not_a_tensor(good), (good.float(), "float32"),
                                                 (good[0], "(1, 3, 3)"), (good[:0], "(0, 1,")])},
    ),
    "data.gaussian_mixture": Case(
        means_stds(), mixture_law, {"means": values, "stds": no_std, "weights": no_std}
    ),
    "data.ring_of_gaussians": Case(
        together(n=UPTO, radius=st.floats(0.1, 9), std=st.floats(0.1, 9)), mixture_law,
        {"n": COUNT, "radius": POSITIVE, "std": POSITIVE},
    ),
    "data.grid_of_gaussians": Case(
        together(side=UPTO, spacing=st.floats(0.1, 9), std=st.floats(0.1, 9)), mixture_law,
        {"side": COUNT, "spacing": POSITIVE, "std": POSITIVE},
    ),
    "data.sample_mixture": Case(
        together(mixture=st.just(LINE), n=UPTO, rng=st.builds(torch.Generator)),
        lambda result, n, **_: close(len(result), n, 0), {"n": COUNT},
    ),
}  # fmt: skip

# Metrics


def covered(result: Any, centers: Tensor, **_: Any) -> None:
    assert 0 <= result.modes <= len(centers)
    assert 0 <= result.high_quality <= 1


@st.composite
def modes(draw: Draw) -> dict[str, Any]:
    return draw(clouds(("samples", "centers"), least=1)) | {"std": draw(st.floats(1e-3, 9))}


@st.composite
def windows(draw: Draw) -> dict[str, Any]:
    found = draw(clouds(("x", "samples"), least=1))
    chosen = {"bandwidth": draw(st.sampled_from([1e-30, 0.1, 1.0, 1e30]))}
    return found | chosen | {"batch_size": draw(st.integers(1, 9))}


@st.composite
def chosen_by(draw: Draw) -> dict[str, Any]:
    return {n: draw(tensors((3, 6), 1, 2, 2, low=0.0)) for n in ("x_choose", "x_score", "samples")}


def at_least_two(good: Tensor) -> st.SearchStrategy:
    return st.one_of(values(good), st.sampled_from([(good[:1], "(1, 4)"), (good[:0], "(0, 4)")]))


DIGITS = tensors((1, 3), 1, 28, 28, low=0.0, dtype=torch.float32)
JUDGE = {"images": of_images, "classifier": told((BROKEN, "nan"))}
CASES |= {
    "metrics.load_digit_classifier": Case(together(), layers_law),
    "metrics.judge_digits": Case(
        together(images=DIGITS, classifier=st.just(CLASSIFIER)), within(0, 1), JUDGE
    ),
    "metrics.classifier_features": Case(
        together(images=DIGITS, classifier=st.just(CLASSIFIER)), within(0, INF), JUDGE
    ),
    "metrics.wasserstein_1d": Case(
        several(("x", "y"), (1, 6), scales=(1e-30, 1.0, 1e30)), within(0, INF),
        {"x": filled, "y": filled},
    ),
    "metrics.squared_distances": Case(
        clouds(("x", "y"), least=1), within(0, INF), {"x": values, "y": filled}
    ),
    "metrics.mode_coverage": Case(
        modes(), covered, {"samples": filled, "centers": filled, "std": POSITIVE}
    ),
    "metrics.parzen_log_likelihood": Case(
        windows(),
        spoils={"x": values, "samples": filled, "bandwidth": POSITIVE, "batch_size": COUNT},
    ),
    "metrics.frechet_distance": Case(
        clouds(("features_a", "features_b")), within(0, INF),
        {"features_a": filled, "features_b": filled},
    ),
    "metrics.precision_and_recall": Case(
        clouds(("real", "fake"), least=4).map(lambda found: found | {"k": 2}), within(0, 1),
        {"real": filled, "fake": filled, "k": COUNT},
    ),
    "metrics.nearest_neighbors": Case(
        several(("images", "others"), (1, 4), 1, 2, 3, low=0.0), within(0, INF),
        {"images": values, "others": values},
    ),
    "metrics.parzen_score": Case(
        chosen_by(), spoils={"x_choose": values, "x_score": at_least_two, "samples": values}
    ),
}  # fmt: skip

# Plotting, scrubber, records, checks


def axes() -> Any:
    return plotting.new_figure()[1]


@st.composite
def curves(draw: Draw) -> dict[str, Any]:
    found = draw(several(("x", "p_data", "p_g", "d"), (1, 6)))
    return {"ax": axes(), **found}


def curve(good: Tensor) -> st.SearchStrategy:
    return values(good).filter(lambda pair: isinstance(pair[0], Tensor))


def smoothed(result: Any, values: Any, window: int) -> None:
    expected = [np.mean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]
    assert np.allclose(result, expected, rtol=1e-12)


def with_nan(good: Any) -> st.SearchStrategy:
    bad = np.array([1.0, NAN, 2.0])
    return st.sampled_from([(bad, "nan"), (bad * INF, "nan"), (bad[:1] * INF, "inf"),
                            (bad[:0], "(0,)"), (bad[None, :1], "(1, 1)")])  # fmt: skip


def pixels(_: Any) -> st.SearchStrategy:
    bad = np.full((4, 4), 0.5)
    bad[1, 2] = NAN
    return st.sampled_from([(lambda _: bad, "nan"), (lambda _: np.full((4, 4), 1.5), "1.5"),
                            (lambda _: np.zeros((4, 4), np.uint8), "uint8")])  # fmt: skip


def recorded_in(contents: dict[str, Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    def make() -> dict[str, Any]:
        path = Path(tempfile.mkdtemp()) / "record.json"
        if contents is not None:
            path.write_text(json.dumps(contents))
        return {"path": path}

    return st.builds(make)


FACTS = {"date": "2026-01-01", "command": "make it", "device": "a CPU"}


def damaged(path: Path) -> st.SearchStrategy:
    @st.composite
    def written(draw: Draw) -> tuple[Path, str]:
        text = json.dumps(FACTS | {"x": draw(st.sampled_from([NAN, INF, -INF]))})
        text = draw(st.sampled_from([text, "{", "[]", "{}"]))
        path.write_text(text)
        return path, str(path)

    return written()


def replaced(result: Any, path: Path) -> None:
    with result as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"


GRAY = tensors((1, 5), 1, 2, 3, low=-0.5, high=1.5)
COLUMNS = st.integers(1, 4)
FRAMES = st.just(lambda value: np.full((4, 4), value / 10))
NUMBERS = st.lists(st.floats(-9, 9), min_size=1, max_size=4)
CLAIM = {"label": st.just("l"), "claim": st.just("c")}
NO_NUMBERS = told(([], "[]"), (torch.zeros(2, dtype=torch.complex64), "complex64"),
                  (torch.zeros(2, device="meta"), "meta"))  # fmt: skip
BOUND = told(*((b, repr(b)) for b in (NAN, INF, -INF, "1", 1j)))
FINITE = {
    "contents": told(*(({"k": [1, {"deep": b}]}, f"{b} at k.1.deep") for b in (NAN, INF, -INF)))
}


def grids(good: Tensor) -> st.SearchStrategy:
    shapes = [(x, str(tuple(x.shape))) for x in (good[0], good[:0])]
    return st.one_of(values(good), st.sampled_from([*shapes, (good.to(torch.uint8), "uint8")]))


CASES |= {
    "plotting.use_style": Case(together()),
    "plotting.new_figure": Case(
        together(width=st.floats(1, 9), height=st.floats(1, 9), rows=ONE, columns=ONE),
        spoils={"width": one_of(NAN, INF), "height": one_of(NAN, INF), "rows": one_of(0, -1, 2.5),
                "columns": one_of(0, -1, 2.5)},
    ),
    "plotting.image_array": Case(
        together(images=GRAY, columns=COLUMNS, pad=st.integers(0, 2)), within(0, 1),
        {"images": grids, "columns": COUNT, "pad": FROM_0},
    ),
    "plotting.paint_images": Case(
        together(ax=st.builds(axes), images=GRAY, columns=COLUMNS),
        spoils={"images": grids, "columns": COUNT},
    ),
    "plotting.show_images": Case(
        together(images=GRAY, columns=COLUMNS, width=st.floats(1, 9)),
        spoils={"images": grids, "columns": COUNT, "width": one_of(NAN, INF)},
    ),
    "plotting.paint_roles": Case(
        curves(), spoils=dict.fromkeys(("x", "p_data", "p_g", "d"), curve),
    ),
    "plotting.smooth": Case(
        together(values=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=9).map(np.array),
                 window=st.integers(1, 12)),
        smoothed, {"values": with_nan, "window": COUNT},
    ),
    "plotting.paint_history": Case(
        together(ax=st.builds(axes), history=st.builds(history_of, st.integers(1, 9)),
                 curves=st.just({"loss/D": {}}), window=UPTO),
        spoils={"window": COUNT, "curves": told(({"loss/d": {}}, "'loss/d'"))},
    ),
    "records.cpu_name": Case(together(), lambda result: close(bool(result), 1, 0)),
    "records.provenance": Case(together(), lambda result: close(len(result), 5, 0)),
    "records.replacing": Case(recorded_in(), replaced),
    "records.write_record": Case(
        st.tuples(recorded_in(), together(contents=st.just({"k": [1.5, None]})))
        .map(lambda pair: pair[0] | pair[1]),
        lambda result, path, contents: close(json.loads(path.read_text()) == contents, 1, 0),
        FINITE,
    ),
    "records.read_record": Case(
        recorded_in(FACTS).map(lambda found: found | {"command": "make it"}),
        spoils={"path": damaged},
    ),
    "archives.md5_of": Case(
        recorded_in(FACTS).map(lambda found: {"file": found["path"]}),
        lambda result, file: close(int(result, 16) > 0 and len(result), 32, 0),
    ),
    "archives.move_into_place": Case(
        recorded_in(FACTS).map(
            lambda found: {"made": found["path"], "target": found["path"].with_suffix(".new")}
        ),
        lambda result, made, target: close(target.exists() and not made.exists(), 1, 0),
    ),
    "archives.unpack": Case(  # nothing to unpack is no error; what is, tests/test_data.py has
        recorded_in().map(lambda found: {"archive": found["path"], "target": found["path"].parent}
                          | {"md5": "0"}),
    ),
    "archives.unpack_data_set": Case(
        recorded_in().map(lambda found: {"dataset_class": MNIST, "root": found["path"].parent}),
    ),
    "scrubber.Scrubber": Case(
        together(paint=FRAMES, values=st.lists(UPTO, min_size=1, max_size=3), label=st.just("n"),
                 alt=st.just(str), start=st.just(0), dpi=st.just(84), width=st.floats(1, 99)),
        spoils={"values": told(([], "none")), "start": told(*((b, repr(b)) for b in
                (9, -9, NAN, 0.5, "0"))), "paint": pixels, "dpi": POSITIVE, "width": POSITIVE},
    ),
    "scrubber.explore": Case(
        together(paint=st.just(lambda value: plotting.new_figure()[0]), label=st.just("n"),
                 values=st.lists(UPTO, min_size=1, max_size=2, unique=True)),
        spoils={"values": told(([], "none"))},
    ),
    "checks.check_equal": Case(
        together(**CLAIM, found=NUMBERS, tolerance=st.floats(0, 1))
        .map(lambda case: case | {"expected": case["found"]}),
        spoils={"found": NO_NUMBERS, "expected": NO_NUMBERS,
                "tolerance": told(*((b, repr(b)) for b in (NAN, INF, -1e-9, "0", None)))},
    ),
    "checks.check_range": Case(
        together(**CLAIM, found=NUMBERS, at_least=st.just(-9.0), at_most=st.just(9.0)),
        spoils={"found": NO_NUMBERS, "at_least": BOUND, "at_most": BOUND},
    ),
    "checks.check_parameters": Case(
        together(names=st.builds(lambda: {"smoke": "false", "seed": 3.0, "steps": "40"}),
                 steps=st.just(2)),
        spoils={"names": told(*(({"smoke": False, "seed": 0, "steps": b}, repr(b)) for b in
                               (NAN, INF, 1, 2.5, "many", None)))},
    ),
    "history.History": Case(together(), lambda result: close(len(result.scalars), 0, 0)),
}  # fmt: skip
