"""Claims that a chapter asserts while it runs: shown in the page, collected by the build.

A check that does not hold raises, so the chapter, and with it the build, fails. A check with
`judge=False` (a run too short for what it claims) only reports what was measured. Before all
others a chapter checks its own parameters (`check_parameters`).
"""

import math
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ganlib.guards import LARGEST, require_between, require_real

MIME = "application/vnd.ganlib.check+json"
SWITCHES = {"true": True, "1": True, "false": False, "0": False}


class CheckFailed(AssertionError):
    """A claim of the book does not hold in this run."""


@dataclass(frozen=True)
class Check:
    """The result of one check, as it is displayed and as the build collects it.

    `label` is the label of the numbered statement that is checked, or of the check itself.
    """

    label: str
    claim: str
    measured: str
    required: str
    judged: bool

    @property
    def anchor(self) -> str:
        """Where the page shows it: one for each claim, so that a label can have several checks."""
        return f"check-{self.label}-{zlib.crc32(self.claim.encode()):08x}"

    def __repr__(self) -> str:
        verdict = "holds" if self.judged else "not judged at this size"
        return f"{verdict}: {self.claim}; {self.measured}, {self.required}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        verdict = "✓ holds" if self.judged else "not judged at this size"
        html = (
            f'<div class="check" id="{self.anchor}"><strong>{verdict}</strong> '
            f"{self.claim}<br><small>{self.measured}, {self.required}</small></div>"
        )
        return {
            "text/plain": repr(self),
            "text/html": html,
            MIME: vars(self) | {"anchor": self.anchor},
        }


def check_equal(
    label: str, claim: str, found: Any, expected: Any, tolerance: float, *, judge: bool = True
) -> Check:
    """Check that all numbers in `found` equal those in `expected` within `tolerance`.

    One number may stand for all. Errors: CheckFailed where the claim does not hold, a NaN never
    does; ValueError for no numbers, for several of another shape, for a tolerance below 0.
    """
    require_between(0, LARGEST, tolerance=tolerance)
    found, expected = _numbers(found), _numbers(expected)
    if found.shape != expected.shape and min(found.numel(), expected.numel()) > 1:
        shapes = f"{tuple(found.shape)} and {tuple(expected.shape)}"
        raise ValueError(f"as many numbers found as expected are to be given, got {shapes}")
    # Equal infinities deviate by 0; a NaN anywhere must fail.
    deviation = torch.where(found == expected, 0.0, (found - expected).abs()).max().item()
    result = Check(
        label,
        claim,
        f"largest deviation {deviation:.1e}",
        f"tolerance {tolerance:.0e}",
        judge,
    )
    return _judge(result, deviation <= tolerance)


def check_range(
    label: str,
    claim: str,
    found: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    judge: bool = True,
) -> Check:
    """Check that all numbers in `found` lie between the bounds that are given.

    Errors: CheckFailed where they do not, a NaN never does; ValueError for no numbers or no bound.
    """
    found = _numbers(found)
    given = {"at_least": at_least, "at_most": at_most}
    require_between(-LARGEST, LARGEST, **{k: v for k, v in given.items() if v is not None})
    low, high = found.min().item(), found.max().item()
    measured = f"found {low:.4g}" if low == high else f"found {low:.4g} to {high:.4g}"
    bounds, holds = [], True
    if at_least is not None:
        bounds.append(f"at least {at_least:g}")
        holds = holds and low >= at_least
    if at_most is not None:
        bounds.append(f"at most {at_most:g}")
        holds = holds and high <= at_most
    if not bounds:
        raise ValueError("at_least or at_most expected, got neither")
    return _judge(Check(label, claim, measured, " and ".join(bounds) + " required", judge), holds)


def _numbers(given: Any) -> Tensor:
    """What is given as float64; ValueError for none."""
    kept = torch.as_tensor(given)
    require_real("numbers to check", kept)
    if not kept.numel() or kept.is_meta:
        raise ValueError(f"numbers to check expected, got {given!r}")
    return torch.as_tensor(given, dtype=torch.float64)


def _judge(result: Check, holds: bool) -> Check:
    if result.judged and not holds:
        raise CheckFailed(
            f"does not hold: {result.claim} ({result.label}); {result.measured}, {result.required}"
        )
    return result


def check_parameters(names: dict[str, Any], **allowed: Any) -> None:
    """Check the parameters of a chapter, and give them their right types in `names`, its globals().

    `steps=2` allows whole numbers of at least 2, `steps=(2, 90)` those from 2 to 90, and
    `dataset=("mnist5k", "mnist")` one of the names. Every chapter has a `seed`, a whole number
    from 0 to 2**31 - 1, and `smoke`, which is True or False. What a command line hands over as
    text, or as a number of another type, is taken for what it means: "false" and 0 for False,
    "3000" and 3000.0 for 3000.

    ValueError, with the name, the value and what is allowed, for everything else.
    """
    rules = {"smoke": (False, True), "seed": (0, 2**31 - 1), **allowed}
    names |= {name: _parameter(name, names[name], rule) for name, rule in rules.items()}


def _parameter(name: str, given: Any, rule: Any) -> bool | int | str:
    match rule:
        case (False, True):
            expected, found = "True or False", SWITCHES.get(str(given).strip().lower())
        case (str(), *_):
            expected, found = " or ".join(map(repr, rule)), given if given in rule else None
        case (low, high):
            expected, found = f"a whole number from {low:,} to {high:,}", _whole(given, low, high)
        case low:
            expected, found = f"a whole number of at least {low:,}", _whole(given, low, math.inf)
    if found is None:
        raise ValueError(f"{name}: {expected} expected, got {given!r}")
    return found


def _whole(given: Any, low: float, high: float) -> int | None:
    try:
        number = float("nan" if isinstance(given, bool) else given)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and low <= number <= high else None
