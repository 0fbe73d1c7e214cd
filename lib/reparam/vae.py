"""A Gaussian variational autoencoder, small enough to read, and its training loop."""

import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal, kl_divergence
from tqdm.auto import trange

from reparam._checks import check_alike, check_count, check_float

__all__ = [
    "VAE",
    "BernoulliDecoder",
    "GaussianEncoder",
    "HeldOut",
    "History",
    "digits_vae",
    "evaluate",
    "train",
]


class GaussianEncoder(nn.Module):
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

    Used in chapters 1 and 2; chapter 4 measures its initialization. Source: Kingma and Welling
    (2014), appendix C.2, https://arxiv.org/abs/1312.6114.

    >>> posterior = GaussianEncoder(64, 128, 8)(torch.zeros(5, 64))
    >>> posterior.batch_shape, posterior.event_shape
    (torch.Size([5]), torch.Size([8]))
    """

    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int):
        super().__init__()
        _check_sizes(input_dim=input_dim, hidden_dim=hidden_dim, latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.hidden = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU())
        self.mu = nn.Linear(hidden_dim, latent_dim)
        self.log_var = nn.Linear(hidden_dim, latent_dim)
        nn.init.normal_(self.log_var.weight, std=0.01)  # start with every sigma near 1
        nn.init.zeros_(self.log_var.bias)

    def forward(self, x: Tensor) -> Independent:
        _check_input("x", x, self.hidden[0])
        h = self.hidden(x)
        sigma = torch.exp(self.log_var(h) / 2)
        return Independent(Normal(self.mu(h), sigma, validate_args=False), 1)


class BernoulliDecoder(nn.Module):
    """Map latent codes to one Bernoulli distribution per pixel, `p(x|z)`.

    Args:
        latent_dim: D, the length of z.
        hidden_dim: width of the one hidden layer.
        output_dim: pixels per image.

    Calling it with `z`, shape `[..., D]`, returns a `torch.distributions.Independent` of batch
    shape `[...]` and event shape `[output_dim]`; its `.mean` holds the pixels' probabilities.

    Raises:
        As `GaussianEncoder`, of which it is the mirror image.

    Used in chapters 1 and 2.

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
        return Independent(Bernoulli(logits=self.logits(self.hidden(z)), validate_args=False), 1)


class VAE(nn.Module):
    """A variational autoencoder with the standard Gaussian as its prior.

    Args:
        encoder: maps images to posteriors over z, e.g. a `GaussianEncoder`.
        decoder: maps z to distributions over images, e.g. a `BernoulliDecoder`. Both have a
            `latent_dim`, the length of z.

    Raises:
        ValueError: if the encoder's z is not as long as the decoder's.

    Used in chapters 1 and 2. Source: Kingma and Welling (2014), https://arxiv.org/abs/1312.6114.

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
    def prior(self) -> Independent:
        """`p(z) = N(0, I)`, on the device and in the dtype of the model."""
        return Independent(Normal(self.prior_mu, torch.ones_like(self.prior_mu)), 1)

    def terms(
        self,
        x: Tensor,
        num_samples: int = 1,
        sample: Callable[[Distribution], Tensor] = lambda q: q.rsample(),
    ) -> tuple[Tensor, Tensor]:
        """The ELBO's two terms for each image, in nats: `E_q[log p(x|z)]` and `KL(q(z|x) ‖ p(z))`.

        Args:
            x: images, shape `[batch, pixels]`.
            num_samples: K, over which the first term is averaged. The second is exact.
            sample: draws z from the posterior. `lambda q: q.sample()` is the blocked encoder of
                chapter 1: same numbers, no gradient.

        Returns:
            Two tensors of shape `[batch]`.

        Raises:
            TypeError: if `x` is not a floating-point tensor, or `num_samples` not an int.
            ValueError: if `x` does not fit the encoder, or holds what the decoder's distribution
                gives no probability to (grey pixels, for a Bernoulli).
        """
        check_count("num_samples", num_samples)
        posterior = self.encoder(x)
        z = sample(posterior.expand((num_samples, *posterior.batch_shape)))
        likelihood = self.decoder(z)
        if not likelihood.support.check(x).all():
            raise ValueError(
                f"x must lie in the support of the decoder's distribution, {likelihood.support}, "
                f"got values from {x.min():g} to {x.max():g}: binarize the images, "
                "as load_digits(binarize=True) does"
            )
        return likelihood.log_prob(x).mean(0), kl_divergence(posterior, self.prior)

    def elbo(
        self,
        x: Tensor,
        num_samples: int = 1,
        sample: Callable[[Distribution], Tensor] = lambda q: q.rsample(),
    ) -> Tensor:
        """The evidence lower bound `E_q[log p(x|z)] - KL(q(z|x) ‖ p(z))` of each image, in nats.

        Arguments and errors are those of `terms`; the shape of the result is `[batch]`.
        """
        reconstruction, kl = self.terms(x, num_samples, sample)
        return reconstruction - kl


def digits_vae(latent_dim: int = 8, hidden_dim: int = 200) -> VAE:
    """The VAE of chapters 1 and 2, for 8×8 images; its weights come from the global generator.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <...>
    >>> sum(weights.numel() for weights in digits_vae().parameters())
    30880
    """
    return VAE(
        GaussianEncoder(64, hidden_dim, latent_dim), BernoulliDecoder(latent_dim, hidden_dim, 64)
    )


@dataclass(frozen=True)
class History:
    """What `train` did: one entry per finished epoch, in nats per image.

    `elbo`, `reconstruction` and `kl` average over the epoch, while the weights still move;
    `held_out` is the ELBO on the validation images at the end of each epoch (empty without them).
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    held_out: Tensor
    seconds: float
    interrupted: bool


