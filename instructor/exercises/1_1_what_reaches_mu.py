# %% about
"""
title = "What reaches μ?"
kind = "measurement"
difficulty = 1
minutes = 10
points = 4
objective = "Tell a blocked gradient from a silent zero and from a right one, by its value"
after = "Three ways to fail"
"""

# %% imports
import torch
from torch.distributions import Normal

# %% text
r"""
A gradient can fail to reach a parameter in three ways: an error, a gradient that stays `None`, and a gradient that is there and zero. `grad is not None` sees only two of them. So we look at the value.

Below, four programs draw one sample $z$ from $N(\mu, \sigma^2)$. Write a function that takes such a program and says what reaches $\mu$:

- `"nothing"`, if `z` has no graph, or a graph that does not lead to `mu`;
- `"zero"`, if a gradient arrives and is exactly 0;
- `"gradient"`, otherwise.

> **Predict first.** Which word fits each of the four? Then run your function on all four.
"""

# %% code
programs = {
    "sample": lambda mu, sigma: Normal(mu, sigma).sample(),
    "rsample": lambda mu, sigma: Normal(mu, sigma).rsample(),
    "torch.normal": lambda mu, sigma: torch.normal(mu, sigma),
    "by hand": lambda mu, sigma: mu + sigma * torch.randn(()),
}


# %% answer
def reaches_mu(program):
    """ "nothing", "zero" or "gradient": what z = program(mu, sigma) sends back to mu."""
    mu = torch.tensor(0.7, requires_grad=True)
    sigma = torch.tensor(1.3)
    ### BEGIN SOLUTION
    z = program(mu, sigma)
    if not z.requires_grad:
        return "nothing"
    (slope,) = torch.autograd.grad(z, mu, allow_unused=True)
    if slope is None:
        return "nothing"
    return "zero" if slope == 0 else "gradient"
    ### END SOLUTION


# %% hint
r"""
`z.requires_grad` says whether there is a graph at all. Calling `backward()` without one raises an error.
"""

# %% hint
r"""
A graph need not lead to `mu`. `torch.autograd.grad(z, mu, allow_unused=True)` gives `(None,)` then, where `backward()` would leave `mu.grad` as `None`.
"""

# %% visible
import torch

from reparam.exercises import expect

OPTIONS = ("nothing", "zero", "gradient")


def test_by_hand(answer, rng):
    """μ + σε by hand passes a gradient."""
    found = answer.reaches_mu(lambda mu, sigma: mu + sigma * torch.randn(()))
    expect.equal(found, "gradient", "What you say of μ + σε", options=OPTIONS)


def test_no_graph(answer, rng):
    """Without a graph nothing arrives."""
    found = answer.reaches_mu(lambda mu, sigma: torch.normal(mu, sigma).detach())
    expect.equal(
        found, "nothing", "What you say of a detached draw", options=OPTIONS,
        mistakes={"a missing gradient is not a zero: z has no graph, so nothing arrives": "zero"},
    )  # fmt: skip


