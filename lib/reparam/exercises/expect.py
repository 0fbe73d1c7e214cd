"""What an exercise expects of an answer: each expectation passes silently or says what is wrong.

A check of an exercise is a function of expectations. One that is not met raises `NotYet`, with a
message that names the mistake where it can: `mistakes` maps a sentence to the value that the
mistake leads to, and an answer with that value is told that sentence. The same expectations serve
the self-checks in a learner's notebook and the hidden tests of a grader; the numbers, which would
give hidden inputs away, stand apart in `detail`.

>>> import torch
>>> from reparam.exercises import expect
>>> mistakes = {"ε is missing: ∂z/∂σ is ε": 1.0}
>>> expect.close(torch.tensor(1.0), 0.3, "∂z/∂σ", mistakes=mistakes)
Traceback (most recent call last):
...
reparam.exercises.expect.NotYet: ∂z/∂σ: ε is missing: ∂z/∂σ is ε. (yours 1, expected 0.3)

Used in the exercises of every chapter.
"""

import math

import torch
from torch import Tensor

__all__ = [
    "NotYet",
    "Unanswered",
    "close",
    "equal",
    "gradients",
    "mean",
    "number",
    "raises",
    "tensor",
    "that",
    "variance",
]

#: A mean further from the truth than this many standard errors is called wrong: with normal
#: errors, one false alarm in 10^10 numbers checked.
ALARM = 6.5
#: And a bias of ALARM + POWER standard errors is missed once in a thousand times.
POWER = 3.1


class NotYet(AssertionError):
    """An expectation that an answer does not meet: a sentence for everyone, numbers apart."""

    def __init__(self, message, detail=""):
        self.message, self.detail = message, detail
        super().__init__(f"{message} ({detail})" if detail else message)


class Unanswered(Exception):
    """There is no answer yet: the name is missing, or still has the value of the blank."""


def that(condition, message, detail=""):
    """`condition` holds; if not, `message` says why that matters.

    Used in the exercises of every chapter.

    >>> that(1 + 1 == 2, "Arithmetic has changed.")
    """
    if not condition:
        raise NotYet(message, detail)


def tensor(value, shape, what):
    """`value` is a floating-point tensor of `shape` without NaN; returns it.

    Used in the exercises of every chapter.

    >>> tensor(torch.zeros(2, 3), (2, 3), "the sample").sum()
    tensor(0.)
    """
    if not isinstance(value, Tensor):
        raise NotYet(f"{what} should be a tensor.", f"yours is {_article(type(value).__name__)}")
    if not value.dtype.is_floating_point:
        raise NotYet(f"{what} should hold floating-point numbers.", f"yours has {value.dtype}")
    if tuple(value.shape) != tuple(shape):
        detail = f"yours has shape {tuple(value.shape)}, expected {tuple(shape)}"
        raise NotYet(f"{what} has another shape than it should.", detail)
    if value.isnan().any():
        raise NotYet(f"{what} holds NaN.")
    return value


def number(value, what):
    """`value` as a finite float: a Python number, or a tensor or array with one element.

    Used in the exercises of every chapter.

    >>> number(torch.tensor([2]), "the count")
    2.0
    """
    try:
        found = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        name = _article(type(value).__name__)
        raise NotYet(f"{what} should be one number.", f"yours is {name}") from None
    if isinstance(value, (str, bool)) or not math.isfinite(found):
        raise NotYet(f"{what} should be one finite number.", f"yours is {value!r:.60}")
    return found


def close(value, truth, what, *, rtol=1e-4, atol=1e-6, mistakes=None):
    """Every number of `value` is within `atol + rtol·|truth|` of `truth`.

    Args:
        value: a number or a tensor of `truth`'s shape.
        truth: the right value.
        what: what it is, the beginning of the message.
        mistakes: {sentence: the value that this mistake leads to}; a value within the same
            tolerance of it gets that sentence.

    Used in the exercises of every chapter.

    >>> close(0.1 + 0.2, 0.3, "the sum")
    """
    right = torch.as_tensor(truth)
    if right.dim():
        value = tensor(value, right.shape, what)
    else:
        value = torch.tensor(number(value, what), dtype=torch.float64)
    value, right = value.detach().double().cpu(), right.detach().double().cpu()

    def is_near(other):
        return bool(torch.isclose(value, other, rtol, atol).all())

    if is_near(right):
        return
    raise NotYet(_named(what, is_near, right, mistakes), _difference(value, right))


def equal(value, truth, what, *, mistakes=None, options=None):
    """`value` is `truth`: a word, a list of words, a truth value.

    Args:
        options: what may be answered; anything else is told so.
        mistakes: {sentence: the value that this mistake leads to}.

    Used in the exercises of some chapters.

    >>> equal("b", "b", "your choice", options="abc")
    """
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    if options is not None and not any(type(value) is type(o) and value == o for o in options):
        wanted = ", ".join(map(repr, options))
        raise NotYet(f"{what} should be one of {wanted}.", f"yours is {value!r:.60}")
    if type(value) is type(truth) and value == truth:
        return
    for sentence, wrong in (mistakes or {}).items():
        if type(value) is type(wrong) and value == wrong:
            raise NotYet(f"{what}: {_full(sentence)}")
    raise NotYet(f"{what} is not right yet.", f"yours is {value!r:.60}")


