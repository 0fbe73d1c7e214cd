# %% about
"""
title = "K samples in training, none in evaluation"
kind = "implementation"
difficulty = 2
minutes = 20
points = 6
objective = "Implement a sampling layer whose shapes, noise and gradients can be relied on"
after = "A layer that keeps its promises"
"""

# %% imports
import torch
from torch import Tensor, nn

# %% text
r"""
Write a layer that draws several samples at once. `ManySamples(K)(mu, log_var)`, for `mu` and `log_var` of one shape, returns

- in training mode `K` independent samples of $N(\mu, \mathrm{diag}\,\sigma^2)$, as `[K, *shape]`,
- in evaluation mode the mean, as `[1, *shape]`, so that code that averages over the first dimension works in both.

Gradients reach `mu` and `log_var` in training; in evaluation they reach `mu`. Shapes that differ raise a `ValueError`, also where broadcasting would get by. The layer has no parameters.
"""


# %% answer
class ManySamples(nn.Module):
    """[K, *shape] samples in training, the mean as [1, *shape] in evaluation."""

    def __init__(self, K: int):
        super().__init__()
        ### BEGIN SOLUTION
        self.K = K
        ### END SOLUTION

    def forward(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """Samples, or the mean."""
        ### BEGIN SOLUTION
        if mu.shape != log_var.shape:
            raise ValueError(
                f"mu {tuple(mu.shape)} and log_var {tuple(log_var.shape)} differ"
            )
        if not self.training:
            return mu.unsqueeze(0)
        noise = torch.randn(self.K, *mu.shape, dtype=mu.dtype, device=mu.device)
        return mu + torch.exp(0.5 * log_var) * noise
        ### END SOLUTION


# %% hint
r"""
`nn.Module` keeps the mode for you, in `self.training`.
"""

# %% hint
r"""
The noise has the shape `[K, *mu.shape]`, with type and device of `mu`; `mu` and `log_var` then broadcast against it.
"""

# %% visible
import torch

from reparam.exercises import expect


def test_shapes(answer, rng):
    """Shapes in both modes."""
    layer = answer.ManySamples(5)
    mu, log_var = torch.randn(2, 3, 2, generator=rng)
    expect.tensor(layer(mu, log_var), (5, 3, 2), "What comes out in training")
    layer.eval()
    found = layer(mu, log_var)
    expect.close(expect.tensor(found, (1, 3, 2), "What comes out in evaluation"), mu[None],
                 "What comes out in evaluation")  # fmt: skip


def test_gradients(answer, rng):
    """Slopes by value."""
    layer = answer.ManySamples(4)
    mu = torch.randn(3, generator=rng, requires_grad=True)
    log_var = torch.randn(3, generator=rng, requires_grad=True)
    z = layer(mu, log_var)
    slopes = expect.gradients(z, mu=mu, log_var=log_var)
    expect.close(
        slopes["mu"],
        torch.full((3,), 4.0),
        "The slope by mu, summed over 4 samples",
    )
    wanted = ((z - mu) / 2).sum(0)
    expect.close(
        slopes["log_var"], wanted, "The slope by log_var, summed over 4 samples",
        rtol=1e-3, atol=1e-4,
        mistakes={"log_var is read as log σ": 2 * wanted},
    )  # fmt: skip


def test_samples_differ(answer, rng):
    """Every entry has noise of its own."""
    z = answer.ManySamples(3)(torch.zeros(4, 2), torch.zeros(4, 2))
    expect.that(
        bool((z[0] != z[1]).any()),
        "The K samples are one and the same: each needs noise of its own.",
    )
    expect.that(
        bool((z[:, 0] != z[:, 1]).any()),
        "The rows of a batch share their noise: its shape is too small and "
        "broadcasts.",
    )


def test_shapes_differ(answer, rng):
    """One variance for a batch of means is refused."""
    expect.raises(
        ValueError,
        lambda: answer.ManySamples(2)(torch.zeros(4, 2), torch.zeros(1, 2)),
        "log_var of shape [1, 2] beside mu of shape [4, 2], which would broadcast,",
    )


# %% hidden
from reparam.exercises import points


@points(2)
def test_law(answer, rng):
    """Mean and variance of the samples."""
    mu, log_var = torch.randn(2, 3, generator=rng)
    K = 20_000
    z = expect.tensor(answer.ManySamples(K)(mu, log_var), (K, 3), "The samples")
    expect.mean(
        z, mu, "The mean of the samples", deviation=torch.exp(log_var / 2) * 1.05
    )
    expect.variance(
        z, torch.exp(log_var), "The variance of the samples", within=0.2
    )


@points(1)
def test_independent(answer, rng):
    """No noise is shared, among samples, rows or columns."""
    mu = (1 + torch.rand(2, generator=rng)).expand(1000, 2)
    z = answer.ManySamples(4)(mu, torch.zeros(1000, 2))
    noise = expect.tensor(z, (4, 1000, 2), "The samples") - mu
    expect.that(
        torch.unique(noise).numel() > 7900, "Some entries share their noise."
    )
    first, second = noise[0, :, 0], noise[1, :, 0]
    products = torch.stack([first * second, first * noise[0, :, 1]], -1)
    expect.mean(
        products, torch.zeros(2), "The correlation of the noise", deviation=1.3
    )


@points(2)
def test_slopes(answer, rng):
    """Slopes of samples by value, in both modes and in float64."""
    size, layer = 20_000, answer.ManySamples(3)
    mu, log_var = torch.randn(2, size, generator=rng, dtype=torch.float64)
    mu.requires_grad_()
    log_var.requires_grad_()
    z = expect.tensor(layer(mu, log_var), (3, size), "The samples")
    expect.that(
        z.dtype == torch.float64, "The type of the samples is not that of mu."
    )
    noise = ((z - mu) / torch.exp(log_var / 2)).flatten()
    expect.variance(noise, 1.0, "The variance of the noise", within=0.2)
    slopes = expect.gradients(z, mu=mu, log_var=log_var)
    expect.close(
        slopes["mu"], torch.full((size,), 3.0).double(), "The slope by mu"
    )
    expect.close(slopes["log_var"], ((z - mu) / 2).sum(0), "The slope by log_var")
    layer.eval()
    found = layer(mu, log_var)
    expect.close(found, mu.detach()[None], "What comes out in evaluation")
    slopes = expect.gradients(found, mu=mu)
    expect.close(
        slopes["mu"], torch.ones(size).double(), "The slope by mu in evaluation"
    )


@points(1)
def test_refuses(answer, rng):
    """Shapes that differ are refused, and the layer has no parameters."""
    layer = answer.ManySamples(2)
    expect.raises(
        ValueError,
        lambda: layer(torch.zeros(3, 2), torch.zeros(2)),
        "Another shape",
    )
    expect.that(not answer.parameters(layer), "The layer has parameters.")
    layer.eval()
    layer.train()
    mu = 1 + torch.rand(1000, generator=rng)
    what = "What comes out in training again"
    z = expect.tensor(layer(mu, torch.zeros(1000)), (2, 1000), what)
    noise = (z - mu).detach().flatten()
    expect.mean(noise, 0.0, f"{what}: the mean of its noise", deviation=2.0)
    expect.that(bool(noise.std() > 0.5), f"{what} has too little noise.")


# %% right: expanded, through torch.distributions
class ManySamples(nn.Module):
    def __init__(self, K):
        super().__init__()
        self.size = torch.Size([K])

    def forward(self, mu, log_var):
        if mu.shape != log_var.shape:
            raise ValueError("shapes differ")
        law = torch.distributions.Normal(mu, log_var.mul(0.5).exp())
        return law.rsample(self.size) if self.training else mu[None]


# %% idle: the mean K times, with the variance's graph
class ManySamples(nn.Module):
    def __init__(self, K):
        super().__init__()
        self.K = K

    def forward(self, mu, log_var):
        if mu.shape != log_var.shape:
            raise ValueError("shapes differ")
        z = (mu + 0 * log_var)[None]
        return z.expand(self.K, *mu.shape) if self.training else z


# %% idle: noise of no law, whatever the arguments
class ManySamples(nn.Module):
    def __init__(self, K):
        super().__init__()
        self.K = K

    def forward(self, mu, log_var):
        if mu.shape != log_var.shape:
            raise ValueError("shapes differ")
        return torch.randn(self.K, *mu.shape, dtype=mu.dtype)


# %% wrong: one noise for all samples
class ManySamples(ManySamples):
    def forward(self, mu, log_var):
        if mu.shape != log_var.shape:
            raise ValueError("shapes differ")
        if not self.training:
            return mu[None]
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        return z.expand(self.K, *mu.shape)


# %% wrong: noise that rows share
class ManySamples(ManySamples):
    def forward(self, mu, log_var):
        if mu.shape != log_var.shape:
            raise ValueError("shapes differ")
        if not self.training:
            return mu[None]
        rest = [1] * (mu.dim() - 1)
        noise = torch.randn(self.K, *rest, mu.shape[-1], dtype=mu.dtype)
        return mu + torch.exp(0.5 * log_var) * noise


# %% wrong: samples in evaluation, too
class ManySamples(ManySamples):
    def forward(self, mu, log_var):
        if mu.shape != log_var.shape:
            raise ValueError("shapes differ")
        K = self.K if self.training else 1
        return mu + torch.exp(0.5 * log_var) * torch.randn(
            K, *mu.shape, dtype=mu.dtype
        )


# %% wrong: log-variance read as log σ
class ManySamples(ManySamples):
    def forward(self, mu, log_var):
        if mu.shape != log_var.shape:
            raise ValueError("shapes differ")
        if not self.training:
            return mu[None]
        return mu + torch.exp(log_var) * torch.randn(
            self.K, *mu.shape, dtype=mu.dtype
        )


# %% wrong: lets shapes broadcast
class ManySamples(ManySamples):
    def forward(self, mu, log_var):
        if not self.training:
            return mu[None]
        return mu + torch.exp(0.5 * log_var) * torch.randn(
            self.K, *mu.shape, dtype=mu.dtype
        )


# %% solution
r"""
The mode belongs to the module, so the layer asks `self.training` and not an argument that callers forget. The extra dimension in evaluation keeps one code path for both. Shapes are compared before anything is computed: `[3, 2]` and `[2]` would broadcast, and one variance would serve all rows in silence.
"""

# %% rubric
r"""
Two points for the law, one for independent noise, two for slopes, one for refusing.
"""