@dataclass(frozen=True)
class HeldOut:
    """A mean ELBO in nats per image, and its standard error over the images."""

    mean: float
    standard_error: float

    def __str__(self):
        return f"{self.mean:.2f} ± {self.standard_error:.2f} nats per image"


def train(
    vae: VAE,
    images: Tensor,
    *,
    epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    sample: Callable[[Distribution], Tensor] = lambda q: q.rsample(),
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
        kl_weight: 1 maximizes the ELBO, 0 the reconstruction alone (chapter 1).
        validation: images held out, shape `[m, pixels]`, for `History.held_out`.
        seed: of batches and noise. The global generator is left as it was.
        progress: whether to show a bar with the current ELBO; TQDM_DISABLE=1 in the environment
            hides it, too.

    Returns:
        A `History`.

    Raises:
        TypeError: if images are not floating-point tensors, or counts not ints.
        ValueError: if images do not fit the model, or a number is out of range.
        FloatingPointError: if the loss or a gradient is not finite any more. The weights are then
            those of the last step at which the loss was.

    Used in chapters 1 and 2.

    >>> history = train(digits_vae(), torch.ones(8, 64), epochs=2, progress=False)
    >>> history.elbo.shape, history.interrupted
    (torch.Size([2]), False)
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    for name, value, low in (("learning_rate", learning_rate, 1e-12), ("kl_weight", kl_weight, 0)):
        if not low <= value < float("inf"):
            raise ValueError(f"{name} must be finite and at least {low:g}, got {value}")
    evaluate(vae, images, num_samples=1)  # checks every image before the first step
    if validation is not None:
        evaluate(vae, validation, num_samples=1)

    optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate)
    last_finite = _Snapshot(vae)
    done: list[tuple[float, ...]] = []
    steps, interrupted = 0, False
    start = time.perf_counter()
    with _seeded(seed, images.device), _one_thread_if_small(vae):
        # tqdm heeds TQDM_DISABLE in a terminal, but not in a notebook.
        silent = not progress or bool(os.environ.get("TQDM_DISABLE"))
        bar = trange(epochs, desc="Training", unit="epoch", disable=silent)
        try:
            vae.train()
            for epoch in bar:
                total = torch.zeros(2, dtype=images.dtype, device=images.device)
                order = torch.randperm(len(images), device=images.device)
                for chosen in order.split(batch_size):
                    steps += 1
                    total += _step(vae, images[chosen], optimizer, last_finite, sample, kl_weight)
                reconstruction, kl = (total / len(images)).tolist()
                values = (reconstruction - kl, reconstruction, kl)
                if validation is not None:
                    values += (evaluate(vae, validation, num_samples=1, seed=epoch).mean,)
                done.append(values)
                bar.set_postfix(ELBO=f"{values[0]:.2f} nats")
        except KeyboardInterrupt:
            interrupted = True
        except ValueError as error:  # of numbers: everything else was checked before
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


@torch.no_grad()
def evaluate(vae: VAE, images: Tensor, num_samples: int = 100, seed: int = 0) -> HeldOut:
    """The mean ELBO of `images` and its standard error over them.

    Args:
        vae: left as it is, training mode included.
        images: shape `[n, pixels]`.
        num_samples: K, posterior samples per image.
        seed: of the noise. The global generator is left as it was.

    Returns:
        A `HeldOut`: `.mean` and `.standard_error`, in nats per image.

    Raises:
        As `VAE.terms`.

    Used in chapters 1 and 2.

    >>> evaluate(digits_vae(), torch.ones(8, 64)).mean < -35
    True
    """
    check_float(images=images)
    if images.ndim != 2:
        raise ValueError(f"images must have shape [n, pixels], got {list(images.shape)}")
    was_training = vae.training
    vae.eval()
    try:
        with _seeded(seed, images.device), _one_thread_if_small(vae):
            elbo = torch.cat([vae.elbo(chunk, num_samples) for chunk in images.split(512)])
    finally:
        vae.train(was_training)
    spread = elbo.std().item() if len(elbo) > 1 else float("nan")
    return HeldOut(elbo.mean().item(), spread / len(elbo) ** 0.5)


def _step(
    vae: VAE,
    batch: Tensor,
    optimizer: torch.optim.Optimizer,
    last_finite: "_Snapshot",
    sample: Callable[[Distribution], Tensor],
    kl_weight: float,
) -> Tensor:
    """One step of the optimizer; returns the batch's two terms, summed over its images."""
    reconstruction, kl = vae.terms(batch, sample=sample)
    loss = (kl_weight * kl - reconstruction).mean()
    optimizer.zero_grad()
    loss.backward()
    slopes = [w.grad.abs().max() for w in vae.parameters() if w.grad is not None]
    if not torch.stack([loss.detach(), *slopes]).isfinite().all():
        raise ValueError(f"the loss is {loss.item():g}, its largest slope {max(slopes):g}")
    last_finite.keep()
    optimizer.step()
    return torch.stack([reconstruction.detach().sum(), kl.detach().sum()])


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


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        check_count(name, size)


def _check_input(name: str, x: Tensor, layer: nn.Linear) -> None:
    check_float(**{name: x})
    check_alike(weights=layer.weight, **{name: x})
    if x.ndim == 0 or x.shape[-1] != layer.in_features:
        raise ValueError(
            f"{name} must have shape [..., {layer.in_features}], got {list(x.shape)}: "
            "flatten images with x.flatten(1)"
        )