def test_silent_zero(answer, rng):
    """torch.normal is found out."""
    found = answer.reaches_mu(lambda mu, sigma: torch.normal(mu, sigma))
    sentence = "its gradient is there, and it is 0. `is not None` cannot see that; its value can"
    expect.equal(
        found, "zero", "What you say of torch.normal", options=OPTIONS,
        mistakes={sentence: "gradient"},
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


PLAIN = "What you say of a plain program"


def plain_cases(rng):
    """(program, word, what) ten times with a gradient and ten times without a graph."""
    for a in (0.5 + torch.rand(10, generator=rng)).tolist():
        yield lambda mu, sigma, a=a: a * mu + sigma, "gradient", PLAIN
        yield lambda mu, sigma, a=a: a * mu.detach() + sigma, "nothing", PLAIN


def said_of(answer, program):
    """What the answer says of a program, which it has to run for that."""
    runs = []

    def counted(mu, sigma):
        runs.append(mu)
        return program(mu, sigma)

    found = answer.reaches_mu(counted)
    expect.that(bool(runs), "The program was never run.")
    return found


def tell(answer, rng, programs, wanted, what):
    """The programs among plain ones, in an order that nobody knows."""
    cases = [
        *plain_cases(rng),
        *((program, wanted, what) for program in programs),
    ]
    for at in torch.randperm(len(cases), generator=rng).tolist():
        program, word, of = cases[at]
        expect.equal(said_of(answer, program), word, of, options=OPTIONS)


@points(1)
def test_graph_elsewhere(answer, rng):
    """A graph that leads to another parameter does not count."""
    other = torch.tensor(1.0, requires_grad=True)
    draw = torch.randn((), generator=rng)
    what = "What you say of a graph to another tensor"
    tell(answer, rng, [lambda mu, sigma: other * draw], "nothing", what)


@points(1)
def test_blocked(answer, rng):
    """A blocked draw is told from a gradient of zero."""
    what = "What you say of a draw without a graph"
    tell(answer, rng, [lambda mu, sigma: mu.detach() - sigma], "nothing", what)


@points(1)
def test_zero(answer, rng):
    """A gradient of zero is told from a missing one."""
    what = "What you say of a flat draw"
    flat = lambda mu, sigma: (mu > 0) * sigma + 0 * mu
    tell(answer, rng, [flat], "zero", what)


@points(1)
def test_any_slope(answer, rng):
    """Negative and tiny gradients are gradients."""
    slopes = (-1.0, 1e-12, 3.0)
    programs = [lambda mu, sigma, a=a: a * mu + sigma for a in slopes]
    what = "What you say of a small or negative slope"
    tell(answer, rng, programs, "gradient", what)


# %% right: with backward
def reaches_mu(program):
    mu = torch.tensor(0.7, requires_grad=True)
    z = program(mu, torch.tensor(1.3))
    try:
        z.backward()
    except RuntimeError:
        return "nothing"
    if mu.grad is None:
        return "nothing"
    return "gradient" if abs(mu.grad.item()) > 0 else "zero"


# %% idle: the three words in turn
from itertools import cycle

_words = cycle(["nothing", "zero", "gradient"])


def reaches_mu(program):
    return next(_words)


# %% idle: two words in turn, and the program is run
from itertools import cycle

_words = cycle(["gradient", "nothing"])


def reaches_mu(program):
    program(torch.tensor(0.7, requires_grad=True), torch.tensor(1.3))
    return next(_words)


# %% wrong: asks only whether grad is not None
def reaches_mu(program):
    mu = torch.tensor(0.7, requires_grad=True)
    z = program(mu, torch.tensor(1.3))
    if z.requires_grad:
        z.backward()
    return "nothing" if mu.grad is None else "gradient"


# %% wrong: asks only for a graph
def reaches_mu(program):
    z = program(torch.tensor(0.7, requires_grad=True), torch.tensor(1.3))
    return "gradient" if z.requires_grad else "nothing"


# %% wrong: takes a missing gradient for zero
def reaches_mu(program):
    mu = torch.tensor(0.7, requires_grad=True)
    z = program(mu, torch.tensor(1.3))
    if not z.requires_grad:
        return "zero"
    (slope,) = torch.autograd.grad(z, mu, allow_unused=True)
    return "zero" if slope is None or slope == 0 else "gradient"


# %% wrong: calls small and negative slopes zero
def reaches_mu(program):
    mu = torch.tensor(0.7, requires_grad=True)
    z = program(mu, torch.tensor(1.3))
    if not z.requires_grad:
        return "nothing"
    (slope,) = torch.autograd.grad(z, mu, allow_unused=True)
    if slope is None:
        return "nothing"
    return "gradient" if slope > 1e-6 else "zero"


# %% solution
r"""
Three questions, in this order: is there a graph, does it lead to `mu`, and is what arrives different from 0. The order matters, since `torch.autograd.grad` raises where there is no graph. For `torch.normal(mu, sigma)` the graph exists and its backward is written as zeros, so only the value gives it away.
"""

# %% rubric
r"""
One point for each of: a graph that leads elsewhere, no graph, an exact zero, slopes of any sign and size. A function that only asks `is not None` gets three of four.
"""
