# %% about
"""
title = "Once more along the path"
kind = "implementation"
difficulty = 3
minutes = 30
points = 8
objective = "Implement the ordinary and the doubly reparameterized gradient of the bound from the same noise, and derive what noise the first keeps where the second has none"
after = "The gradient that fades"
"""

# %% imports
import math

import torch
from torch import Tensor

# %% text
r"""
The posterior of each of $N$ images is $q = N(\mu, \mathrm{diag}(\sigma^2))$ with $D$ variables, each with a variance of its own: $\mu$ and `log_var` $= \log\sigma^2$ have the shape `[N, D]`. The noise is drawn already, `eps` of shape `[K, N, D]`, and `log_joint(z)` gives $\log p(x,z)$: from `[K, N, D]` to `[K, N]`, differentiable by `z`.

> **Predict first.** Let $q$ be the true posterior of every image. What does the ordinary gradient (8.5) give for one draw of the noise, and what does (8.7)?

Both functions return `(by_mu, by_log_var)`, each `[N, D]`: the gradient of $L_K$ of each image by its own parameters.

1. `ordinary(log_joint, mu, log_var, eps)`: (8.5), with the score.
2. `doubly(log_joint, mu, log_var, eps)`: (8.7), from the same noise.
3. `noise_left(log_var, K)`: where $q$ is the true posterior of every image, the variance of each entry of the two results of `ordinary`, as `(of_mu, of_log_var)`, each `[N, D]`.

$\log p(x,z)$ around $-5000$ is ordinary for large images: a weight itself is no number that can be formed.
"""


