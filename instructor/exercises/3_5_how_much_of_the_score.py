# %% about
"""
title = "How much of the score?"
kind = "harder"
difficulty = 4
minutes = 45
points = 8
objective = "Derive and use the best mixture of the two pathwise gradients of an ELBO"
after = "Sticking the landing"
"""

# %% imports
import math
import torch
from torch import nn

# %% text
r"""
Let $q = N(\mu,\sigma^2)$, $z = \mu+\sigma\varepsilon$ and $\mathrm{ELBO} = \mathbb E[\log p(z) - \log q(z)]$. The full pathwise gradient by $\mu$ holds a score term of mean 0, and *sticking the landing* drops it. We may drop a part: weight $a$ on the gradient without the term, $1-a$ on the full one.

> **Predict first.** For $p = N(0,1)$: at which σ is the gradient without the term free of noise? Below which σ is it louder than the full one?

1. `gradients(log_p, mu, sigma, eps, a)`: for each noise in `eps` (`[n]`) the estimate by $\mu$, as `[n]`. `log_p` maps `[n]` to `[n]` and is differentiable.
2. For $p = N(0, 1)$: `best_a(sigma)`, the weight of least variance, and `quieter_from`, the σ above which $a=1$ beats $a=0$.
3. `Mixer`, for any $p$: a module that learns the weight. `forward(full, dropped)`, `[n]` each for the same noise, returns the mixture whose $a$ gives all samples of *earlier* batches, taken together, the least sample variance ($a = 0$ before the first). Then, in training mode alone, it takes the batch in. Its memory is in its `state_dict` and does not grow.
"""


# %% answer
def gradients(log_p, mu, sigma, eps, a):
    """[n] estimates of d ELBO / d mu, weight a on the one without the term."""
    ### BEGIN SOLUTION
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(log_p(z).sum(), z)
    return slope + a * eps / sigma
    ### END SOLUTION


def best_a(sigma):
    """The weight with the least variance for p = N(0, 1)."""
    ### BEGIN SOLUTION
    return sigma**2
    ### END SOLUTION


# %% answer
### BEGIN SOLUTION
quieter_from = math.sqrt(0.5)
### END SOLUTION


# %% answer
class Mixer(nn.Module):
    """Mix two estimates with the weight that was best for the batches before."""

    def __init__(self):
        super().__init__()
        ### BEGIN SOLUTION
        self.register_buffer("sums", torch.zeros(5, dtype=torch.float64))
        ### END SOLUTION

    def forward(self, full, dropped):
        """[n]: the mixture; in training the batch is remembered afterwards."""
        ### BEGIN SOLUTION
        term = full - dropped
        n, t, f, tt, tf = self.sums.tolist()
        a = (tf - t * f / n) / (tt - t * t / n) if n else 0.0
        if self.training:
            seen = [torch.ones_like(term), term, full, term**2, term * full]
            self.sums += torch.stack(seen).sum(1).double()
        return full - a * term
        ### END SOLUTION


# %% hint
r"""
$\log q(z) = -\varepsilon^2/2 - \log\sigma + \text{const}$: along the path it does not depend on $\mu$. So the full gradient is $\frac{d}{dz}\log p(z)$ alone, and the one without the score term has $-\frac{\partial}{\partial z}\log q(z) = \varepsilon/\sigma$ on top.
"""

# %% hint
r"""
For $p = N(0,1)$ the estimate is $-\mu - \sigma\varepsilon + a\varepsilon/\sigma$. Its variance is a square.
"""

# %% hint
r"""
The mixture is $\text{full} - a\,t$ with $t = \text{full}-\text{dropped}$. That is a control variate with a coefficient, and the best coefficient is the slope of a regression of full on $t$: a covariance over a variance.
"""

# %% hint
r"""
Five running sums suffice for that slope: the number of samples and the sums of $t$, full, $t^2$ and $t\cdot$full. `self.register_buffer(name, tensor)` puts them into the state.
"""

# %% visible
import math

import numpy as np
import torch

from reparam.exercises import expect