def gradients(output, **inputs):
    """The gradients of `output.sum()` by the named inputs, as a dict; says so where one is missing.

    Used in the exercises of some chapters.

    >>> mu = torch.tensor(1.0, requires_grad=True)
    >>> gradients(mu**2, mu=mu)
    {'mu': tensor(2.)}
    """
    if not isinstance(output, Tensor):
        raise NotYet("The result should be a tensor.", f"it is {_article(type(output).__name__)}")
    if not output.requires_grad:
        names = " and ".join(inputs)
        raise NotYet(
            f"No gradient can reach {names}: the result has no graph. Somewhere on the way stands "
            "`sample()`, `detach()`, `item()`, `torch.no_grad()`, or a new tensor made of numbers."
        )
    slopes = torch.autograd.grad(output.sum(), list(inputs.values()), allow_unused=True)
    for name, slope in zip(inputs, slopes, strict=True):
        if slope is None:
            raise NotYet(f"No gradient reaches {name}: the result does not depend on it.")
        if slope.isnan().any():
            raise NotYet(f"The gradient by {name} holds NaN.")
    return dict(zip(inputs, slopes, strict=True))


def mean(samples, truth, what, *, deviation, mistakes=None):
    """The mean of independent `samples` is `truth`, by a z-test of stated error rates.

    A right answer fails once in 10^10 numbers checked. A bias of 9.6 · deviation / √n is missed
    once in a thousand times, so `n` is to be chosen with the smallest bias in mind.

    Args:
        samples: [n, *shape of truth].
        truth: the expectation, exactly.
        deviation: the largest standard deviation that a right sample can have. Samples that
            scatter more are called noisy: no test would find anything in them.
        mistakes: {sentence: the expectation under this mistake}.

    Used in the exercises of some chapters.

    >>> mean(torch.linspace(-1, 1, 1000), 0.0, "the mean", deviation=1.0)
    """
    right = torch.as_tensor(truth).detach().double().cpu()
    samples = _samples(samples, right, what)
    error = samples.std(0) / math.sqrt(len(samples))
    most = torch.as_tensor(deviation).double() * (1 + ALARM / math.sqrt(len(samples)))
    _not_noisy(error * math.sqrt(len(samples)), most, what)
    _within(samples.mean(0), error, right, what, mistakes)


def variance(samples, truth, what, *, within, mistakes=None):
    """The variance of independent `samples` is `truth`, by a z-test.

    As `mean`, for the variance: `within` is the relative error that the test must be able to see
    (in 999 of 1,000 runs); samples with tails too heavy for that are called noisy.

    Used in the exercises of some chapters.

    >>> generator = torch.Generator().manual_seed(0)
    >>> variance(2 * torch.randn(10000, generator=generator), 4.0, "the variance", within=0.2)
    """
    right = torch.as_tensor(truth).detach().double().cpu()
    samples = _samples(samples, right, what)
    squares = (samples - samples.mean(0)) ** 2
    error = squares.std(0) / math.sqrt(len(samples))
    found = squares.mean(0) * (len(samples) / (len(samples) - 1))
    _not_noisy((ALARM + POWER) * error, within * torch.maximum(right, found), what)
    _within(found, error, right, what, mistakes)


def raises(kinds, function, what):
    """`function()` raises one of `kinds`, an exception class or several: bad input is refused.

    Used in the exercises of some chapters.

    >>> raises(ValueError, lambda: float("one"), "a word for a number")
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    names = [kind.__name__ for kind in kinds]
    try:
        function()
    except NotImplementedError:
        raise
    except Exception as error:
        found = getattr(error, "kind", type(error).__name__)  # a grader hands on the name alone
        if isinstance(error, kinds) or found in names:
            return
        raise NotYet(f"{what} should raise {' or '.join(names)}.", f"it raises {found}") from None
    raise NotYet(f"{what} should raise {' or '.join(names)}, and passes without a word.")


def _samples(samples, right, what):
    if not isinstance(samples, Tensor) or samples.dim() == 0:
        raise NotYet(f"{what}: the samples should be a tensor with one row for each.")
    samples = tensor(samples, (len(samples), *right.shape), what).detach().double().cpu()
    that(len(samples) > 1, f"{what}: one sample has no scatter.")
    that(bool(samples.isfinite().all()), f"{what}: a sample is infinite.")
    return samples


def _not_noisy(found, most, what):
    if bool((found > most).any()):
        at = int((found - most).flatten().argmax())
        most = torch.as_tensor(most).expand_as(found).flatten()[at]
        detail = f"{found.flatten()[at]:.3g} where at most {most:.3g} is right"
        raise NotYet(f"{what}: the samples scatter more than those of a right answer.", detail)


def _within(found, error, right, what, mistakes):
    rounding = 1e-5 * right.abs() + 1e-7  # float32 samples, and samples that do not vary at all

    def is_near(other):
        return bool(((found - other).abs() <= ALARM * error + rounding).all())

    if is_near(right):
        return
    raise NotYet(_named(what, is_near, right, mistakes), _difference(found, right, error))


def _named(what, is_near, right, mistakes):
    """The sentence of the mistake that the value agrees with, if there is one."""
    for sentence, wrong in (mistakes or {}).items():
        wrong = torch.as_tensor(wrong).detach().double().cpu()
        if is_near(wrong.expand_as(right)):
            return f"{what}: {_full(sentence)}"
    return f"{what} is not right yet."


def _difference(value, right, error=None):
    """The first number that is furthest off, yours and the expected one."""
    if not right.numel():
        return ""
    apart = torch.where(value == right, 0.0, (value - right).abs())  # infinities are alike
    at = int(apart.flatten().argmax())
    place = f" at {tuple(int(i) for i in torch.unravel_index(torch.tensor(at), right.shape))}"
    band = "" if error is None else f" ± {error.flatten()[at]:.1g}"
    where = place if right.dim() else ""
    yours, wanted = value.flatten()[at], right.flatten()[at]
    return f"yours {yours:.6g}{band}, expected {wanted:.6g}{where}"


def _full(sentence):
    return sentence if sentence.endswith((".", "?", "!")) else sentence + "."


def _article(name):
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