# %% code
def log_density(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log q(z) of each sample of each image, [K, N]."""
    squares = (z - mu) ** 2 / log_var.exp()
    return -0.5 * (squares + log_var + math.log(2 * math.pi)).sum(-1)


# %% answer
def ordinary(
    log_joint, mu: Tensor, log_var: Tensor, eps: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of each image's L_K, with everything that stands in it."""
    ### BEGIN SOLUTION
    mu, log_var = mu.detach().requires_grad_(), log_var.detach().requires_grad_()
    z = mu + torch.exp(log_var / 2) * eps
    bound = torch.logsumexp(log_joint(z) - log_density(z, mu, log_var), 0)
    return torch.autograd.grad(bound.sum(), (mu, log_var))
    ### END SOLUTION


def doubly(
    log_joint, mu: Tensor, log_var: Tensor, eps: Tensor
) -> tuple[Tensor, Tensor]:
    """The doubly reparameterized gradient of each image's L_K."""
    ### BEGIN SOLUTION
    fixed = mu.detach(), log_var.detach()
    mu, log_var = (part.clone().requires_grad_() for part in fixed)
    z = mu + torch.exp(log_var / 2) * eps
    along = log_joint(z) - log_density(z, *fixed)  # through the samples alone
    share = torch.softmax(along.detach(), 0)
    return torch.autograd.grad((share.square() * along).sum(), (mu, log_var))
    ### END SOLUTION


# %% answer
def noise_left(log_var: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """The variance of `ordinary` where q is the true posterior, by mu and by log_var."""
    ### BEGIN SOLUTION
    return torch.exp(-log_var) / K, torch.full_like(log_var, 0.5 / K)
    ### END SOLUTION


# %% hint
r"""
Autograd gives (8.5) by itself: make leaves of `mu` and `log_var`, compute the bound of each image from `z` with its graph, and ask for the gradient of the sum over images. Which constant may be left out?
"""

# %% hint
r"""
For (8.7) the parameters inside the density must not move: only $z$ does. Hand `log_density` detached parameters and the sample that is not detached.
"""

# %% hint
r"""
(8.7) is the gradient of $\sum_k c_k\log w_k$ with the constants $c_k = v_k^2$. What makes a constant of a tensor? And along which axis do the $v_k$ of one image add up to one?
"""

# %% hint
r"""
Where $q$ is the true posterior all weights of an image are alike, and $\log w$ does not change along $z$. What is left of (8.5) then, and what are the variances of $\varepsilon/\sigma$ and of $(\varepsilon^2-1)/2$?
"""

# %% visible
import math

import torch

from reparam.exercises import expect


def both(answer, name, *arguments):
    """What `ordinary` or `doubly` returns, after a look at its form."""
    fresh = (a.clone() if isinstance(a, torch.Tensor) else a for a in arguments)
    found = getattr(answer, name)(*fresh)
    expect.that(
        isinstance(found, (tuple, list)) and len(found) == 2,
        f"`{name}` should return a tuple of two tensors, (by_mu, by_log_var).",
    )
    return found


def small(z):
    """log p(x, z) for p(z) = N(0, I), p(x|z) = N(z, I) and x = 1, without its constant."""
    return -(z**2 + (z - 1) ** 2).sum(-1) / 2


MU = torch.tensor([[0.2, -0.4], [1.0, 0.0]])
LOG_VAR = torch.tensor([[0.0, -1.0], [0.5, -0.5]])
EPS = torch.tensor(
    [
        [[0.5, -1.0], [1.2, 0.3]],
        [[-0.7, 0.4], [0.1, -1.5]],
        [[1.5, 0.8], [-0.6, 0.9]],
    ]
)


def parts(slope, log_joint, mu, log_var, eps):
    """The pieces of (8.5) by hand: v, the slope of log w along z, dz by log_var."""
    sigma = torch.exp(log_var / 2)
    z = mu + sigma * eps
    log_w = log_joint(z) + (eps**2 / 2 + log_var / 2).sum(-1)
    return log_w.softmax(0).unsqueeze(-1), slope(z) + eps / sigma, sigma * eps / 2


def test_three_samples(answer, rng):
    """Three samples of two images, beside the formulas by hand."""
    v, along, by = parts(lambda z: 1 - 2 * z, small, MU, LOG_VAR, EPS)
    score_mu, score_var = EPS / torch.exp(LOG_VAR / 2), (EPS**2 - 1) / 2
    found = both(answer, "ordinary", small, MU, LOG_VAR, EPS)
    without = (v * along).sum(0), (v * along * by).sum(0)
    wanted = (
        (v * (along - score_mu)).sum(0),
        (v * (along * by - score_var)).sum(0),
    )
    for value, truth, path, name in zip(
        found, wanted, without, ("μ", "log σ²"), strict=True
    ):
        expect.close(
            value, truth, f"The ordinary gradient by {name}", rtol=1e-3, atol=1e-5,
            mistakes={"the score is missing: q's parameters stand in its density, too": path},
        )  # fmt: skip
    found = both(answer, "doubly", small, MU, LOG_VAR, EPS)
    wanted = (v**2 * along).sum(0), (v**2 * along * by).sum(0)
    scores = (v**2 * score_mu).sum(0), (v**2 * score_var).sum(0)
    for value, truth, path, score, name in zip(
        found, wanted, without, scores, ("μ", "log σ²"), strict=True
    ):
        expect.close(
            value, truth, f"The doubly reparameterized gradient by {name}", rtol=1e-3, atol=1e-5,
            mistakes={
                "each path has its weight v; (8.7) has the square of it": path,
                "a score is still there; only z may move": truth - score,
                "this is its average over samples; (8.7) is a sum": truth / 3,
            },
        )  # fmt: skip


def test_one_sample(answer, rng):
    """With one sample its weight is one, and (8.7) is (8.5) without the score."""
    _, along, by = parts(lambda z: 1 - 2 * z, small, MU, LOG_VAR, EPS[:1])
    found = both(answer, "doubly", small, MU, LOG_VAR, EPS[:1])
    for value, truth in zip(found, (along[0], (along * by)[0]), strict=True):
        expect.close(
            value,
            truth,
            "The doubly reparameterized gradient, K = 1",
            rtol=1e-3,
            atol=1e-5,
        )


def test_scale_of_weights(answer, rng):
    """Joint densities too small for a float change no share."""
    for name in ("ordinary", "doubly"):
        found = both(answer, name, lambda z: small(z) - 4096.0, MU, LOG_VAR, EPS)
        usual = both(answer, name, small, MU, LOG_VAR, EPS)
        for value, truth in zip(found, usual, strict=True):
            expect.that(
                bool(value.isfinite().all()),
                f"With log p(x, z) around -4000 `{name}` is not finite: a weight was formed.",
            )
            expect.close(
                value, truth, f"`{name}` on another scale", rtol=1e-2, atol=1e-2
            )


def test_noise(answer, rng):
    """Four samples of three variables whose variances are 1, 2 and 1/2."""
    log_var = torch.tensor([[0.0, math.log(2), -math.log(2)]])
    found = both(answer, "noise_left", log_var, 4)
    expect.close(
        found[0], torch.tensor([[0.25, 0.125, 0.5]]), "The variance by μ",
        mistakes={
            "this is the variance of a single sample": torch.tensor([[1.0, 0.5, 2.0]]),
            "this is its square root, the standard deviation": torch.tensor([[0.5, 0.3535534, 0.7071068]]),
            "the score is ε/σ: its variance falls with σ": torch.tensor([[0.25, 0.5, 0.125]]),
        },
    )  # fmt: skip
    expect.close(
        found[1], torch.full((1, 3), 0.125), "The variance by log σ²",
        mistakes={"this is the variance of a single sample": torch.full((1, 3), 0.5)},
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


def case(rng, samples, images, variables):
    """A joint density that is no Gaussian, its slope by hand, and parameters and noise."""
    pull = torch.randn(images, variables, generator=rng)

    def log_joint(z):
        return (pull * torch.tanh(z) - z**2 / 2).sum(-1) + torch.cos(z.sum(-1))

    def slope(z):
        total = torch.sin(z.sum(-1, keepdim=True))
        return pull * (1 - torch.tanh(z) ** 2) - z - total

    mu = torch.randn(images, variables, generator=rng)
    log_var = 0.5 * torch.randn(images, variables, generator=rng) - 0.5
    eps = torch.randn(samples, images, variables, generator=rng)
    return log_joint, slope, mu, log_var, eps


def wanted(kind, log_joint, slope, mu, log_var, eps):
    """(8.5) or (8.7) by hand, in double precision."""
    mu, log_var, eps = mu.double(), log_var.double(), eps.double()
    v, along, by = parts(slope, log_joint, mu, log_var, eps)
    if kind == "doubly":
        return (v**2 * along).sum(0), (v**2 * along * by).sum(0)
    score_mu, score_var = eps / torch.exp(log_var / 2), (eps**2 - 1) / 2
    return (v * (along - score_mu)).sum(0), (v * (along * by - score_var)).sum(0)


def compare(answer, kind, what, shift, case, rtol=2e-3, atol=2e-4):
    log_joint, _, mu, log_var, eps = case
    found = both(answer, kind, lambda z: log_joint(z) + shift, mu, log_var, eps)
    for value, truth in zip(found, wanted(kind, *case), strict=True):
        expect.close(value, truth.float(), what, rtol=rtol, atol=atol)


@points(2)
def test_ordinary(answer, rng):
    """The ordinary gradient of another model."""
    for samples, images, variables in ((1, 2, 3), (5, 4, 3), (40, 3, 1)):
        compare(
            answer,
            "ordinary",
            "The ordinary gradient",
            0.0,
            case(rng, samples, images, variables),
        )


@points(3)
def test_doubly(answer, rng):
    """The doubly reparameterized gradient of another model."""
    for samples, images, variables in ((2, 2, 3), (5, 4, 3), (40, 3, 1)):
        compare(
            answer,
            "doubly",
            "The doubly reparameterized gradient",
            0.0,
            case(rng, samples, images, variables),
        )


@points(1)
def test_scale(answer, rng):
    """Joint densities too large or too small for a float."""
    for shift in (-4096.0, 4096.0):
        for kind in ("ordinary", "doubly"):
            # Numbers of this size are rounded to 5e-4.
            what = f"`{kind}` on another scale"
            compare(
                answer,
                kind,
                what,
                shift,
                case(rng, 4, 3, 2),
                rtol=1e-2,
                atol=1e-2,
            )


@points(2)
def test_at_the_posterior(answer, rng):
    """Where q is the true posterior: nothing is left of one, and the score of the other."""
    mu, log_var = torch.full((3, 4), 0.5), torch.full((3, 4), math.log(0.5))
    eps = torch.randn(6, 3, 4, generator=rng)
    for value in both(answer, "doubly", small, mu, log_var, eps):
        expect.close(
            value, torch.zeros(3, 4), "`doubly` at the true posterior", atol=1e-4
        )
    log_var = torch.randn(3, 4, generator=rng)
    for samples in (1, 7, 50):
        of_mu, of_log_var = both(answer, "noise_left", log_var, samples)
        expect.close(
            of_mu, 1 / (samples * log_var.exp()), "The variance by μ", rtol=1e-3
        )
        expect.close(
            of_log_var,
            torch.full((3, 4), 0.5 / samples),
            "The variance by log σ²",
            rtol=1e-3,
        )


# %% right: by the formulas, with autograd for log p alone
def pieces(log_joint, mu, log_var, eps):
    sigma = torch.exp(log_var / 2)
    z = (mu + sigma * eps).requires_grad_()
    log_p = log_joint(z)
    (slope,) = torch.autograd.grad(log_p.sum(), z)
    log_w = log_p.detach() - log_density(z.detach(), mu, log_var)
    return torch.softmax(log_w, 0).unsqueeze(-1), slope, sigma


def ordinary(log_joint, mu, log_var, eps):
    v, slope, sigma = pieces(log_joint, mu, log_var, eps)
    return (v * slope).sum(0), (v * (slope * sigma * eps + 1) / 2).sum(0)


def doubly(log_joint, mu, log_var, eps):
    v, slope, sigma = pieces(log_joint, mu, log_var, eps)
    along = v**2 * (slope + eps / sigma)
    return along.sum(0), (along * sigma * eps / 2).sum(0)


# %% wrong: the weights are not squared
def doubly(log_joint, mu, log_var, eps):
    fixed = mu.detach(), log_var.detach()
    mu, log_var = (part.clone().requires_grad_() for part in fixed)
    z = mu + torch.exp(log_var / 2) * eps
    along = log_joint(z) - log_density(z, *fixed)
    return torch.autograd.grad(torch.logsumexp(along, 0).sum(), (mu, log_var))


# %% wrong: the score is still there
def doubly(log_joint, mu, log_var, eps):
    mu, log_var = mu.detach().requires_grad_(), log_var.detach().requires_grad_()
    z = mu + torch.exp(log_var / 2) * eps
    log_w = log_joint(z) - log_density(z, mu, log_var)
    share = torch.softmax(log_w.detach(), 0)
    return torch.autograd.grad((share.square() * log_w).sum(), (mu, log_var))


# %% wrong: the weights move as well
def doubly(log_joint, mu, log_var, eps):
    fixed = mu.detach(), log_var.detach()
    mu, log_var = (part.clone().requires_grad_() for part in fixed)
    z = mu + torch.exp(log_var / 2) * eps
    along = log_joint(z) - log_density(z, *fixed)
    return torch.autograd.grad(
        (torch.softmax(along, 0).square() * along).sum(), (mu, log_var)
    )


# %% wrong: weights that add up to one over images
def doubly(log_joint, mu, log_var, eps):
    fixed = mu.detach(), log_var.detach()
    mu, log_var = (part.clone().requires_grad_() for part in fixed)
    z = mu + torch.exp(log_var / 2) * eps
    along = log_joint(z) - log_density(z, *fixed)
    share = torch.softmax(along.detach(), 1)
    return torch.autograd.grad((share.square() * along).sum(), (mu, log_var))


# %% wrong: forms the weights
def doubly(log_joint, mu, log_var, eps):
    fixed = mu.detach(), log_var.detach()
    mu, log_var = (part.clone().requires_grad_() for part in fixed)
    z = mu + torch.exp(log_var / 2) * eps
    along = log_joint(z) - log_density(z, *fixed)
    w = along.detach().exp()
    return torch.autograd.grad(
        ((w / w.sum(0)).square() * along).sum(), (mu, log_var)
    )


# %% wrong: the ordinary gradient without its score
def ordinary(log_joint, mu, log_var, eps):
    fixed = mu.detach(), log_var.detach()
    mu, log_var = (part.clone().requires_grad_() for part in fixed)
    z = mu + torch.exp(log_var / 2) * eps
    bound = torch.logsumexp(log_joint(z) - log_density(z, *fixed), 0)
    return torch.autograd.grad(bound.sum(), (mu, log_var))


# %% wrong: the variance of one sample
def noise_left(log_var, K):
    return torch.exp(-log_var), torch.full_like(log_var, 0.5)


# %% wrong: a standard deviation
def noise_left(log_var, K):
    return torch.exp(-log_var / 2) / K**0.5, torch.full_like(
        log_var, (0.5 / K) ** 0.5
    )


# %% idle: no gradient at all
def ordinary(log_joint, mu, log_var, eps):
    return torch.zeros_like(mu), torch.zeros_like(mu)


def doubly(log_joint, mu, log_var, eps):
    return torch.zeros_like(mu), torch.zeros_like(mu)


def noise_left(log_var, K):
    return torch.zeros_like(log_var), torch.zeros_like(log_var)


# %% solution
r"""
(8.5) is what autograd gives: $\mu$ and $\log\sigma^2$ stand in the sample and in the density. For (8.7) the density is held fixed, so that only the path is left, and each path gets the constant $v_k^2$ in place of $v_k$: $\nabla\sum_k c_k\log w_k = \sum_k c_k\nabla\log w_k$.

Where $q$ is the true posterior, $\log w$ does not change along $z$, and (8.7) is zero whatever the noise is. All $v_k$ are $1/K$ there, and (8.5) is left with minus the average score: $-\frac1K\sum_k\varepsilon_k/\sigma$ by $\mu$, with the variance $1/(K\sigma^2)$, and $-\frac1K\sum_k(\varepsilon_k^2-1)/2$ by $\log\sigma^2$. As $\mathrm{Var}(\varepsilon^2) = 2$, its variance is $\frac1{2K}$, whatever $\sigma$ is.
"""

# %% rubric
r"""
Two points for the ordinary gradient, three for the other one, one for weights that are never formed, two for the true posterior: `doubly` is zero there, and `noise_left` right. A `doubly` that is right but for $v_k$ in place of $v_k^2$ is biased, and gets none of the three.
"""
