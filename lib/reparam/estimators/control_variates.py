"""Unbiased estimators that use a relaxation as a control variate, and train it."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, OneHotCategorical

from reparam.estimators._contract import (
    Integrand,
    also_train,
    attach,
    beside,
    check_call,
    check_differentiable,
    draw,
    finite_density,
    innermost,
    name_of,
    parameters_of,
    rebuilt,
    refuse_forward_mode,
    values_of,
)
from reparam.estimators._relaxing import check_number, relaxable
from reparam.estimators.score import _support_moves
from reparam.relaxed import _wide

_FAR, _NEAR = 1e30, 30.0  # what a softmax, and what a surrogate, gets for an infinite logit


class _ControlVariate(nn.Module):
    """`[f(b) - c(z̃)] ∇log q(b) + ∇c(z) - ∇c(z̃)`, for a control `c` that subclasses define.

    `z = logits + noise`, `b = H(z)`, and `z̃` is `z` drawn anew given `b`; all gradients are with
    respect to the logits, for noise held fixed.
    """

    def __init__(self, temperature: float, eta: float | None):
        super().__init__()
        check_number(temperature)
        if eta is not None and not (isinstance(eta, int | float) and math.isfinite(eta)):
            raise ValueError(f"eta must be a finite number, got {eta!r}")
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())
        self.eta = None if eta is None else nn.Parameter(torch.tensor(float(eta)))

    @property
    def temperature(self) -> Tensor:
        """τ, a tensor of no dimension."""
        return self.log_temperature.exp()

    def _control(self, f: Integrand, z: Tensor, kind, distribution: Distribution) -> Tensor:
        """`c(z)`, shape `[n, *batch_shape]`, for `z` of shape `[n, *batch_shape, *event_shape]`."""
        raise NotImplementedError

    def forward(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        name = type(self).__name__
        refuse_forward_mode(name)
        logits, kind = relaxable(name, distribution)
        if not (torch.is_grad_enabled() and logits.requires_grad):
            return values_of(f, draw(distribution, num_samples), distribution).mean(0)
        leaf, trained = _copies(logits, num_samples), self._trained()
        z = kind.noisy(leaf)
        b = kind.harden(z.detach())
        values = values_of(f, b.to(logits.dtype), distribution)
        # At the infinite logits of impossible outcomes; any function of `z` is a control.
        both = torch.cat([z, kind.given(b, leaf)]).clamp(-_FAR, _FAR)
        control, given = self._control(f, both, kind, distribution).chunk(2)
        (path,) = torch.autograd.grad((control - given).sum(), leaf, create_graph=bool(trained))
        score = kind.score(b, leaf.detach())
        gradient = beside(values.detach() - given, score.ndim) * score + path
        value = attach(name, values.mean(0), logits, gradient.mean(0).to(logits.dtype))
        return _also_trained(value, [gradient], trained)

    def _relaxed(self, f: Integrand, z: Tensor, kind, distribution: Distribution) -> Tensor:
        """`eta` times `f` at the relaxed sample."""
        soft = kind.soften(z, self.temperature.to(z)).to(innermost(distribution).logits.dtype)
        values = values_of(f, soft, distribution)
        check_differentiable(
            type(self).__name__, values, soft, instead="RELAX with eta=None, or ScoreFunction"
        )
        return self.eta.to(values) * values

    def _trained(self) -> list[nn.Parameter]:
        """Own parameters that want a gradient; none in eval mode."""
        return [p for p in self.parameters() if p.requires_grad] if self.training else []


class REBAR(_ControlVariate):
    """The score function, less a relaxation at conditional noise, plus what that takes away.

    With `z = logits + noise`, `b = H(z)` the exact sample, `z̃` drawn given `b`, and `σ_τ` a sigmoid
    or softmax at temperature τ, the gradient estimate is

    `[f(b) - η f(σ_τ(z̃))] ∇log q(b) + η ∇f(σ_τ(z)) - η ∇f(σ_τ(z̃))`.

    `η` and `log τ` are parameters: `backward()` gives them the gradient of the variance of this
    estimate (of one sample, summed over the entries of the logits), whatever the sign or scale of
    the loss. Hand `parameters()` to an optimizer beside your own; in eval mode they stay as they
    are, which is cheaper.

    Needs: Bernoulli or OneHotCategorical variables, alone or inside `Independent`, and an `f` that
    is differentiable, also between the outcomes; twice, to train η and τ.
    Bias: none.
    Cost: 3 evaluations of `f` for each sample. The parameters of `f` get the gradient of `f(b)`.
    Higher derivatives: none; a second one raises.

    Args:
        temperature: τ at the start, positive.
        eta: η at the start; 0 is the score function.
        f, distribution, num_samples: as for every estimator (see `Pathwise`). The value is the
            mean of `f(b)`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the temperature is not positive, the variables cannot be relaxed, or `f`
            returns a wrong shape or NaN, or does not depend on the sample through a graph.
        NotImplementedError: for a second derivative.

    Derived in chapter 7. Source: Tucker et al. (2017), https://arxiv.org/abs/1703.07370.

    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.tensor(0.2, requires_grad=True)
    >>> rebar = REBAR()
    >>> rebar(lambda b: (b - 0.45) ** 2, Bernoulli(logits=logit), num_samples=10).backward()
    >>> logit.grad.shape, rebar.eta.grad.shape
    (torch.Size([]), torch.Size([]))
    """

    def __init__(self, temperature: float = 0.5, eta: float = 1.0):
        if eta is None:
            raise TypeError("eta must be a number, got None: use RELAX for a surrogate alone")
        super().__init__(temperature, eta)

    def _control(self, f: Integrand, z: Tensor, kind, distribution: Distribution) -> Tensor:
        return self._relaxed(f, z, kind, distribution)


class RELAX(_ControlVariate):
    """REBAR with a network in its control variate; for continuous variables, LAX.

    For Bernoulli and OneHotCategorical variables, with `z`, `b`, `z̃` and `σ_τ` as in `REBAR` and
    `c(z) = η f(σ_τ(z)) + surrogate(z)`, the gradient estimate is

    `[f(b) - c(z̃)] ∇log q(b) + ∇c(z) - ∇c(z̃)`.

    With `eta=None` the control is `surrogate(z)` alone, and `f` any function, also one without a
    derivative. For a distribution with `rsample` it is LAX, with `c(z) = surrogate(z)`:

    `[f(z) - c(z)] ∇log q(z) + ∇c(z)`.

    The surrogate's parameters, `η` and `log τ` get the gradient of the variance of this estimate,
    as REBAR's do.

    Needs: as `REBAR`, or a distribution with `rsample` whose support does not move, and which can
    be rebuilt from its parameters. The surrogate must be differentiable, twice to train it.
    Bias: none, whatever the surrogate.
    Cost: 3 evaluations of `f` for each sample; 1 with `eta=None` and for LAX.
    Higher derivatives: none; a second one raises.

    Args:
        surrogate: an `nn.Module` that maps `z`, shape `[n, *batch_shape, *event_shape]` (relaxed
            logits: any real numbers), to `[n, *batch_shape]`, each sample by itself.
        temperature: τ at the start, positive.
        eta: η at the start, or None.
        f, distribution, num_samples: as for every estimator (see `Pathwise`). The value is the
            mean of `f(b)`, or of `f(z)`.

    Raises:
        TypeError, ValueError: as `REBAR` does; and if the surrogate returns a wrong shape or NaN
            or does not depend on `z` through a graph, or if the support moves with the parameters.

    Derived in chapter 7. Source: Grathwohl et al. (2018), https://arxiv.org/abs/1711.00123.

    >>> import torch
    >>> from torch.distributions import Bernoulli, Independent
    >>> logits = torch.zeros(3, requires_grad=True)
    >>> relax = RELAX(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)))
    >>> q = Independent(Bernoulli(logits=logits), 1)
    >>> relax(lambda b: (b.sum(-1) - 2) ** 2, q, num_samples=10).backward()
    >>> logits.grad.shape, relax.surrogate[0].weight.grad.shape
    (torch.Size([3]), torch.Size([8, 3]))
    """

    def __init__(self, surrogate: nn.Module, temperature: float = 0.5, eta: float | None = 1.0):
        super().__init__(temperature, eta)
        if not isinstance(surrogate, nn.Module):
            raise TypeError(
                f"surrogate must be a torch.nn.Module, got {type(surrogate).__name__}: its "
                "parameters are trained"
            )
        self.surrogate = surrogate

    def forward(self, f: Integrand, distribution: Distribution, num_samples: int = 1) -> Tensor:
        check_call(f, distribution, num_samples)
        discrete = isinstance(innermost(distribution), Bernoulli | OneHotCategorical)
        if distribution.has_rsample and not discrete:
            return self._lax(f, distribution, num_samples)
        return super().forward(f, distribution, num_samples)

    def _lax(self, f: Integrand, distribution: Distribution, num_samples: int) -> Tensor:
        if _support_moves(distribution):
            raise ValueError(
                "RELAX can be biased where the support moves with the parameters, as that of "
                f"{name_of(distribution)} does: use Pathwise"
            )
        refuse_forward_mode("RELAX")
        parameters = parameters_of(distribution)
        wanted = {name: p for name, p in parameters.items() if p.requires_grad}
        if not (torch.is_grad_enabled() and wanted):
            return values_of(f, draw(distribution, num_samples), distribution).mean(0)
        leaves = {name: _copies(p, num_samples) for name, p in parameters.items()}
        copies = rebuilt(distribution, leaves)
        z = copies.rsample()
        values = values_of(f, z.detach(), distribution)
        control, trained = self._surrogate_at(z, distribution), self._trained()
        inputs = [leaves[name] for name in wanted]
        log_prob = finite_density(copies.log_prob(z.detach()), distribution)
        scores = torch.autograd.grad(log_prob.sum(), inputs, retain_graph=True)
        paths = torch.autograd.grad(control.sum(), inputs, create_graph=bool(trained))
        gradients = [
            beside(values.detach() - control, score.ndim) * score + path
            for score, path in zip(scores, paths, strict=True)
        ]
        value = values.mean(0)
        for parameter, gradient in zip(wanted.values(), gradients, strict=True):
            value = attach("RELAX", value, parameter, gradient.mean(0))
        return _also_trained(value, gradients, trained)

    def _control(self, f: Integrand, z: Tensor, kind, distribution: Distribution) -> Tensor:
        near = z.clamp(-_NEAR, _NEAR).to(innermost(distribution).logits.dtype)
        surrogate = self._surrogate_at(near, distribution)
        if self.eta is None:
            return surrogate
        return self._relaxed(f, z, kind, distribution) + surrogate

    def _surrogate_at(self, z: Tensor, distribution: Distribution) -> Tensor:
        values = values_of(self.surrogate, z, distribution, called="surrogate")
        check_differentiable(
            "RELAX", values, z, instead="ScoreFunction with a baseline", called="surrogate"
        )
        return values


def _copies(parameter: Tensor, count: int) -> Tensor:
    """A leaf with a copy of the parameter for each sample, in float32 at least."""
    return _wide(parameter.detach()).expand(count, *parameter.shape).requires_grad_()


def _also_trained(value: Tensor, gradients: list[Tensor], trained: list[nn.Parameter]) -> Tensor:
    """`value`, which also brings `trained` the gradient of the estimator's variance.

    As the estimate has the same mean whatever those parameters are, its second moment has the
    gradient of its variance: one sample is enough to estimate it.
    """
    if not trained:
        return value
    moment = sum(gradient.square().mean(0).sum() for gradient in gradients)
    slopes = torch.autograd.grad(moment, trained, allow_unused=True)
    used = [(p, slope) for p, slope in zip(trained, slopes, strict=True) if slope is not None]
    return also_train(value, *map(list, zip(*used, strict=True))) if used else value
