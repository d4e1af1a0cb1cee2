"""ganlib.checks: a claim that holds is shown, one that does not stops the chapter."""

import math

import pytest
import torch

from ganlib.checks import MIME, CheckFailed, check_equal, check_parameters, check_range


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


# --- the parameters of a chapter -------------------------------------------------------------


def checked(given: dict, **allowed) -> dict:
    names = {"smoke": False, "seed": 0, **given}
    check_parameters(names, **allowed)
    return names


@pytest.mark.parametrize("word", [False, 0, "false", "False", " false ", "0"])
def test_smoke_is_off_however_a_command_line_writes_it(word):
    assert checked({"smoke": word})["smoke"] is False


@pytest.mark.parametrize("word", [True, 1, "true", "True", "TRUE", "1"])
def test_smoke_is_on_however_a_command_line_writes_it(word):
    assert checked({"smoke": word})["smoke"] is True


@pytest.mark.parametrize("word", ["flase", "", "no", None, 2, -1, 0.5, [], "none"])
def test_smoke_is_refused_where_it_says_neither(word):
    with pytest.raises(ValueError) as error:
        checked({"smoke": word})
    assert str(error.value) == f"smoke: True or False expected, got {word!r}"


@pytest.mark.parametrize("value", [3000, 3000.0, "3000", "3000.0", "3e3", "3_000", " 3000"])
def test_whole_numbers_of_another_type_are_taken_for_what_they_mean(value):
    found = checked({"steps": value, "seed": "7", "n_seeds": "4"}, steps=(2, 3000), n_seeds=4)
    assert found == {"smoke": False, "seed": 7, "steps": 3000, "n_seeds": 4}
    assert {type(found[name]) for name in ("seed", "steps", "n_seeds")} == {int}


@pytest.mark.parametrize(
    "value", [1, 91, -5, 2.5, "2.5", "two", "", None, True, math.nan, math.inf, "nan", [3], 10**400]
)
def test_numbers_out_of_range_or_not_whole_are_refused_with_name_value_and_range(value):
    with pytest.raises(ValueError) as error:
        checked({"points": 50, "steps": value}, points=1, steps=(2, 90))
    assert str(error.value) == f"steps: a whole number from 2 to 90 expected, got {value!r}"


def test_the_bounds_themselves_are_allowed_and_there_need_not_be_an_upper_one():
    assert checked({"steps": 2, "points": 90}, steps=(2, 90), points=(2, 90))["points"] == 90
    assert checked({"steps": 10**9, "seed": 2**31 - 1}, steps=2)["steps"] == 10**9
    with pytest.raises(ValueError, match="steps: a whole number of at least 1,000 expected, got 9"):
        checked({"steps": 9}, steps=1000)


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5, "x", None, False])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match="seed: a whole number from 0 to 2,147,483,647 expected"):
        checked({"seed": seed})


def test_a_name_is_one_of_those_that_are_allowed():
    assert checked({"dataset": "b"}, dataset=("a", "b"))["dataset"] == "b"
    with pytest.raises(ValueError, match="dataset: 'a' or 'b' expected, got 'B'"):
        checked({"dataset": "B"}, dataset=("a", "b"))


def test_a_refused_parameter_leaves_all_as_they_were():
    names = {"smoke": "true", "seed": "1", "steps": 1}
    with pytest.raises(ValueError, match="steps"):
        check_parameters(names, steps=2)
    assert names == {"smoke": "true", "seed": "1", "steps": 1}
