"""Claims that a chapter asserts while it runs: shown in the page, collected by the build.

A check that does not hold raises, so the chapter, and with it the build, fails. A check with
`judge=False` (a run too short for what it claims) only reports what was measured.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ganlib.guards import LARGEST, require_between, require_real

MIME = "application/vnd.ganlib.check+json"


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
