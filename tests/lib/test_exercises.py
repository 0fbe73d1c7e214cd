"""The self-checks: what an expectation says, how answers are found, what is left alone."""

import math

import pytest
import torch

from reparam import exercises
from reparam.exercises import expect
from reparam.exercises._running import Answer, checks_of, names_in, points, run
from reparam.exercises.expect import NotYet


def message(function, *args, **kwargs):
    with pytest.raises(NotYet) as caught:
        function(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("value", [2.0, 2, torch.tensor(2.0), torch.tensor([2.0])])
def test_a_number_may_come_in_many_forms(value):
    assert expect.number(value, "it") == 2.0


@pytest.mark.parametrize("value", ["2", True, None, math.nan, math.inf, torch.ones(2), [2.0], 1j])
def test_what_is_no_number_is_said(value):
    assert "one" in message(expect.number, value, "The count").message


def test_a_known_mistake_gets_its_sentence():
    found = message(expect.close, 2.0, 1.0, "The slope", mistakes={"the 1/2 is missing": 2.0})
    assert found.message == "The slope: the 1/2 is missing."
    assert found.detail == "yours 2, expected 1"


def test_an_unknown_mistake_gets_the_place_that_is_furthest_off():
    found = message(expect.close, torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0]), "z")
    assert found.message == "z is not right yet." and found.detail.endswith("expected 2 at (1,)")
    value, right = torch.tensor([-math.inf, 5.0]), torch.tensor([-math.inf, 2.0])
    assert message(expect.close, value, right, "z").detail == "yours 5, expected 2 at (1,)"


@pytest.mark.parametrize(
    "value, word",
    [
        (3.0, "tensor"), (torch.ones(2), "shape"), (torch.ones(3, dtype=torch.int64), "floating"),
        (torch.tensor([1.0, math.nan, 1.0]), "NaN"),
    ],
)  # fmt: skip
def test_a_tensor_of_another_kind_is_said(value, word):
    assert word in message(expect.tensor, value, (3,), "The sample").message


def test_shapes_are_not_broadcast():
    assert "shape" in message(expect.close, torch.ones(1), torch.ones(3), "z").message


def test_missing_gradients_are_named():
    mu = torch.tensor(1.0, requires_grad=True)
    sigma = torch.tensor(1.0, requires_grad=True)
    assert "no graph" in message(expect.gradients, mu.detach(), mu=mu).message
    assert "reaches sigma" in message(expect.gradients, 2 * mu, mu=mu, sigma=sigma).message


@pytest.mark.parametrize("seed", range(20))
def test_a_right_mean_passes_and_a_bias_of_ten_errors_does_not(seed):
    n = 10_000
    noise = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    expect.mean(1 + noise, 1.0, "The mean", deviation=1.0)
    wrong = {"it is shifted": 1.1}
    found = message(expect.mean, 1.1 + noise, 1.0, "The mean", deviation=1.0, mistakes=wrong)
    assert "it is shifted" in found.message


def test_noise_does_not_buy_a_pass():
    noise = 100 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert "scatter more" in message(expect.mean, noise, 1.0, "The mean", deviation=1.0).message


@pytest.mark.parametrize("seed", range(5))
def test_variances(seed):
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(seed))
    expect.variance(2 * noise, 4.0, "The variance", within=0.2)
    message(expect.variance, 2.5 * noise, 4.0, "The variance", within=0.2)


def test_equal_asks_for_one_of_the_options():
    assert "one of 'a', 'b'" in message(expect.equal, "c", "a", "x", options=("a", "b")).message
    assert "not right yet" in message(expect.equal, "b", "a", "x", options=("a", "b")).message
    expect.equal(torch.tensor(True), True, "x")
    message(expect.equal, 1, True, "x")


def test_raises():
    expect.raises(ValueError, lambda: float("x"), "A word")
    assert "passes without" in message(expect.raises, ValueError, lambda: 1, "A word").message
    assert "TypeError" in message(expect.raises, ValueError, lambda: float([]), "x").detail


def outcome(test, **names):
    return run(test, Answer(names, {}), seed=1)


def test_outcomes():
    @points(2)
    def test_it(answer, rng):
        """It is right."""
        expect.equal(answer.it(), 1, "It")

    def broken():
        return [][1]

    def blank():
        raise NotImplementedError

    assert outcome(test_it, it=lambda: 1).status == "passed"
    assert outcome(test_it, it=lambda: 2).status == "not yet"
    assert outcome(test_it, it=blank).status == outcome(test_it).status == "unanswered"
    failed = outcome(test_it, it=broken)
    assert (failed.status, failed.title, failed.points) == ("failed", "It is right", 2)
    assert "`broken`" in failed.detail and "return [][1]" in failed.detail


def test_checks_leave_the_learners_random_numbers_alone(capsys):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    scope = {"check": exercises.check, "reaches_mu": lambda program: program(torch.rand(()), 1.0)}
    exec('check("1.1")', scope)
    assert torch.rand(4).equal(wanted)
    assert "of 3 checks pass so far" in capsys.readouterr().out


def test_a_question_of_that_number_is_not_meant():
    with pytest.raises(TypeError, match=r"goes to reparam\.quiz\.check\('3\.1', 'b'\)"):
        exercises.check("3.1", "b")


def test_require_raises_what_check_prints():
    with pytest.raises(AssertionError, match="not answered yet"):
        exec('require("1.1")', {"require": exercises.require})


@pytest.mark.parametrize("name", ["9.9", 1.1, "", None])
def test_an_exercise_that_is_not_there(name):
    with pytest.raises(ValueError, match=r"there is no exercise .* there are 1\.1"):
        exercises.check(name)


def test_names_of_a_cell():
    assert names_in("a, b = 1, 2\nc: int = 3\ndef f(): pass\nclass G: pass\nd.e = 4") == [
        "a", "b", "c", "f", "G",
    ]  # fmt: skip


def test_every_check_module_has_titles_and_tests():
    for name in exercises._known():
        module = exercises._load(name[1:].replace("_", "."))
        assert module.TITLE and len(checks_of(vars(module))) >= 2
        assert all(test.__doc__ for test in checks_of(vars(module)))


def test_only_infinity_is_close_to_infinity():
    truth = torch.tensor([1.0, math.inf])
    expect.close(truth.clone(), truth, "z")
    for value in (3.0, -math.inf):
        assert (
            "z is not right"
            in message(expect.close, torch.tensor([1.0, value]), truth, "z").message
        )


def test_an_answer_is_not_told_the_seed_of_a_check():
    """It could draw the check's own inputs from it."""
    told = []
    answer = Answer({}, {})
    answer.seed = told.append

    def test_it(answer, rng):
        "It."
        assert rng.initial_seed() == 5 != told[0]

    run(test_it, answer, 5)
    run(test_it, answer, 5)
    assert len(told) == 2 and told[0] == told[1]