def test_ends(answer, rng):
    """The two ends, at μ = 1, σ = 2."""
    eps = torch.tensor([0.5, -1.0])
    log_p = lambda z: -(z**2) / 2
    full = -(1 + 2 * eps)
    found = answer.gradients(log_p, 1.0, 2.0, eps, 0.0)
    expect.close(
        found, full, "Your mixture at a = 0",
        mistakes={
            "this is the one without the score term: the weights are the other way round":
                full + eps / 2,
            "the score term is counted twice; along the path log q does not move": full - eps / 2,
        },
    )  # fmt: skip
    found = answer.gradients(log_p, 1.0, 2.0, eps, 1.0)
    expect.close(
        found, full + eps / 2, "Your mixture at a = 1",
        mistakes={
            "the sign of the path through log q: minus log q is in the ELBO": full - eps / 2,
            "the score is (z - μ)/σ² = ε/σ; a factor σ is off": full + eps,
            "nothing has changed against a = 0": full,
        },
    )  # fmt: skip


def test_landing(answer, rng):
    """Where q is the posterior no variance is left; elsewhere the weight is another."""
    expect.close(
        answer.best_a(1.0), 1.0, "The best weight at σ = 1",
        mistakes={"this keeps the whole score term": 0.0},
    )  # fmt: skip
    found = expect.number(answer.best_a(2.0), "The best weight at σ = 2")
    expect.that(
        abs(found - 1) > 0.01,
        "best_a: at σ = 2 the width of q is not the posterior's, and dropping the term, no more "
        "and no less, leaves noise.",
    )
    border = expect.number(answer.quieter_from, "quieter_from")
    expect.that(
        abs(border - 1) > 0.01,
        "quieter_from: at σ = 1 dropping the term leaves no noise at all, so that the border "
        "is elsewhere.",
    )


def test_mixer(answer, rng):
    """The first two batches of a mixer."""
    mixer = answer.Mixer()
    full, dropped = torch.tensor([3.0, 1.0]), torch.tensor([-2.0, 4.0])
    expect.close(
        mixer(full, dropped), full, "The first batch",
        mistakes={
            "its weight comes from this very batch, and that is biased": torch.full((2,), 1.75),
            "the weight begins at 0, which is the full gradient": dropped,
        },
    )  # fmt: skip
    found = mixer(torch.tensor([2.0]), torch.tensor([-2.0]))
    expect.close(
        found, torch.tensor([1.0]), "The second batch",
        mistakes={
            "the first batch is not remembered": torch.tensor([2.0]),
            "the weights are the other way round": torch.tensor([-1.0]),
            "the weight has the wrong sign": torch.tensor([3.0]),
            "the sums are not centered: a sample variance is about the sample mean, and the "
            "estimates' own mean must not count": torch.tensor([2 - 4 * 12 / 34]),
        },
    )  # fmt: skip


