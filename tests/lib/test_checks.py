"""Checks of what callers pass in: each by itself, at its edges, compiled and under vmap."""

import math

import numpy as np
import pytest
import torch

from reparam._checks import (
    any_true,
    check_alike,
    check_count,
    check_finite,
    check_flag,
    check_float,
    check_generator,
    check_number,
    check_probability,
    check_same_shape,
    check_temperature,
    holds_nan,
    is_infinite,
)

CPU = torch.device("cpu")
META = torch.ones(2, device="meta")
FINE = torch.tensor([1.0, -2.0])
NAN = torch.tensor([1.0, math.nan])
BOTH = torch.tensor([math.inf, -math.inf])  # their sum is NaN, and none of them is
LARGE = torch.tensor([3e38, 3e38])  # their sum overflows, and none of them has


@pytest.mark.parametrize(
    ("look", "answers"),
    [
        (lambda x: any_true(x > 0), (True, True, True, True)),
        (holds_nan, (False, True, False, False)),
        (is_infinite, (False, True, True, False)),
    ],
    ids=["any_true", "holds_nan", "is_infinite"],
)
def test_what_is_looked_for_is_found_where_values_can_be_looked_at(look, answers):
    given = FINE, NAN, BOTH, LARGE
    assert tuple(map(look, given)) == answers
    seen = []

    def inside(x):
        seen.append(look(x))
        return x

    for x in given:
        torch.func.vmap(inside)(x[None])
    assert seen == [False] * 4

    def compiled(x):
        return x + 1 if look(x) else x

    for x in given:
        assert torch.equal(
            torch.compile(compiled, backend="eager", fullgraph=True)(x).nan_to_num(), x.nan_to_num()
        )


def test_a_gradient_is_no_obstacle():
    assert holds_nan(NAN.clone().requires_grad_())
    assert is_infinite(BOTH.clone().requires_grad_())


@pytest.mark.parametrize("check", [check_float, check_finite])
def test_floating_point_tensors_with_values(check):
    check(a=FINE, b=torch.zeros((), dtype=torch.bfloat16))
    check()
    for wrong, error, says in (
        (1.0, TypeError, r"^b must be a tensor, got float: torch.as_tensor\(b\) makes one$"),
        (FINE.int(), TypeError, r"^b must hold floating-.* dtype torch.int32: use b.float\(\)$"),
        (torch.ones(2, 0), ValueError, r"^b is empty, got shape \(2, 0\)$"),
        (NAN, ValueError, "^b holds NaN in 1 of its 2 values"),
    ):
        with pytest.raises(error, match=says):
            check(a=FINE, b=wrong)


def test_infinity_is_let_pass_where_only_nan_is_looked_for():
    check_float(x=BOTH)
    check_finite(x=LARGE)
    with pytest.raises(ValueError, match=r"^x holds infinity in 2 of its 2 values"):
        check_finite(x=BOTH)
    with pytest.raises(ValueError, match=r"^x holds NaN in 1 of its 4 values"):
        check_finite(x=torch.cat([NAN, BOTH]))


def test_generators():
    check_generator(None, CPU)
    check_generator(torch.Generator(), CPU)
    with pytest.raises(TypeError, match=r"must be a torch.Generator, got int"):
        check_generator(3, CPU)
    with pytest.raises(ValueError, match=r"on cuda:0, got one on cpu: use .*\('cuda'\)"):
        check_generator(torch.Generator(), torch.device("cuda", 0))


def test_dtype_device_and_shape_are_those_of_the_first():
    check_alike(a=FINE, b=torch.ones(3, 1))
    check_same_shape(a=FINE, b=META)
    for other in (FINE.double(), META):
        for check in (
            lambda b: check_alike(a=FINE, b=FINE, c=b),
            lambda b: check_alike(a=FINE, c=b),
        ):
            with pytest.raises(
                ValueError, match=r"^a and c must share dtype and device.* c.to\(a\)"
            ):
                check(other)
    with pytest.raises(ValueError, match=r"^a and c must have one shape, got \(2,\) and \(1, 2\)"):
        check_same_shape(a=FINE, b=FINE, c=FINE[None])


@pytest.mark.parametrize("wrong", [True, 1.0, "1", None, torch.tensor(1), np.float64(1)])
def test_counts(wrong):
    check_count("n", 1)
    check_count("n", 3, least=3)
    with pytest.raises(TypeError, match=rf"^n must be an int, got {type(wrong).__name__} \("):
        check_count("n", wrong)
    for value, least in ((0, 1), (2, 3)):
        with pytest.raises(ValueError, match=f"^n must be at least {least}, got {value}"):
            check_count("n", value, least)
    with pytest.raises(ValueError, match=r"^n must be at least 1, got 0"):
        check_count("n", 0)


def test_numbers_and_flags():
    for number in (1, -0.5, math.inf, np.float64(2)):
        check_number("x", number)
    for wrong in (True, "1", None, torch.tensor(1.0), 1j):
        with pytest.raises(TypeError, match=f"^x must be a number, got {type(wrong).__name__}"):
            check_number("x", wrong)
    for flag in (True, False):
        check_flag("x", flag)
    for wrong in (1, 0, None, "True"):
        with pytest.raises(
            TypeError, match=f"^x must be True or False, got {type(wrong).__name__}"
        ):
            check_flag("x", wrong)


def test_temperatures():
    for fine in (0.1, 2, torch.tensor([0.1, 2.0])):
        check_temperature(fine)
    for wrong in (True, "1", None):
        with pytest.raises(
            TypeError, match=f"^tau must be a positive number, got {type(wrong).__name__}"
        ):
            check_temperature(wrong, "tau")
    for bad in (0, -1.0, math.inf, math.nan):
        for value in (bad, torch.tensor([0.5, bad])):
            with pytest.raises(ValueError, match=r"^temperature must be positive and finite, got"):
                check_temperature(value)


def test_probabilities():
    check_probability(torch.tensor([0.0, 0.5, 1.0]))
    for wrong, got in ((0.5, "float"), (torch.ones(1).int(), "torch.int32")):
        with pytest.raises(TypeError, match=f"tensor of probabilities, got {got}$"):
            check_probability(wrong)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            check_probability(torch.tensor([0.5, bad]))
