"""Every public function of the reading room, on random arguments and on spoiled ones.

A case says how to draw arguments, what then holds of the result, and which arguments are spoiled
in which way. Proper arguments give finite numbers that obey the law; a spoiled one is refused by a
ValueError or a TypeError that quotes it. Where a NaN comes out as a NaN (losses, games, networks:
looking for it would slow each step of training) this is documented, and tested at the end.
"""

import ast
import importlib
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property_cases import CASES, Case, numbers_in
from test_house import READING, Function
from torch import Tensor, nn

from ganlib import games, losses
from ganlib.models import ConvDiscriminator, ConvGenerator, MLPGenerator, small_pair
from ganlib.trainer import generate

EXAMPLES = 8  # proper ones of each case, and spoiled ones
quick = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def public() -> set[str]:
    """The reading room's public functions, as module.name."""
    found: set[str] = set()
    for path in READING:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        found |= {f"{path.stem}.{node.name}" for node in body
                  if isinstance(node, Function) and not node.name.startswith("_")}  # fmt: skip
    return found


PUBLIC = public()
PRESENT = sorted(PUBLIC & CASES.keys()) + sorted(n for n in CASES if n.split(".")[1][0].isupper())
SPOILED = [(name, argument) for name in PRESENT for argument in CASES[name].spoils]

TRIED: Counter[str] = Counter()
# In one process, which counts the cases that were tried.
pytestmark = pytest.mark.xdist_group("properties")


def called(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(".")
    return getattr(importlib.import_module(f"ganlib.{module}"), attribute)


def test_every_public_function_has_a_case():
    assert not PUBLIC - CASES.keys()


@pytest.mark.parametrize("name", PRESENT)
def test_proper_arguments_give_finite_numbers_that_obey_the_law(name: str):
    case: Case = CASES[name]

    @quick
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        TRIED[name] += 1
        arguments = data.draw(case.arguments)
        result = called(name)(*case.leading(arguments), **arguments)
        for number in numbers_in(result):
            assert math.isfinite(number) or case.infinite, f"{number} of {arguments}"
        case.law(result, **arguments)

    holds()


@pytest.mark.parametrize(("name", "argument"), SPOILED)
def test_a_spoiled_argument_is_refused_and_quoted(name: str, argument: str):
    case: Case = CASES[name]

    @quick
    @given(st.data())
    def refuses(data: st.DataObject) -> None:
        TRIED[name] += 1
        arguments = data.draw(case.arguments)
        good = arguments[argument]
        bad, told = data.draw(case.spoils[argument](good))
        arguments[argument] = bad
        with pytest.raises((ValueError, TypeError, FloatingPointError)) as refusal:
            called(name)(*case.leading(arguments), **arguments)
        assert told in str(refusal.value), f"{refusal.value!r} does not quote {told}"

    refuses()


def test_a_thousand_cases_were_tried_at_least():
    if TRIED.keys() < set(PRESENT):
        pytest.skip("counts what the tests above tried: run the whole file")
    assert TRIED.total() >= 1000


# What is documented to come out as NaN


@pytest.mark.parametrize("name", sorted(name for name in PUBLIC if name.startswith("losses.")))
@pytest.mark.parametrize("shape", [(1,), (4,)])
def test_a_nan_among_the_logits_is_a_nan_in_the_loss(name: str, shape: tuple[int, ...]):
    loss: Any = getattr(losses, name.partition(".")[2])
    logits = torch.zeros(shape)
    logits[-1] = math.nan
    takes_two = loss.__code__.co_argcount == 2
    assert loss(*([logits, torch.zeros(3)] if takes_two else [logits])).isnan()
    if takes_two:
        assert loss(torch.zeros(3), logits).isnan()


def test_infinite_logits_give_the_losses_limits():
    inf = torch.tensor([math.inf])
    assert losses.real_loss(inf).item() == 0
    assert losses.fake_loss(-inf).item() == 0
    for loss in (losses.real_loss(-inf), losses.fake_loss(inf), -losses.minimax_generator_loss(inf),
                 losses.nonsaturating_generator_loss(-inf)):  # fmt: skip
        assert loss.item() == math.inf


@pytest.mark.parametrize("name", sorted(name for name in PUBLIC if name.startswith("games.")))
def test_a_nan_in_a_batch_is_a_nan_in_the_loss(name: str):
    g, d = small_pair(2, 3, 4)
    z = torch.full((5, 3), math.nan)
    assert getattr(games, name.partition(".")[2])(g, d, (torch.zeros(4, 2), z))[0].isnan()


@pytest.mark.parametrize("function", [losses.real_loss, losses.least_squares_generator_loss])
def test_a_loss_is_traced_mapped_and_taken_on_no_device_at_all(function: Callable[..., Tensor]):
    logits = torch.randn(3, 5)
    expected = torch.stack([function(row) for row in logits])
    assert torch.equal(torch.vmap(function)(logits), expected)
    assert function(torch.zeros(4, device="meta")).is_meta
    traced: Any = torch.compile(function, backend="eager", fullgraph=True)
    assert traced(logits[0]).item() == expected[0].item()
    slope: Any = torch.func.grad(function)(logits[0])
    assert slope.isfinite().all()


@pytest.mark.parametrize("network", [MLPGenerator(3, (4,)), ConvGenerator(3, 2)])
def test_a_nan_in_a_latent_spoils_its_own_image_only(network: nn.Module):
    z = torch.zeros(4, 3)
    z[1, 2] = math.nan
    assert generate(network, z).flatten(1).isnan().any(1).tolist() == [False, True, False, False]


def test_a_nan_in_an_image_is_a_nan_in_its_logit():
    x = torch.zeros(3, 1, 28, 28)
    x[2, 0, 5, 5] = math.nan
    assert ConvDiscriminator(2).eval()(x).isnan().tolist() == [False, False, True]
