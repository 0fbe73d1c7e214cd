"""Variational autoencoders small enough to read, for every kind of code, and their training."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    kl_divergence,
)
from tqdm.auto import tqdm, trange

from reparam._checks import (
    any_true,
    check_alike,
    check_count,
    check_flag,
    check_float,
    check_number,
)
from reparam._functions import keeping_modes, wide_dtype
from reparam._progress import bars_are_off
from reparam.estimators import Enumeration, Learned, Pathwise, ScoreFunction
from reparam.estimators._contract import check_estimates, check_estimator, modules_in, name_of
from reparam.flows import (
    AffineCouplingFlow,
    Flow,
    FlowSequence,
    InverseAutoregressiveFlow,
    NormalizingFlowPosterior,
    PlanarFlow,
    RadialFlow,
    SplineFlow,
    SylvesterFlow,
)
from reparam.gaussian import cholesky_factor
from reparam.objectives import importance_weighted_bound
from reparam.relaxed import straight_through

__all__ = [
    "VAE",
    "BernoulliDecoder",
    "CategoricalDecoder",
    "CategoricalEncoder",
    "FlowEncoder",
    "FlowVAE",
    "FullCovarianceEncoder",
    "GaussianEncoder",
    "HeldOut",
    "History",
    "HybridEncoder",
    "HybridVAE",
    "Quantized",
    "QuantizedVAE",
    "VectorQuantizer",
    "digits_vae",
    "discrete_digits_vae",
    "evaluate",
    "flow_digits_vae",
    "full_covariance_digits_vae",
    "hybrid_digits_vae",
    "log_likelihood",
    "quantized_digits_vae",
    "train",
]

#: Draws samples of shape `[*batch_shape, *event_shape]` from a distribution.
Sampler = Callable[[Distribution], Tensor]
#: `estimator(f, distribution, num_samples)`, see `reparam.estimators`.
Estimator = Callable[[Callable[[Tensor], Tensor], Distribution, int], Tensor]


class _Encoder(nn.Module):
    """One hidden layer and the head of the mean: what all Gaussian encoders share."""

    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int):
        super().__init__()
        _check_sizes(input_dim=input_dim, hidden_dim=hidden_dim, latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.hidden = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU())
        self.mu = nn.Linear(hidden_dim, latent_dim)


class GaussianEncoder(_Encoder):
    """Map images to Gaussian posteriors `q(z|x) = N(mu(x), diag(sigma²(x)))`.

    Args:
        input_dim: pixels per image.
        hidden_dim: width of the one hidden layer.
        latent_dim: D, the length of z.

    Calling it with `x`, shape `[..., input_dim]`, returns a `torch.distributions.Independent`
    of batch shape `[...]` and event shape `[D]`.

    Raises:
        TypeError: if a size is not an int, or `x` not a floating-point tensor.
        ValueError: if a size is not positive, or `x` is empty, holds NaN, or has another length,
            dtype or device than the weights.

    Used in chapters 1, 2, 4 and 8 through `digits_vae`; chapter 4 measures its initialization.
    Source: Kingma and Welling (2014), appendix C.2, https://arxiv.org/abs/1312.6114.

    >>> posterior = GaussianEncoder(64, 128, 8)(torch.zeros(5, 64))
    >>> posterior.batch_shape, posterior.event_shape
    (torch.Size([5]), torch.Size([8]))
    """

    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int):
        super().__init__(input_dim, hidden_dim, latent_dim)
        self.log_var = _near_zero(hidden_dim, latent_dim)  # start with every sigma near 1

    def forward(self, x: Tensor) -> Independent:
        _check_input("x", x, self.hidden[0])
        return self._gaussian(self.hidden(x))

    def _gaussian(self, h: Tensor) -> Independent:
        sigma = torch.exp(_head(self.log_var, h) / 2)
        return Independent(Normal(_head(self.mu, h), sigma, validate_args=False), 1)


class FullCovarianceEncoder(_Encoder):
    """Map images to Gaussian posteriors `q(z|x) = N(mu(x), L(x) L(x)ᵀ)` of any covariance.

    Args:
        input_dim: pixels per image.
        hidden_dim: width of the one hidden layer.
        latent_dim: D, the length of z.

    Calling it with `x`, shape `[..., input_dim]`, returns a `MultivariateNormal` of batch shape
    `[...]` and event shape `[D]`; `L` is the `cholesky_factor` of D (D + 1) / 2 outputs, near the
    identity at the start. Its `prior` is the standard Gaussian.

    Raises:
        TypeError, ValueError: as `GaussianEncoder`; ValueError too for weights of 16 bits, in
            which torch solves no triangular system.

    Derived in chapter 2, compared in chapter 8. Source: Kingma and Welling (2019), section 2.5.1,
    https://arxiv.org/abs/1906.02691.

    >>> posterior = FullCovarianceEncoder(64, 128, 8)(torch.zeros(5, 64))
    >>> posterior.batch_shape, posterior.scale_tril.shape
    (torch.Size([5]), torch.Size([5, 8, 8]))
    """

    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int):
        super().__init__(input_dim, hidden_dim, latent_dim)
        # Start near the identity.
        self.factor = _near_zero(hidden_dim, latent_dim * (latent_dim + 1) // 2)

    def forward(self, x: Tensor) -> MultivariateNormal:
        _check_input("x", x, self.hidden[0])
        if x.dtype.itemsize < 4:
            raise ValueError(
                f"torch solves no triangular system in {x.dtype}: keep weights and images in "
                "float32, and use torch.autocast"
            )
        h = self.hidden(x)
        L = cholesky_factor(_head(self.factor, h))
        return MultivariateNormal(_head(self.mu, h), scale_tril=L, validate_args=False)

    @property
    def prior(self) -> MultivariateNormal:
        one = torch.eye(self.latent_dim).to(self.mu.weight)
        return MultivariateNormal(one.new_zeros(self.latent_dim), scale_tril=one)


class FlowEncoder(GaussianEncoder):
    """Map images to posteriors that flows make of a Gaussian: `z = flows(z_0)`.

    `z_0 ~ N(mu(x), diag(sigma²(x)))` as in `GaussianEncoder`. The flows' parameters are the same
    for all images, or, amortized, functions of each image: flows made with
    `context_dim=hidden_dim` take the hidden layer of the encoder as their context.

    Args:
        input_dim: pixels per image.
        hidden_dim: width of the one hidden layer.
        flows: from `reparam.flows`, all of one `dim`; the first one is applied first.

    Calling it with `x`, shape `[..., input_dim]`, returns a `NormalizingFlowPosterior` of batch
    shape `[...]` and event shape `[D]`, D being the flows' `dim`.

    Raises:
        ValueError: if a flow's context is not of length `hidden_dim`; else as `GaussianEncoder`
            and `FlowSequence`, which names the layer where values stop being finite.

    Derived in chapter 6. Source: Rezende and Mohamed (2015), https://arxiv.org/abs/1505.05770.

    >>> from reparam.flows import PlanarFlow
    >>> encoder = FlowEncoder(64, 128, [PlanarFlow(8, context_dim=128) for _ in range(4)])
    >>> posterior = encoder(torch.zeros(5, 64))
    >>> posterior.batch_shape, posterior.event_shape
    (torch.Size([5]), torch.Size([8]))
    """

    def __init__(self, input_dim: int, hidden_dim: int, flows: FlowSequence | Iterable[Flow]):
        flows = flows if isinstance(flows, FlowSequence) else FlowSequence(flows)
        super().__init__(input_dim, hidden_dim, flows.dim)
        if flows.context_dim not in (0, hidden_dim):
            raise ValueError(
                f"the flows take a context of length {flows.context_dim}, and the hidden layer "
                f"that they get has {hidden_dim}: make them with context_dim={hidden_dim}, or with "
                "0 to share their parameters between all images"
            )
        self.flows = flows

    def forward(self, x: Tensor) -> NormalizingFlowPosterior:
        _check_input("x", x, self.hidden[0])
        h = self.hidden(x)
        context = h.to(x.dtype) if self.flows.context_dim else None
        return NormalizingFlowPosterior(self._gaussian(h), self.flows, context)


class BernoulliDecoder(nn.Module):
    """Map latent codes to one Bernoulli distribution per pixel, `p(x|z)`.

    Args:
        latent_dim: D, the length of z.
        hidden_dim: width of the one hidden layer.
        output_dim: pixels per image.

    Calling it with `z`, shape `[..., D]`, returns a `torch.distributions.Independent` of batch
    shape `[...]` and event shape `[output_dim]`; its `.mean` holds the pixels' probabilities.

    Raises:
        TypeError, ValueError: as `GaussianEncoder`, of which it is the mirror image.

    Used in chapters 1, 2, 4 and 8 through `digits_vae`.

    >>> BernoulliDecoder(8, 128, 64)(torch.zeros(5, 8)).mean.shape
    torch.Size([5, 64])
    """

    def __init__(self, latent_dim: int, hidden_dim: int, output_dim: int):
        super().__init__()
        _check_sizes(latent_dim=latent_dim, hidden_dim=hidden_dim, output_dim=output_dim)
        self.latent_dim = latent_dim
        self.hidden = nn.Sequential(nn.Linear(latent_dim, hidden_dim), nn.ReLU())
        self.logits = nn.Linear(hidden_dim, output_dim)

    def forward(self, z: Tensor) -> Independent:
        _check_input("z", z, self.hidden[0])
        logits = _head(self.logits, self.hidden(z))
        return Independent(Bernoulli(logits=logits, validate_args=False), 1)


class CategoricalEncoder(nn.Module):
    """Map images to posteriors over D variables with C classes each, as one-hot vectors.

    Args:
        input_dim: pixels per image.
        hidden_dim: width of the one hidden layer.
        variables: D, how many variables make up one code.
        classes: C, how many values each of them has.

    Calling it with `x`, shape `[..., input_dim]`, returns `Independent(OneHotCategorical, 1)` of
    batch shape `[...]` and event shape `[D, C]`. Its `prior` is uniform over the `C**D` codes.

    Raises:
        TypeError, ValueError: as `GaussianEncoder`.

    Used in chapters 7 and 8 through `discrete_digits_vae`. Source: Jang, Gu and Poole (2017),
    https://arxiv.org/abs/1611.01144.

    >>> posterior = CategoricalEncoder(64, 128, variables=8, classes=10)(torch.zeros(5, 64))
    >>> posterior.batch_shape, posterior.event_shape
    (torch.Size([5]), torch.Size([8, 10]))
    """

    def __init__(self, input_dim: int, hidden_dim: int, variables: int, classes: int):
        super().__init__()
        _check_sizes(
            input_dim=input_dim, hidden_dim=hidden_dim, variables=variables, classes=classes
        )
        self.event_shape = (variables, classes)
        self.latent_dim = variables * classes
        self.hidden = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU())
        self.logits = nn.Linear(hidden_dim, self.latent_dim)

    def forward(self, x: Tensor) -> Independent:
        _check_input("x", x, self.hidden[0])
        logits = _head(self.logits, self.hidden(x)).unflatten(-1, self.event_shape)
        return Independent(OneHotCategorical(logits=logits, validate_args=False), 1)

    @property
    def prior(self) -> Independent:
        return Independent(OneHotCategorical(self.logits.weight.new_ones(self.event_shape)), 1)


class CategoricalDecoder(BernoulliDecoder):
    """The `BernoulliDecoder` of codes with D variables of C classes, shape `[..., D, C]`.

    It is linear in the code's first layer, so that it takes relaxed codes as readily as one-hot
    ones.

    Args:
        variables: D, how many variables make up one code.
        classes: C, how many values each of them has.
        hidden_dim, output_dim: as for `BernoulliDecoder`.

    Raises:
        TypeError: if a size is not an int, or `z` not a floating-point tensor.
        ValueError: if a size is not positive, or `z` is empty, holds NaN, or has another shape,
            dtype or device.

    Used in chapters 7 and 8 through `discrete_digits_vae`.

    >>> CategoricalDecoder(8, 10, 128, 64)(torch.zeros(5, 8, 10)).mean.shape
    torch.Size([5, 64])
    """

    def __init__(self, variables: int, classes: int, hidden_dim: int, output_dim: int):
        _check_sizes(variables=variables, classes=classes)
        super().__init__(variables * classes, hidden_dim, output_dim)
        self.event_shape = (variables, classes)

    def forward(self, z: Tensor) -> Independent:
        check_float(z=z)
        if z.shape[-2:] != self.event_shape:
            raise ValueError(
                f"z must have shape [..., {self.event_shape[0]}, {self.event_shape[1]}], "
                f"got {list(z.shape)}"
            )
        return super().forward(z.flatten(-2))


class VAE(nn.Module):
    """A variational autoencoder.

    Args:
        encoder: maps images to posteriors over z, e.g. a `GaussianEncoder`. Its `prior`, if it has
            one, is that of the model; else the prior is the standard Gaussian.
        decoder: maps z to distributions over images, e.g. a `BernoulliDecoder`. Both have a
            `latent_dim`, how many numbers make up z.

    Raises:
        ValueError: if the encoder's z is not as long as the decoder's.

    Used in chapters 1, 2, 4 and 8 through `digits_vae`. Source: Kingma and Welling (2014),
    https://arxiv.org/abs/1312.6114.

    >>> vae = VAE(GaussianEncoder(64, 128, 8), BernoulliDecoder(8, 128, 64))
    >>> vae.elbo(torch.ones(5, 64)).shape
    torch.Size([5])
    >>> vae.decoder(vae.prior.sample((20,))).mean.shape  # twenty new images
    torch.Size([20, 64])
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        if encoder.latent_dim != decoder.latent_dim:
            raise ValueError(
                "encoder and decoder must share one latent_dim, "
                f"got {encoder.latent_dim} and {decoder.latent_dim}"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.register_buffer("prior_mu", torch.zeros(encoder.latent_dim), persistent=False)

    @property
    def prior(self) -> Distribution:
        """The encoder's own prior if it has one, else `p(z) = N(0, I)`, in the model's dtype."""
        if hasattr(self.encoder, "prior"):
            return self.encoder.prior
        return Independent(Normal(self.prior_mu, torch.ones_like(self.prior_mu)), 1)

    def terms(
        self,
        x: Tensor,
        num_samples: int = 1,
        sample: Sampler | None = None,
        estimator: Estimator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The ELBO's two terms for each image, in nats: `E_q[log p(x|z)]` and `KL(q(z|x) ‖ p(z))`.

        Args:
            x: images, shape `[batch, pixels]`.
            num_samples: K, over which the first term is averaged. The second is exact.
            sample: if given, the first term is the plain average over what it draws from the
                posterior. `lambda q: q.sample()` is the blocked encoder of chapter 1: same
                numbers, no gradient.
            estimator: else, whatever `reparam.estimators` has: it estimates the first term and
                its gradient. The default is `Pathwise()`; discrete codes need another one. A
                `Learned` or `NVIL` baseline stands for a `ScoreFunction` with it, at `x`.

        Returns:
            Two tensors of shape `[batch]`.

        Raises:
            TypeError: if `x` is not a floating-point tensor, or `num_samples` not an int.
            ValueError: if `x` does not fit the encoder, or holds what the decoder's distribution
                gives no probability to (grey pixels, for a Bernoulli), if the estimator needs
                what the posterior does not have (it then names another), or if `sample` or
                `estimator` returns another shape than those of the samples or of the images.
        """
        check_count("num_samples", num_samples)
        estimator = _at(x, estimator or Pathwise()) if sample is None else _average_over(sample)
        posterior = self.encoder(x)
        reconstruction = estimator(
            lambda z: _log_likelihood(self.decoder(z), x), posterior, num_samples
        )
        check_estimates(reconstruction, posterior.batch_shape)
        return reconstruction, kl_divergence(posterior, self.prior)

    def elbo(
        self,
        x: Tensor,
        num_samples: int = 1,
        sample: Sampler | None = None,
        estimator: Estimator | None = None,
    ) -> Tensor:
        """The evidence lower bound `E_q[log p(x|z)] - KL(q(z|x) ‖ p(z))` of each image, in nats.

        Arguments and errors are those of `terms`; the shape of the result is `[batch]`.
        """
        reconstruction, kl = self.terms(x, num_samples, sample, estimator)
        return reconstruction - kl

    def importance_weighted(
        self, x: Tensor, num_samples: int, gradient: str | None = None
    ) -> Tensor:
        """The importance-weighted bound on `log p(x)` of each image, in nats.

        Args:
            x: images, shape `[batch, pixels]`.
            num_samples: K, posterior samples per image.
            gradient: of the encoder, see `reparam.objectives.importance_weighted_bound`. If None,
                `"pathwise"` where samples have a path, else `"score"`.

        Returns:
            Shape `[batch]`. Its mean rises with K, from the ELBO at K = 1 towards `log p(x)`.

        Raises:
            TypeError, ValueError: as `terms` and `importance_weighted_bound`.
        """
        return self._importance_weighted(
            lambda z: _log_likelihood(self.decoder(z), x) + self.prior.log_prob(z),
            self.encoder(x),
            num_samples,
            gradient,
        )

    @staticmethod
    def _importance_weighted(log_joint, posterior, num_samples, gradient) -> Tensor:
        gradient = gradient or ("pathwise" if posterior.has_rsample else "score")
        return importance_weighted_bound(log_joint, posterior, num_samples, gradient)


class FlowVAE(VAE):
    """A VAE whose KL is estimated from the samples: for posteriors that have none in closed form.

    Both terms come from the same K samples, `log p(x|z_k)` and `log q(z_k|x) - log p(z_k)`, all at
    the samples that the decoder sees, behind the last flow. A prior taken at the samples in front
    of the flows pays them for stretching space, without a bound (chapter 6 lets it happen).

    Args:
        encoder: maps images to posteriors with `rsample` and `log_prob`, e.g. a `FlowEncoder`.
        decoder: as for `VAE`.

    In `terms`, `elbo` and `train`, `sample` is as in `VAE`, and there is no choice of estimator:
    the samples are reparameterized. An estimate of the KL can be negative, its mean cannot.

    Raises:
        ValueError: if given an `estimator`; else as `VAE`.

    Derived in chapter 6. Source: Rezende and Mohamed (2015), https://arxiv.org/abs/1505.05770.

    >>> vae = flow_digits_vae("planar", num_flows=4)
    >>> vae.elbo(torch.ones(5, 64), num_samples=3).shape
    torch.Size([5])
    """

    def terms(
        self,
        x: Tensor,
        num_samples: int = 1,
        sample: Sampler | None = None,
        estimator: Estimator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `VAE.terms`, but both terms are averages over the same samples."""
        check_count("num_samples", num_samples)
        if estimator is not None:
            raise ValueError(
                f"FlowVAE draws its samples by their path and takes no estimator, got {estimator}: "
                "leave it out, or use a VAE, whose posterior has a KL in closed form"
            )
        posterior = self.encoder(x)
        posterior = posterior.expand((num_samples, *posterior.batch_shape))
        z = _drawn(sample or _exact, posterior)
        kl = posterior.log_prob(z) - self.prior.log_prob(z)
        reconstruction = _log_likelihood(self.decoder(z), x)
        _check_each(reconstruction, posterior.batch_shape)
        return reconstruction.mean(0), kl.mean(0)


class HybridEncoder(nn.Module):
    """Map images to `q(y|x) q(z|x)`: a one-hot class y beside a Gaussian vector z.

    Args:
        input_dim: pixels per image.
        hidden_dim: width of the one hidden layer.
        classes: C, how many values y has.
        continuous_dim: D, the length of z.

    Calling it with `x`, shape `[..., input_dim]`, returns two distributions of batch shape `[...]`:
    a `OneHotCategorical` of event shape `[C]`, and an `Independent` Normal of event shape `[D]`.
    Its `prior` is such a pair: uniform, and standard Gaussian.

    Raises:
        TypeError, ValueError: as `GaussianEncoder`.

    Used in chapters 7 and 8 through `hybrid_digits_vae`.

    >>> y, z = HybridEncoder(64, 128, classes=10, continuous_dim=4)(torch.zeros(5, 64))
    >>> y.event_shape, z.event_shape
    (torch.Size([10]), torch.Size([4]))
    """

    def __init__(self, input_dim: int, hidden_dim: int, classes: int, continuous_dim: int):
        super().__init__()
        _check_sizes(classes=classes, continuous_dim=continuous_dim)
        self.latent_dim = classes + continuous_dim
        self.gaussian = GaussianEncoder(input_dim, hidden_dim, continuous_dim)
        self.logits = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, classes)
        )

    def forward(self, x: Tensor) -> tuple[OneHotCategorical, Independent]:
        z = self.gaussian(x)
        logits = _head(self.logits[-1], self.logits[:-1](x))
        return OneHotCategorical(logits=logits, validate_args=False), z

    @property
    def prior(self) -> tuple[OneHotCategorical, Independent]:
        weight, dim = self.logits[-1].weight, self.gaussian.latent_dim
        z = Independent(Normal(weight.new_zeros(dim), weight.new_ones(dim)), 1)
        return OneHotCategorical(weight.new_ones(len(weight))), z