def test_memory(answer, rng):
    """Two batches, then evaluation, then a copy."""
    mixer, copy = answer.Mixer(), answer.Mixer()
    probe = torch.tensor([2.0]), torch.tensor([-2.0])
    mixer(torch.tensor([3.0, 1.0]), torch.tensor([-2.0, 4.0]))
    mixer(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]))
    mixer.eval()
    mixer(torch.tensor([9.0, 1.0]), torch.tensor([0.0, 7.0]))
    wanted = torch.tensor([2 - 4 * 9 / 32.75])
    expect.close(
        mixer(*probe), wanted, "A batch in evaluation",
        mistakes={
            "a batch met in evaluation was taken in": torch.tensor([2 - 840 / 436]),
            "the last training batch alone counts": torch.tensor([-6.0]),
            "the weights of the batches are averaged; take their samples together":
                torch.tensor([-2.5]),
        },
    )  # fmt: skip
    copy.load_state_dict(mixer.state_dict())
    expect.close(
        copy(*probe), wanted, "The same batch in a copy with this state",
        mistakes={"the memory did not travel in state_dict": torch.tensor([2.0])},
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


@points(2)
def test_gradients(answer, rng):
    """Other posteriors and weights, draw by draw."""
    for _ in range(2):
        b, mu, sigma, a = (torch.rand(4, generator=rng) + 0.2).tolist()
        a = a + 0.5
        eps = torch.randn(30, generator=rng)
        found = answer.gradients(
            lambda z, b=b: torch.sin(b * z) - z**4 / 4, mu, sigma, eps, a
        )
        z = mu + sigma * eps
        wanted = b * torch.cos(b * z) - z**3 + a * eps / sigma
        expect.close(found, wanted, "Your mixture", rtol=1e-3, atol=1e-3)


@points(1)
def test_best(answer, rng):
    """The best weight, for a normal posterior."""
    for sigma in (0.3 + 1.5 * torch.rand(4, generator=rng)).tolist():
        found = expect.number(answer.best_a(sigma), "The best weight")
        left = (found / sigma - sigma) ** 2
        expect.that(left < 1e-6, "Another weight gives less variance.")


@points(1)
def test_from(answer, rng):
    """From where dropping it is quieter."""
    found = expect.number(answer.quieter_from, "quieter_from")
    expect.that(
        abs(found - math.sqrt(0.5)) < 0.005,
        "The two variances are equal elsewhere.",
    )


def drawn(rng):
    """Pairs of estimates; terms and slopes differ from batch to batch."""
    for n, base in ((6, 0.3), (20, 1.5), (9, -0.9), (14, 0.6)):
        shift, scale, tilt = torch.rand(3, generator=rng).tolist()
        term = 0.5 + shift + (0.5 + scale) * torch.randn(n, generator=rng)
        full = (
            3 + (base + 0.3 * tilt) * term + 0.3 * torch.randn(n, generator=rng)
        )
        yield full, full - term


def batches(rng):
    """Such pairs, drawn until memories of other batches have other weights."""
    while True:
        first, second, third, _ = row = list(drawn(rng))
        memories = (
            [], [first], [second], [third], [first, second], [first, third],
            [second, third], [first, second, third],
        )  # fmt: skip
        weights = torch.tensor([weight(past) for past in memories])
        if weights.sort().values.diff().min() > 0.05:
            return row


def weight(past):
    """By a least-squares line through all earlier samples; 0 without them."""
    if not past:
        return 0.0
    fulls, others = (
        torch.cat(column).double() for column in zip(*past, strict=True)
    )
    return float(np.polyfit((fulls - others).numpy(), fulls.numpy(), 1)[0])


def mixed(full, dropped, past):
    return full - weight(past) * (full - dropped)


@points(2)
def test_row(answer, rng):
    """A row of batches, each with the weight of those before it."""
    mixer, past = answer.Mixer(), []
    for full, dropped in batches(rng):
        found = mixer(full, dropped)
        wanted = mixed(full, dropped, past)
        expect.close(found, wanted, "A batch's mixture", rtol=1e-3, atol=2e-3)
        past.append((full, dropped))


@points(1)
def test_eval(answer, rng):
    """Evaluation uses the weight and leaves it alone."""
    mixer, past = answer.Mixer(), []
    *rows, other, probe = batches(rng)
    for full, dropped in rows:
        mixer(full, dropped)
        past.append((full, dropped))
    mixer.eval()
    mixer(*other)
    expect.close(
        mixer(*probe), mixed(*probe, past), "A batch in evaluation", rtol=1e-3, atol=2e-3
    )  # fmt: skip


@points(1)
def test_state(answer, rng):
    """A copy through the state goes on where the first one stood."""
    mixer, copy = answer.Mixer(), answer.Mixer()
    *rows, probe = batches(rng)
    for full, dropped in rows:
        mixer(full, dropped)
    copy.load_state_dict(mixer.state_dict())
    found, wanted = copy(*probe), mixed(*probe, rows)
    expect.close(found, wanted, "What a loaded copy gives", rtol=1e-3, atol=2e-3)


# %% right: autograd with log q, and a running covariance
def gradients(log_p, mu, sigma, eps, a):
    m = torch.full_like(eps, mu).requires_grad_()
    z = m + sigma * eps
    fixed = torch.full_like(eps, mu)
    log_q = -(((z - fixed) / sigma) ** 2) / 2
    (found,) = torch.autograd.grad((log_p(z) - a * log_q).sum(), m)
    return found


def best_a(sigma):
    return torch.tensor(float(sigma)).square()


quieter_from = 1 / 2**0.5


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("center", torch.zeros(2))
        self.register_buffer("scatter", torch.zeros(2, 2))

    def forward(self, full, dropped):
        both = torch.stack([full, full - dropped])
        a = self.scatter[0, 1] / self.scatter[1, 1] if self.count else 0.0
        result = (1 - a) * full + a * dropped
        if self.training:
            n = both.shape[1]
            mean = both.mean(1)
            apart = mean - self.center
            inner = both - mean[:, None]
            between = (
                self.count * n / (self.count + n) * torch.outer(apart, apart)
            )
            self.scatter = self.scatter + inner @ inner.T + between
            self.count = self.count + n
            self.center = self.center + apart * n / self.count
        return result


# %% wrong: the weights the other way round
def gradients(log_p, mu, sigma, eps, a):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(log_p(z).sum(), z)
    return slope + (1 - a) * eps / sigma


# %% wrong: the sign of the path through log q
def gradients(log_p, mu, sigma, eps, a):
    z = (mu + sigma * eps).requires_grad_()
    (slope,) = torch.autograd.grad(log_p(z).sum(), z)
    return slope - a * eps / sigma


# %% wrong: always drops the term
def best_a(sigma):
    return 1.0


# %% wrong: equal at σ = 1
quieter_from = 1.0


# %% wrong: the weight comes from the batch that it weighs
class Mixer(nn.Module):
    def forward(self, full, dropped):
        both = torch.cov(torch.stack([full, full - dropped]))
        return full - both[0, 1] / both[1, 1] * (full - dropped)


# %% wrong: sums without centering
class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("sums", torch.zeros(2))

    def forward(self, full, dropped):
        term = full - dropped
        a = self.sums[0] / self.sums[1] if self.sums[1] > 0 else 0.0
        if self.training:
            new = torch.stack([(full * term).sum(), (term**2).sum()])
            self.sums = self.sums + new
        return full - a * term


# %% wrong: remembers the last batch alone
class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.zeros(()))

    def forward(self, full, dropped):
        result = full - self.a * (full - dropped)
        if self.training and len(full) > 1:
            both = torch.cov(torch.stack([full, full - dropped]))
            self.a = both[0, 1] / both[1, 1]
        return result


