"""ganlib.checks: a claim that holds is shown, one that does not stops the chapter."""

import math

import pytest
import torch

from ganlib.checks import MIME, CheckFailed, check_equal, check_range


def test_equal_numbers_pass_and_the_largest_deviation_is_shown():
    result = check_equal("eq-v", "V is right", [1.0, -2.0], torch.tensor([1.0, -2.25]), 0.25)
    assert (result.measured, result.required) == ("largest deviation 2.5e-01", "tolerance 2e-01")
    assert repr(result) == "holds: V is right; largest deviation 2.5e-01, tolerance 2e-01"


@pytest.mark.parametrize("found", [[1.0, -1.7], [1.3, -2.0], [0.7, -2.0], [1.0, -2.3]])
def test_a_deviation_beyond_the_tolerance_fails_in_either_direction(found):
    with pytest.raises(CheckFailed, match=r"V is right \(eq-v\); largest deviation 3.0e-01"):
        check_equal("eq-v", "V is right", found, [1.0, -2.0], 0.25)


def test_equal_infinities_are_equal_and_opposite_ones_are_not():
    found = check_equal("i", "infinite", [math.inf, 1.0], [math.inf, 1.0], 1e-9)
    assert found.measured == "largest deviation 0.0e+00"
    with pytest.raises(CheckFailed, match="deviation inf"):
        check_equal("i", "infinite", [math.inf, 1.0], [-math.inf, 1.0], 1e-9)


@pytest.mark.parametrize("place", [0, 1])
def test_nan_never_passes(place):
    numbers = [1.0, 1.0]
    numbers[place] = math.nan
    with pytest.raises(CheckFailed):
        check_equal("n", "no nan", numbers, [1.0, 1.0], 1e9)
    with pytest.raises(CheckFailed):
        check_equal("n", "no nan", numbers, numbers, 1e9)
    with pytest.raises(CheckFailed):
        check_range("n", "no nan", numbers, at_least=-9)
    with pytest.raises(CheckFailed):
        check_range("n", "no nan", numbers, at_most=9)


@pytest.mark.parametrize(
    ("bounds", "required"),
    [
        ({"at_least": 2}, "at least 2 required"),
        ({"at_most": 3.5}, "at most 3.5 required"),
        ({"at_least": 2, "at_most": 3.5}, "at least 2 and at most 3.5 required"),
    ],
)
def test_numbers_on_their_bounds_pass(bounds, required):
    result = check_range("r", "in range", [3.5, 2.0], **bounds)
    assert (result.measured, result.required) == ("found 2 to 3.5", required)


@pytest.mark.parametrize("bounds", [{"at_least": 2.1}, {"at_most": 3.4}])
def test_one_number_beyond_a_bound_fails(bounds):
    with pytest.raises(CheckFailed, match=r"in range \(r\); found 2 to 3.5, at"):
        check_range("r", "in range", [3.5, 2.0], **bounds)


def test_a_range_without_bounds_is_refused():
    with pytest.raises(ValueError, match="at_least or at_most expected, got neither"):
        check_range("r", "in range", 1.0)


def test_a_check_that_is_not_judged_only_reports():
    results = [
        check_equal("s", "too short", 1.0, 2.0, 0.1, judge=False),
        check_range("s", "too short", 1.0, at_least=2, judge=False),
    ]
    for result in results:
        assert repr(result).startswith("not judged at this size: too short; ")
        assert "✓" not in result._repr_mimebundle_()["text/html"]


def test_a_check_is_shown_and_carries_its_record_for_the_build():
    result = check_range("prop-jsd", "bounded", 0.5, at_most=math.log(2))
    shown = result._repr_mimebundle_()
    assert shown["text/plain"] == "holds: bounded; found 0.5, at most 0.693147 required"
    assert f'id="{result.anchor}"' in shown["text/html"]
    assert "✓ holds" in shown["text/html"]
    assert shown[MIME] == {
        "label": "prop-jsd",
        "claim": "bounded",
        "measured": "found 0.5",
        "required": "at most 0.693147 required",
        "judged": True,
        "anchor": result.anchor,
    }


def test_two_claims_about_one_statement_have_their_own_anchors():
    first, second = (check_range("prop-jsd", c, 0.5, at_least=0) for c in ("first", "second"))
    again = check_range("prop-jsd", "first", 0.1, at_least=0)
    assert first.anchor.startswith("check-prop-jsd")
    assert first.anchor == again.anchor != second.anchor


def test_a_failed_check_is_an_assertion_error():
    assert issubclass(CheckFailed, AssertionError)