class HybridVAE(VAE):
    """A VAE whose code is a class y and a Gaussian vector z: one estimator inside another.

    The outer estimator deals with y, whose ten classes can be enumerated; for every y that it asks
    for, `Pathwise` inside it deals with z. No other code is needed: estimators nest.

    Args:
        encoder: a `HybridEncoder`, or whatever returns a pair of posteriors and has a `prior`.
        decoder: takes `torch.cat([y, z], -1)`, e.g. `BernoulliDecoder(C + D, ...)`.

    In `terms`, `elbo` and `train`, `estimator` is that of y (`Enumeration()` if not given).

    Raises:
        TypeError, ValueError: as `VAE`.

    Used in chapter 7. Source: Kingma et al. (2014), https://arxiv.org/abs/1406.5298, whose
    posterior of z depends on y as well.

    >>> vae = HybridVAE(HybridEncoder(64, 128, 10, 4), BernoulliDecoder(14, 128, 64))
    >>> vae.elbo(torch.ones(5, 64)).shape
    torch.Size([5])
    """

    def terms(
        self,
        x: Tensor,
        num_samples: int = 1,
        sample: Sampler | None = None,
        estimator: Estimator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `VAE.terms`; the KL is the sum of those of y and z, both exact."""
        check_count("num_samples", num_samples)
        outer = _at(x, estimator or Enumeration()) if sample is None else _average_over(sample)
        q_y, q_z = self.encoder(x)

        def given(y: Tensor) -> Tensor:
            """`E[log p(x|y, z)]` over z, for each y of shape `[n, batch, C]`."""
            return Pathwise()(
                lambda z: _log_likelihood(self.decoder(_beside(y, z)), x), q_z.expand(y.shape[:-1])
            )

        kl = sum(kl_divergence(q, p) for q, p in zip((q_y, q_z), self.prior, strict=True))
        reconstruction = outer(given, q_y, num_samples)
        check_estimates(reconstruction, q_y.batch_shape)
        return reconstruction, kl

    def importance_weighted(
        self, x: Tensor, num_samples: int, gradient: str | None = None
    ) -> Tensor:
        """As `VAE.importance_weighted`, with y summed out: only z is drawn.

        The weights are `p(z) Σ_y p(y) p(x|y, z) / q(z|x)`, and `q(y|x)` has no part in them.
        """
        p_y, p_z = self.prior
        classes = p_y.enumerate_support()

        def log_joint(z: Tensor) -> Tensor:
            y = classes.reshape(-1, *[1] * (z.ndim - 1), classes.shape[-1])
            code = _beside(y, z.expand(len(classes), *z.shape))
            each = _log_likelihood(self.decoder(code), x) + p_y.log_prob(y)
            return each.logsumexp(0) + p_z.log_prob(z)

        return self._importance_weighted(log_joint, self.encoder(x)[1], num_samples, gradient)


def _beside(y: Tensor, z: Tensor) -> Tensor:
    """`y` and `z` in one vector, `y` repeated for each sample of `z`."""
    return torch.cat([y.expand(*z.shape[:-1], -1), z], -1)


class Quantized(NamedTuple):
    """What a `VectorQuantizer` returns: the codes, their indices, and the loss that trains them.

    `.code`, the nearest entries of the codebook, has shape `[..., dim]`; `.index`, their numbers,
    and `.loss`, of each vector, have shape `[...]`.

    Used in chapter 7 through `VectorQuantizer`.

    >>> code, index, loss = VectorQuantizer(codes=3, dim=2)(torch.zeros(5, 2))
    >>> code.shape, index.shape, loss.shape
    (torch.Size([5, 2]), torch.Size([5]), torch.Size([5]))
    """

    code: Tensor
    index: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module):
    """Replace each vector by the nearest one of a learned codebook.

    Nothing is drawn: this is a deterministic rounding, and neither a sampler nor an estimator of a
    gradient. The code's gradient is handed to the vector as it is (straight-through), and
    `loss = ‖stop(z) - e‖² + commitment ‖z - stop(e)‖²` moves the codebook to the vectors and the
    vectors to the codebook.

    Args:
        codes: C, the size of the codebook.
        dim: the length of each vector.
        commitment: the weight of the second term of the loss.

    Calling it with `z`, shape `[..., dim]`, returns a `Quantized`: `.code`, shape `[..., dim]`;
    `.index`, shape `[...]`; `.loss`, shape `[...]`.

    Raises:
        TypeError: if a size is not an int, `commitment` no number, or `z` not a floating-point
            tensor.
        ValueError: if a size or `commitment` is not positive and finite, or `z` has another length,
            dtype or device than the codebook, or holds NaN.

    Used in chapter 7. Source: van den Oord, Vinyals and Kavukcuoglu (2017),
    https://arxiv.org/abs/1711.00937.

    >>> quantizer = VectorQuantizer(codes=3, dim=1)
    >>> with torch.no_grad():
    ...     _ = quantizer.codebook.copy_(torch.tensor([[-1.0], [0.0], [2.0]]))
    >>> quantizer(torch.tensor([[0.9], [1.1]])).index
    tensor([1, 2])
    """

    def __init__(self, codes: int, dim: int, commitment: float = 0.25):
        super().__init__()
        _check_sizes(codes=codes, dim=dim)
        check_number("commitment", commitment)
        if not 0 < commitment < float("inf"):
            raise ValueError(f"commitment must be a positive number, got {commitment}")
        self.commitment = commitment
        self.codebook = nn.Parameter(torch.randn(codes, dim))

    def forward(self, z: Tensor) -> Quantized:
        check_float(z=z)
        check_alike(codebook=self.codebook, z=z)
        if z.ndim == 0 or z.shape[-1] != self.codebook.shape[-1]:
            raise ValueError(
                f"z must have shape [..., {self.codebook.shape[-1]}], got {list(z.shape)}"
            )
        with torch.no_grad():
            index = (z.unsqueeze(-2) - self.codebook).square().sum(-1).argmin(-1)
        nearest = self.codebook[index]
        to_vectors = (nearest - z.detach()).square().sum(-1)
        to_codes = (nearest.detach() - z).square().sum(-1)
        loss = to_vectors + self.commitment * to_codes
        return Quantized(straight_through(nearest, z), index, loss)

    def perplexity(self, index: Tensor) -> float:
        """How many codes are in use: `exp` of the entropy of their frequencies, from 1 to C.

        Args:
            index: of codes, any shape, as `forward` gives them.

        Raises:
            TypeError: if `index` is not a tensor of dtype `torch.long`.
            ValueError: if it is empty, or holds a number that no code has.
        """
        if not isinstance(index, Tensor) or index.dtype != torch.long:
            got = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"index must be a tensor of dtype torch.long, got {got}")
        codes = len(self.codebook)
        if index.numel() == 0 or any_true((index < 0) | (index >= codes)):
            raise ValueError(
                f"index must hold numbers from 0 to {codes - 1}, got shape {list(index.shape)}"
                + (f" from {index.min()} to {index.max()}" if index.numel() else "")
            )
        share = torch.bincount(index.flatten(), minlength=len(self.codebook)) / index.numel()
        return torch.special.entr(share).sum().exp().item()


class QuantizedVAE(VAE):
    """A VQ-VAE with D vectors per image, each one of C codes; the prior is uniform over the codes.

    It has a true ELBO. Its posterior puts all its mass on one code, so that the KL from the uniform
    prior is `D log C` whatever the weights, and `log p(x|code) - D log C` is a lower bound of
    `log p(x)`, without any noise. What is trained is something else: straight-through hands the
    encoder a gradient that is not that of the bound, whose derivative is zero almost everywhere,
    and the quantizer's loss is added to it.

    Args:
        encoder: maps images, shape `[batch, pixels]`, to vectors `[batch, D, dim]`.
        quantizer: a `VectorQuantizer` of vectors of that length.
        decoder: takes the D codes as one vector, and has the length of it as its `latent_dim`,
            e.g. `BernoulliDecoder(D * dim, ...)`.

    Raises:
        ValueError: if the decoder's z is no whole number of codes; in use, if the encoder does not
            give as many vectors; else as `VAE` and `VectorQuantizer`.

    `terms` and `elbo` have the value of the ELBO's terms. The gradient of the first one has that of
    the quantizer's loss in it, so that `train` needs to know nothing of it. `num_samples`,
    `sample` and `estimator` are accepted and change nothing: nothing is drawn.

    Used in chapters 7 and 8 through `quantized_digits_vae`. Source: van den Oord, Vinyals and
    Kavukcuoglu (2017), https://arxiv.org/abs/1711.00937.

    >>> vae = quantized_digits_vae(variables=8, codes=16)
    >>> reconstruction, kl = vae.terms(torch.ones(5, 64))
    >>> bool((kl == 8 * torch.tensor(16.0).log()).all())
    True
    """

    def __init__(self, encoder: nn.Module, quantizer: VectorQuantizer, decoder: nn.Module):
        nn.Module.__init__(self)
        dim = quantizer.codebook.shape[1]
        if decoder.latent_dim % dim:
            raise ValueError(
                f"the decoder must take codes of length {dim} side by side, got a latent_dim of "
                f"{decoder.latent_dim}"
            )
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder

    @property
    def prior(self) -> Independent:
        """Uniform over the indices of the codes, event shape `[D]`."""
        codes, dim = self.quantizer.codebook.shape
        variables = self.decoder.latent_dim // dim
        return Independent(Categorical(self.quantizer.codebook.new_ones(variables, codes)), 1)

    def terms(
        self,
        x: Tensor,
        num_samples: int = 1,
        sample: Sampler | None = None,
        estimator: Estimator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`log p(x|code)`, and the KL, which is the constant `D log C`."""
        z = self.encoder(x).to(x.dtype)
        dim = self.quantizer.codebook.shape[1]
        wanted = (*x.shape[:-1], self.decoder.latent_dim // dim, dim)
        if z.shape != wanted:
            raise ValueError(
                f"the encoder must return vectors of shape {list(wanted)} for images of shape "
                f"{list(x.shape)}, got {list(z.shape)}: nn.Unflatten(-1, {wanted[-2:]}) makes them"
            )
        quantized = self.quantizer(z)
        loss = quantized.loss.sum(-1)
        reconstruction = _log_likelihood(self.decoder(quantized.code.flatten(-2)), x)
        _check_each(reconstruction, loss.shape)
        kl = quantized.index.shape[-1] * math.log(len(self.quantizer.codebook))
        return reconstruction + (loss.detach() - loss), torch.full_like(reconstruction, kl)

    def importance_weighted(
        self, x: Tensor, num_samples: int, gradient: str | None = None
    ) -> Tensor:
        """The ELBO, for any K: all samples of this posterior are one and the same.

        `gradient` has to be None, as the gradient is that of `terms`.
        """
        check_count("num_samples", num_samples)
        if gradient is not None:
            raise ValueError(f"a QuantizedVAE draws nothing and has one gradient, got {gradient!r}")
        return self.elbo(x)


def _check_each(log_likelihood: Tensor, shape: torch.Size) -> None:
    if log_likelihood.shape != shape:
        raise ValueError(
            "the decoder's log-likelihood must have one number for each code, shape "
            f"{list(shape)}, got {list(log_likelihood.shape)}: declare pixels as one event, "
            "Independent(distribution, 1)"
        )


def _log_likelihood(likelihood: Distribution, x: Tensor) -> Tensor:
    """`log p(x|z)`, after checking that `x` can come from this distribution at all."""
    event_shape = getattr(likelihood, "event_shape", ())
    image = x.shape[max(0, x.ndim - len(event_shape)) :]
    if event_shape and image != event_shape:  # would broadcast
        raise ValueError(
            f"the decoder's {name_of(likelihood)} has event_shape {list(event_shape)}, and an "
            f"image the shape {list(image)}"
        )
    if any_true(~likelihood.support.check(x)):
        raise ValueError(
            f"x must lie in the support of the decoder's distribution, {likelihood.support}, "
            f"got values from {x.min():g} to {x.max():g}: binarize the images, "
            "as load_digits(binarize=True) does"
        )
    return likelihood.log_prob(x)


def _at(x: Tensor, estimator: Estimator) -> Estimator:
    """The estimator for these images: a learned baseline predicts from them."""
    check_estimator(estimator)
    return ScoreFunction(estimator.at(x)) if isinstance(estimator, Learned) else estimator


def _own_parameters(estimator: Estimator | None) -> list[nn.Parameter]:
    """Those of a control variate or a learned baseline, also of one that another holds."""
    return [own for module in modules_in(estimator) for own in module.parameters()]


def _average_over(sample: Sampler) -> Estimator:
    """The plain average of `f` over what `sample` draws."""

    def average(f: Callable, q: Distribution, num_samples: int) -> Tensor:
        each = q.expand((num_samples, *q.batch_shape))
        values = f(_drawn(sample, each))
        _check_each(values, each.batch_shape)
        return values.mean(0)

    return average


def _drawn(sample: Sampler, q: Distribution) -> Tensor:
    z, shape = sample(q), q.batch_shape + q.event_shape
    if not isinstance(z, Tensor) or z.shape != shape:
        got = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(
            f"sample must return one z of each posterior it is given, shape {list(shape)}, got "
            f"{got}: lambda q: q.rsample()"
        )
    return z


def digits_vae(latent_dim: int = 8, hidden_dim: int = 200, pixels: int = 64) -> VAE:
    """The book's Gaussian VAE.

    Its weights come from the global generator.

    Args:
        latent_dim: D, the length of z.
        hidden_dim: width of the hidden layers of encoder and decoder.
        pixels: of an image; the digits of `load_digits` have 8×8.

    Returns:
        A `VAE` of images of shape `[batch, pixels]` and codes of shape `[batch, D]`.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive.

    Used in chapters 1, 2, 4 and 8; chapters 3 and 6 show long runs of it.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <...>
    >>> sum(weights.numel() for weights in digits_vae().parameters())
    30880
    """
    return VAE(
        GaussianEncoder(pixels, hidden_dim, latent_dim),
        BernoulliDecoder(latent_dim, hidden_dim, pixels),
    )


def full_covariance_digits_vae(latent_dim: int = 8, hidden_dim: int = 200, pixels: int = 64) -> VAE:
    """The VAE of chapter 8 with a posterior of any covariance.

    Its weights come from the global generator.

    Args:
        latent_dim, hidden_dim, pixels: as for `digits_vae`.

    Returns:
        A `VAE` of images of shape `[batch, pixels]` and codes of shape `[batch, D]`.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive.

    >>> full_covariance_digits_vae().encoder(torch.zeros(5, 64)).event_shape
    torch.Size([8])
    """
    return VAE(
        FullCovarianceEncoder(pixels, hidden_dim, latent_dim),
        BernoulliDecoder(latent_dim, hidden_dim, pixels),
    )


#: By name: the flow, and whether it goes through the variables in an order, which then alternates.
_FLOWS: dict[str, tuple[type[Flow], bool]] = {
    "planar": (PlanarFlow, False),
    "radial": (RadialFlow, False),
    "sylvester": (SylvesterFlow, False),
    "coupling": (AffineCouplingFlow, True),
    "iaf": (InverseAutoregressiveFlow, True),
    "spline": (SplineFlow, True),
}


def flow_digits_vae(
    kind: str = "planar",
    num_flows: int = 8,
    amortized: bool = False,
    latent_dim: int = 8,
    hidden_dim: int = 200,
    pixels: int = 64,
    **options,
) -> FlowVAE:
    """The VAE of chapter 6 with a flow posterior.

    Its weights come from the global generator.

    Args:
        kind: `"planar"`, `"radial"`, `"sylvester"`, `"coupling"`, `"iaf"` or `"spline"`.
        num_flows: how many flows, one after the other.
        amortized: whether the flows' parameters depend on the image.
        latent_dim, hidden_dim, pixels: as for `digits_vae`.
        options: to each flow, such as `hidden=(64,)`.

    Raises:
        TypeError: if a size is not an int, `amortized` no bool, or the flow has no such option.
        ValueError: if `kind` is another one, or a size not positive.

    Derived in chapter 6.

    >>> flow_digits_vae("coupling", num_flows=2, hidden=(32,)).encoder.flows.dim
    8
    """
    if kind not in _FLOWS:
        raise ValueError(f"kind must be one of {', '.join(_FLOWS)}, got {kind!r}")
    check_count("num_flows", num_flows)
    check_flag("amortized", amortized)
    flow, ordered = _FLOWS[kind]

    def make(i: int) -> Flow:
        order = {"reverse": i % 2 == 1} if ordered else {}
        return flow(latent_dim, context_dim=hidden_dim if amortized else 0, **order, **options)

    encoder = FlowEncoder(pixels, hidden_dim, [make(i) for i in range(num_flows)])
    return FlowVAE(encoder, BernoulliDecoder(latent_dim, hidden_dim, pixels))


def discrete_digits_vae(
    variables: int = 8, classes: int = 8, hidden_dim: int = 200, pixels: int = 64
) -> VAE:
    """The categorical VAE of chapter 7: `classes**variables` codes.

    Its weights come from the global generator. `train` needs an estimator for discrete codes.

    Args:
        variables: D, how many variables make up one code.
        classes: C, how many values each of them has.
        hidden_dim, pixels: as for `digits_vae`.

    Returns:
        A `VAE` of images of shape `[batch, pixels]` and one-hot codes of shape `[batch, D, C]`.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive.

    Used in chapters 7 and 8.

    >>> discrete_digits_vae().encoder(torch.zeros(5, 64)).event_shape
    torch.Size([8, 8])
    """
    return VAE(
        CategoricalEncoder(pixels, hidden_dim, variables, classes),
        CategoricalDecoder(variables, classes, hidden_dim, pixels),
    )


def hybrid_digits_vae(
    classes: int = 10, continuous_dim: int = 4, hidden_dim: int = 200, pixels: int = 64
) -> HybridVAE:
    """The VAE of chapter 7 with a class and a Gaussian vector as its code.

    Its weights come from the global generator.

    Args:
        classes: C, how many values y has.
        continuous_dim: D, the length of z.
        hidden_dim, pixels: as for `digits_vae`.

    Returns:
        A `HybridVAE` of images of shape `[batch, pixels]`, y of shape `[batch, C]` and z of shape
        `[batch, D]`.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive.

    Used in chapters 7 and 8.

    >>> [q.event_shape for q in hybrid_digits_vae().prior]
    [torch.Size([10]), torch.Size([4])]
    """
    return HybridVAE(
        HybridEncoder(pixels, hidden_dim, classes, continuous_dim),
        BernoulliDecoder(classes + continuous_dim, hidden_dim, pixels),
    )


class _VectorEncoder(nn.Sequential):
    """Layers of which the first one says what images fit."""

    def forward(self, x: Tensor) -> Tensor:
        _check_input("x", x, self[0])
        return super().forward(x)


def quantized_digits_vae(
    variables: int = 8, codes: int = 8, dim: int = 4, hidden_dim: int = 200, pixels: int = 64
) -> QuantizedVAE:
    """The VQ-VAE of chapter 7: `codes**variables` codes, one codebook for all.

    Its weights come from the global generator.

    Args:
        variables: D, how many vectors make up one code.
        codes: C, the size of the codebook.
        dim: the length of each vector.
        hidden_dim, pixels: as for `digits_vae`.

    Returns:
        A `QuantizedVAE` of images of shape `[batch, pixels]` and codes of shape `[batch, D, dim]`.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive.

    Used in chapters 7 and 8.

    >>> quantized_digits_vae().prior.event_shape
    torch.Size([8])
    """
    _check_sizes(variables=variables, codes=codes, dim=dim, hidden_dim=hidden_dim, pixels=pixels)
    encoder = _VectorEncoder(
        nn.Linear(pixels, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, variables * dim),
        nn.Unflatten(-1, (variables, dim)),
    )
    decoder = BernoulliDecoder(variables * dim, hidden_dim, pixels)
    return QuantizedVAE(encoder, VectorQuantizer(codes, dim), decoder)


@dataclass(frozen=True)
class History:
    """What `train` did: one entry per finished epoch, in nats per image.

    `elbo`, `reconstruction` and `kl` average over the epoch, while the weights still move. Where
    the estimator relaxes discrete codes, the first two are those of relaxed codes. `held_out` is
    the ELBO on the validation images at the end of each epoch (empty without them), always with
    codes drawn exactly.

    Attributes:
        elbo, reconstruction, kl: shape `[epochs]`.
        held_out: shape `[epochs]`, or `[0]`.
        seconds: how long the training took.
        interrupted: whether Ctrl-C ended it.

    Chapter 2 asks one for its `seconds`.

    >>> history = train(digits_vae(), torch.ones(8, 64), epochs=2, progress=False)
    >>> bool((history.elbo == history.reconstruction - history.kl).all())
    True
    >>> history.held_out.shape
    torch.Size([0])
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    held_out: Tensor
    seconds: float
    interrupted: bool


@dataclass(frozen=True)
class HeldOut:
    """A mean bound in nats per image, and its standard error over the images.

    `each` holds the bound of every image, shape `[n]`: two models are compared by the mean and the
    standard error of the differences, which leave out what is hard about an image for both.

    Used in chapters 1, 2, 4, 6, 7 and 8 through `evaluate`.

    >>> print(HeldOut(-20.0, 0.5, each=torch.tensor([-19.5, -20.5])))
    -20.00 ± 0.50 nats per image
    """

    mean: float
    standard_error: float
    each: Tensor = field(repr=False, compare=False)

    def __str__(self):
        return f"{self.mean:.2f} ± {self.standard_error:.2f} nats per image"


@torch.inference_mode(False)  # turns gradients on, too, whatever the caller turned off
def train(
    vae: VAE,
    images: Tensor,
    *,
    epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    sample: Sampler | None = None,
    estimator: Estimator | None = None,
    num_samples: int = 1,
    kl_weight: float = 1.0,
    validation: Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train `vae` by Adam on `images`; Ctrl-C stops early and keeps what was learned.

    Args:
        vae: trained in place, on the device and in the dtype of its weights.
        images: shape `[n, pixels]`.
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: Adam's.
        sample: draws z from the posterior, see `VAE.terms`.
        estimator: of the gradient, see `VAE.terms`. Parameters of its own are trained beside the
            model's, on their own objective. Those of an estimator inside a lambda cannot be
            found, and stay as they are.
        num_samples: K, of each image in each step.
        kl_weight: 1 maximizes the ELBO, 0 the reconstruction alone (chapter 1).
        validation: images held out, shape `[m, pixels]`, for `History.held_out`.
        seed: of batches and noise. The global generator is left as it was.
        progress: whether to show a bar with the current ELBO; TQDM_DISABLE=1 in the environment
            hides it, too.

    Returns:
        A `History`.

    Raises:
        TypeError: if images are not floating-point tensors, or counts not ints.
        ValueError: if images or the estimator do not fit the model, also where only the last and
            shorter batch shows it, a number is out of range, no weight wants a gradient, or one
            that does is of float16, in which Adam divides by 0, or was made under
            `torch.inference_mode()`. The weights are then as before.
        FloatingPointError: if the loss or a gradient is not finite any more, or the model not able
            to encode and decode. The weights are then those of the last step at which the loss was.

    Used in chapters 1, 2, 4, 6, 7 and 8. Source: Kingma and Ba (2015) for Adam,
    https://arxiv.org/abs/1412.6980.

    >>> history = train(digits_vae(), torch.ones(8, 64), epochs=2, progress=False)
    >>> history.elbo.shape, history.interrupted
    (torch.Size([2]), False)
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_count("num_samples", num_samples)
    for name, value, low in (("learning_rate", learning_rate, 1e-12), ("kl_weight", kl_weight, 0)):
        check_number(name, value)
        if not low <= value < float("inf"):
            raise ValueError(f"{name} must be finite and at least {low:g}, got {value}")
    held_out = {} if validation is None else {"validation": validation}
    for name, each in ({"images": images} | held_out).items():
        _check_images(name, each)
        evaluate(vae, each, num_samples=1)  # checks every image before the first step

    weights = list(dict.fromkeys([*vae.parameters(), *_own_parameters(estimator)]))
    if not any(weight.requires_grad for weight in weights):
        raise ValueError("no weight of the model wants a gradient: vae.requires_grad_(True)")
    if any(weight.is_inference() for weight in weights):
        raise ValueError("weights made under torch.inference_mode() cannot be trained")
    if any(weight.dtype == torch.float16 and weight.requires_grad for weight in weights):
        raise ValueError(
            "Adam divides by 0 in float16, which rounds its 1e-8 away: keep the weights in float32 "
            "and use torch.autocast, or train in bfloat16"
        )
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    before, last_finite = _Snapshot(vae), _Snapshot(vae)
    done: list[tuple[float, ...]] = []
    steps, interrupted, lengths = 0, False, set()  # of batches that went well
    start = time.perf_counter()
    with _seeded(seed, images.device), _one_thread_if_small(vae):
        silent = not progress or bars_are_off()
        bar = trange(epochs, desc="Training", unit="epoch", disable=silent)
        try:
            vae.train()
            for epoch in bar:
                total = torch.zeros(2, dtype=wide_dtype(images.dtype), device=images.device)
                order = torch.randperm(len(images), device=images.device)
                for chosen in order.split(batch_size):
                    steps += 1
                    torch.clear_autocast_cache()  # which holds the weights of the step before
                    terms = vae.terms(images[chosen], num_samples, sample, estimator)
                    total += _step(vae, terms, optimizer, last_finite, kl_weight)
                    lengths.add(len(chosen))
                reconstruction, kl = (total / len(images)).tolist()
                values = (reconstruction - kl, reconstruction, kl)
                if validation is not None:
                    values += (evaluate(vae, validation, num_samples=1, seed=epoch).mean,)
                done.append(values)
                bar.set_postfix(ELBO=f"{values[0]:.2f} nats")
        except KeyboardInterrupt:
            interrupted = True
        except (ValueError, FloatingPointError) as error:
            is_first = len(chosen) not in lengths  # the last batch may be shorter than the others
            if isinstance(error, ValueError) and is_first and _is_well(vae, images):
                before.restore()
                raise  # what was handed in does not fit
            last_finite.restore()
            raise FloatingPointError(
                f"training diverged at step {steps}, in epoch {len(done) + 1}: {error}. The "
                "weights are back at the last step with a finite loss; try a learning_rate below "
                f"{learning_rate:g}, and look at the encoder's log_var, whose exponential "
                "overflows first"
            ) from error
        finally:
            bar.close()
    if interrupted:
        print(
            f"Interrupted in epoch {len(done) + 1} of {epochs}: "
            "the model keeps what it has learned so far."
        )
    columns = torch.tensor(done, dtype=torch.float64).T if done else torch.zeros(4, 0)
    return History(
        elbo=columns[0],
        reconstruction=columns[1],
        kl=columns[2],
        held_out=columns[3] if validation is not None else torch.zeros(0),
        seconds=time.perf_counter() - start,
        interrupted=interrupted,
    )


def _exact(q: Distribution) -> Tensor:
    """A sample of q itself, never a relaxed one."""
    return q.rsample() if q.has_rsample else q.sample()


@torch.no_grad()
def evaluate(vae: VAE, images: Tensor, num_samples: int = 100, seed: int = 0) -> HeldOut:
    """The mean ELBO of `images` and its standard error over them.

    Args:
        vae: left as it is, the training mode of each part included.
        images: shape `[n, pixels]`.
        num_samples: K, posterior samples per image, drawn exactly: discrete codes stay discrete,
            whatever they were trained with.
        seed: of the noise. The global generator is left as it was.

    Returns:
        A `HeldOut`: `.mean` and `.standard_error`, in nats per image.

    Raises:
        TypeError, ValueError: as `VAE.terms`.

    Used in chapters 1, 2, 4, 6, 7 and 8. Source: Kingma and Welling (2014),
    https://arxiv.org/abs/1312.6114.

    >>> evaluate(digits_vae(), torch.ones(8, 64)).mean < -35
    True
    """
    check_count("num_samples", num_samples)
    return _held_out(
        lambda chunk: vae.elbo(chunk, num_samples, sample=_exact),
        vae,
        images,
        max(1, min(512, _SAMPLES_OF_AN_ELBO // num_samples)),
        seed,
    )


def _is_well(vae: VAE, images: Tensor) -> bool:
    """Whether the model as it is now has an ELBO for these images."""
    try:
        return math.isfinite(evaluate(vae, images, num_samples=1).mean)
    except (ValueError, FloatingPointError):
        return False


def _check_images(name: str, images: Tensor) -> None:
    check_float(**{name: images})
    if images.ndim != 2:
        raise ValueError(f"{name} must have shape [n, pixels], got {list(images.shape)}")


@torch.no_grad()
def log_likelihood(
    vae: VAE, images: Tensor, num_samples: int = 500, seed: int = 0, progress: bool = True
) -> HeldOut:
    """The mean importance-weighted bound on `log p(x)` of `images`, and its error over them.

    In the mean it lies below `log p(x)`, by less the more samples there are and the better the
    posterior. So it compares models whose posteriors differ, which an ELBO does not: that is low
    for a good model with a bad posterior, too.

    Args:
        vae: left as it is, the training mode of each part included. Any that has
            `importance_weighted`.
        images: shape `[n, pixels]`.
        num_samples: K, posterior samples per image.
        seed: of the noise. The global generator is left as it was.
        progress: as for `train`.

    Returns:
        A `HeldOut`, in nats per image.

    Raises:
        TypeError, ValueError: as `VAE.importance_weighted`.

    Used in chapter 8. Source: Burda, Grosse and Salakhutdinov (2016),
    https://arxiv.org/abs/1509.00519.

    >>> vae, images = digits_vae(), torch.ones(8, 64)
    >>> log_likelihood(vae, images, progress=False).mean > evaluate(vae, images).mean
    True
    """
    check_count("num_samples", num_samples)
    return _held_out(
        lambda chunk: vae.importance_weighted(chunk, num_samples),
        vae,
        images,
        max(1, _SAMPLES_AT_ONCE // num_samples),
        seed,
        progress,
    )


# Together with images, what bounds the memory of an evaluation. Another number draws other noise.
_SAMPLES_AT_ONCE, _SAMPLES_OF_AN_ELBO = 10_000, 51_200


def _held_out(
    bound: Callable[[Tensor], Tensor],
    vae: VAE,
    images: Tensor,
    at_once: int,
    seed: int,
    progress: bool = False,
) -> HeldOut:
    """The mean of `bound` over images, so many `at_once`, of a model in evaluation mode."""
    _check_images("images", images)
    torch.clear_autocast_cache()  # which may hold older weights
    silent = not progress or bars_are_off()
    with keeping_modes(vae), _seeded(seed, images.device), _one_thread_if_small(vae):
        vae.eval()
        chunks = tqdm(images.split(at_once), desc="Evaluating", disable=silent)
        values = torch.cat([bound(chunk) for chunk in chunks])
    wide = values.to(wide_dtype(values.dtype))
    spread = wide.std().item() if len(values) > 1 else float("nan")
    return HeldOut(wide.mean().item(), spread / len(values) ** 0.5, values)


def _step(
    vae: VAE,
    terms: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    last_finite: "_Snapshot",
    kl_weight: float,
) -> Tensor:
    """One step of the optimizer; returns the batch's two terms, summed over its images."""
    reconstruction, kl = terms
    loss = (kl_weight * kl - reconstruction).mean()
    optimizer.zero_grad()
    loss.backward()
    slopes = [w.grad.abs().max() for w in vae.parameters() if w.grad is not None]
    if not torch.stack([loss.detach(), *slopes]).isfinite().all():
        raise FloatingPointError(f"the loss is {loss.item():g}, its largest slope {max(slopes):g}")
    last_finite.keep()
    optimizer.step()
    wide = wide_dtype(loss.dtype)  # a batch's sum has more digits than 16 bits hold
    return torch.stack([term.detach().to(wide).sum() for term in terms])


class _Snapshot:
    """A copy of a model's weights, to go back to."""

    def __init__(self, model: nn.Module):
        self.weights = list(model.parameters())
        self.copies = [weights.detach().clone() for weights in self.weights]

    @torch.no_grad()
    def keep(self) -> None:
        for copy, weights in zip(self.copies, self.weights, strict=True):
            copy.copy_(weights)

    @torch.no_grad()
    def restore(self) -> None:
        for copy, weights in zip(self.copies, self.weights, strict=True):
            weights.copy_(copy)


@contextmanager
def _seeded(seed: int, device: torch.device):
    """Seeded random numbers inside, the caller's stream untouched outside."""
    check_count("seed", seed, least=0)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _one_thread_if_small(model: nn.Module):
    """One CPU thread inside for a small model, the caller's number outside.

    Its steps take microseconds: threads gain nothing then, and as soon as another process holds
    a core, waiting for each other makes training more than ten times slower (measured).
    """
    threads = torch.get_num_threads()
    if sum(weights.numel() for weights in model.parameters()) < 1_000_000:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _near_zero(inputs: int, outputs: int) -> nn.Linear:
    """A head whose outputs are small at the start."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def _head(layer: nn.Linear, h: Tensor) -> Tensor:
    """`layer(h)`; what autocast gives in 16 bits comes back in the dtype of the weights.

    Samples, KL and likelihood are then computed widely, too (chapter 4). What multiplies matrices
    once more on the way, as the networks of flows do, is in 16 bits again.
    """
    return layer(h).to(layer.weight.dtype)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        check_count(name, size)


def _check_input(name: str, x: Tensor, layer: nn.Linear) -> None:
    check_float(**{name: x})
    check_alike(weights=layer.weight, **{name: x})
    if x.ndim == 0 or x.shape[-1] != layer.in_features:
        raise ValueError(
            f"{name} must have shape [..., {layer.in_features}], got {list(x.shape)}"
            + (": flatten images with x.flatten(1)" if name == "x" else "")
        )