# %% wrong: remembers in evaluation
class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("sums", torch.zeros(5, dtype=torch.float64))

    def forward(self, full, dropped):
        term = full - dropped
        n, t, f, tt, tf = self.sums.tolist()
        a = (tf - t * f / n) / (tt - t * t / n) if n else 0.0
        seen = [torch.ones_like(term), term, full, term**2, term * full]
        self.sums += torch.stack(seen).sum(1).double()
        return full - a * term


# %% wrong: the memory is not in the state
class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.sums = torch.zeros(5, dtype=torch.float64)

    def forward(self, full, dropped):
        term = full - dropped
        n, t, f, tt, tf = self.sums.tolist()
        a = (tf - t * f / n) / (tt - t * t / n) if n else 0.0
        if self.training:
            seen = [torch.ones_like(term), term, full, term**2, term * full]
            self.sums += torch.stack(seen).sum(1).double()
        return full - a * term


# %% solution
r"""
Along the path $\log q(z)$ does not depend on $\mu$: the full gradient is $\frac{d}{dz}\log p$, and dropping the score leaves $\varepsilon/\sigma$ in it. For $p=N(0,1)$ the mixture is $-\mu+(a/\sigma-\sigma)\varepsilon$, so that $a=\sigma^2$ leaves no variance at any σ, and $a=1$ only at $\sigma=1$, where $q$ has the posterior's width. $|1/\sigma-\sigma|<\sigma$ gives $\sigma>1/\sqrt2$: a narrow $q$ is better off with the score term.

In general the score term is a control variate, and its best coefficient the slope of a regression. Taken from its own batch the coefficient depends on the noise that it weighs, and the mean of the mixture is no longer the gradient; from earlier batches it is a number that does not know this noise. Centering matters in a finite sample: without it the mean of the estimates, which no mixture changes, leaks into the weight.
"""

# %% rubric
r"""
Two points for the estimates, one for the weight, one for the border. For the mixer two for the row of batches, one for evaluation, one for the state. A mixer that uses its own batch gets none of its four.
"""
