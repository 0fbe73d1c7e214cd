"""A simple distribution sent through flows, as a distribution."""

import weakref
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints, register_kl

from reparam._checks import check_float
from reparam._functions import Function, is_plain, joint_shape
from reparam.flows._contract import Flow, FlowSequence

__all__ = ["NormalizingFlowPosterior"]


class NormalizingFlowPosterior(Distribution):
    """The distribution of `z = flows(z_0)` with `z_0` drawn from a simple one.

    `log q(z) = log q_0(z_0) - log |det ∂z/∂z_0|`, where both sides belong to the same point:
    `z_0 = flows.inverse(z)`. Of a sample that `rsample` has just drawn `z_0` is known, so that
    `log_prob` gives back what came out on the way, and nothing is inverted.

    Args:
        base: any distribution of event shape `[D]`, such as `Independent(Normal(mu, sigma), 1)`.
        flows: one `Flow` of `dim` D, or several, the first one applied first.
        context: features that the flows take their parameters from, `[..., context_dim]`; its
            leading dimensions broadcast with the batch shape of `base`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if shapes, dtypes or devices do not fit, if a value is NaN or infinite, or if a
            flow makes it so.

    There is no closed form of its entropy, its moments or a KL divergence: take averages over
    samples, as `reparam.objectives.elbo` does.

    Derived in chapter 6. Source: Rezende and Mohamed (2015), https://arxiv.org/abs/1505.05770.

    >>> from torch.distributions import Independent, Normal
    >>> from reparam.flows import PlanarFlow
    >>> base = Independent(Normal(torch.zeros(5, 2), torch.ones(5, 2)), 1)
    >>> q = NormalizingFlowPosterior(base, [PlanarFlow(2) for _ in range(4)])
    >>> z, log_q = q.rsample_and_log_prob((3,))
    >>> z.shape, log_q.shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    >>> torch.allclose(q.log_prob(z.detach()), log_q, atol=1e-5)
    True
    """

    arg_constraints: ClassVar[dict] = {}
    support = constraints.real_vector

    def __init__(
        self,
        base: Distribution,
        flows: Flow | Iterable[Flow],
        context: Tensor | None = None,
        validate_args: bool | None = None,
    ):
        if not isinstance(base, Distribution):
            raise TypeError(
                f"base must be a torch.distributions.Distribution, got {type(base).__name__}"
            )
        flows = (
            flows
            if isinstance(flows, FlowSequence)
            else FlowSequence([flows] if isinstance(flows, Flow) else flows)
        )
        if tuple(base.event_shape) != (flows.dim,):
            raise ValueError(
                f"base must have event_shape [{flows.dim}], which the flows take, got batch_shape "
                f"{list(base.batch_shape)} and event_shape {list(base.event_shape)}"
                + ("" if base.event_shape else ": use Independent(base, 1)")
            )
        if base.support.is_discrete:
            raise ValueError(
                f"base must have a density, which flows transform, and {type(base).__name__} is "
                "discrete: use Independent(Normal(mu, sigma), 1)"
            )
        flows.check_context(context)
        batch_shape = base.batch_shape
        if context is not None:
            batch_shape = joint_shape(batch_shape, context.shape[:-1])
        if batch_shape is None:
            raise ValueError(
                f"context of shape {list(context.shape)} does not fit base, which has "
                f"batch_shape {list(base.batch_shape)}"
            )
        self.base = base if batch_shape == base.batch_shape else base.expand(batch_shape)
        self.flows = flows
        self.context = context
        self._drawn = None
        super().__init__(batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    def expand(self, batch_shape: Sequence[int], _instance=None) -> "NormalizingFlowPosterior":
        base = self.base.expand(torch.Size(batch_shape))
        return type(self)(base, self.flows, self.context, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.flows(self.base.sample(torch.Size(sample_shape)), self.context)[0]

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        z, log_q = self.rsample_and_log_prob(sample_shape)
        if is_plain() and not z.is_inference() and (versions := self._versions(z)):
            self._drawn = weakref.ref(z), log_q, versions
        return z

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Samples `[*sample_shape, *batch_shape, D]` and their `log q`, in one pass.

        The gradient of `log q` is that along the path of its sample, the one that an ELBO needs.
        """
        z_0 = self.base.rsample(torch.Size(sample_shape))
        z, log_det = self.flows(z_0, self.context)
        return _Joined.call(z, self.base.log_prob(z_0) - log_det)

    def log_prob(self, value: Tensor) -> Tensor:
        """`log q(value)`, of any point, as a function of the point and of all parameters.

        Of the tensor that `rsample` of this object returned last, its gradient is that along the
        path, as a function of the parameters alone: where you differentiate by that sample itself,
        ask for `log_prob(z.clone())`, which inverts the flows. (Parameters that are changed behind
        autograd's back in between, by `p.data.add_()`, are not noticed: change them under
        `torch.no_grad()`.)
        """
        if self._drawn is not None:
            ref, log_q, versions = self._drawn
            known = ref() is value and versions == self._versions(value)
            # What was drawn without a graph cannot give a gradient that is asked for now.
            if known and (log_q.requires_grad or not torch.is_grad_enabled()):
                return log_q
        check_float(value=value)
        if value.ndim == 0 or value.shape[-1] != self.flows.dim:
            raise ValueError(
                f"value must have shape [..., {self.flows.dim}], got {list(value.shape)}"
            )
        shape = joint_shape(value.shape[:-1], self.batch_shape)
        if shape is None:
            raise ValueError(
                f"value of shape {list(value.shape)} does not broadcast with batch_shape "
                f"{list(self.batch_shape)} and event_shape {list(self.event_shape)}"
            )
        if self.context is not None:
            value = value.expand(*shape, -1)
        z_0, log_det = self.flows.inverse(value, self.context)
        return self.base.log_prob(z_0) + log_det

    def _versions(self, z: Tensor) -> list | None:
        """What tells whether the sample or a parameter was changed since it was drawn.

        None where the base holds what cannot be looked into.
        """
        tensors = _tensors_in([z, self.context, self.base, *self.flows.parameters()])
        if tensors is None:
            return None
        return [(tensor._version, tensor.data_ptr(), tensor.requires_grad) for tensor in tensors]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_drawn": None}  # a weak reference cannot be stored


@register_kl(NormalizingFlowPosterior, Distribution)
def _no_closed_form(q: NormalizingFlowPosterior, p: Distribution):
    raise NotImplementedError(
        "a NormalizingFlowPosterior has no KL in closed form: average log q(z) - log p(z) over "
        "samples, as FlowVAE (not VAE) and reparam.objectives.elbo do"
    )


# What holds no parameter.
_INERT = (type(None), bool, int, float, str, type, weakref.ref, constraints.Constraint)


def _tensors_in(held: object) -> list[Tensor] | None:
    """All tensors of a distribution, or of a list of things; None if one is of an unknown kind."""
    found: list[Tensor] = []
    todo, seen = [held], set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen:  # they may hold each other
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found.append(thing)
        elif isinstance(thing, list | tuple):
            todo.extend(thing)
        elif isinstance(thing, dict):
            todo.extend(thing.values())
        elif isinstance(thing, Distribution | Transform):
            todo.extend(vars(thing).values())
        elif isinstance(thing, nn.Module):
            todo.extend([*thing.parameters(), *thing.buffers()])
        elif not isinstance(thing, _INERT):
            return None
    return found


class _Joined(Function):
    """The identity of `z` and `log q`, which makes `log q` a child of what `z` comes from."""

    @staticmethod
    def forward(z, log_q):
        return z.clone(), log_q.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, slope_of_z, slope_of_log_q):
        return slope_of_z, slope_of_log_q
