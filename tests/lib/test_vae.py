"""The VAE: its terms against independent routes, its training, and how it fails."""

import contextlib
import copy
import inspect
import math
import signal
import time
import warnings
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal
from torch.nn.utils import parameters_to_vector
from tqdm import tqdm

import reparam.vae as vae_module
from reparam.data import load_digits
from reparam.estimators import Constant, GumbelSoftmax, ScoreFunction
from reparam.flows import RadialFlow
from reparam.gaussian import full_covariance_kl, gaussian_kl
from reparam.vae import (
    VAE,
    BernoulliDecoder,
    FlowEncoder,
    FlowVAE,
    FullCovarianceEncoder,
    GaussianEncoder,
    QuantizedVAE,
    VectorQuantizer,
    digits_vae,
    discrete_digits_vae,
    evaluate,
    flow_digits_vae,
    full_covariance_digits_vae,
    hybrid_digits_vae,
    log_likelihood,
    quantized_digits_vae,
    train,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small_vae(dtype=torch.float32) -> VAE:
    torch.manual_seed(0)
    return VAE(GaussianEncoder(6, 16, 2), BernoulliDecoder(2, 16, 6)).to(dtype)


def small_flow_vae() -> FlowVAE:
    torch.manual_seed(0)
    return FlowVAE(FlowEncoder(6, 16, [RadialFlow(2)]), BernoulliDecoder(2, 16, 6))


def images(n: int = 40, dtype=torch.float32) -> torch.Tensor:
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.4).to(dtype)


# What it computes


def test_the_terms_equal_formulas_written_out_by_hand():
    vae, x = small_vae(torch.float64), images(dtype=torch.float64)
    torch.manual_seed(3)
    reconstruction, kl = vae.terms(x)

    h = torch.relu(x @ vae.encoder.hidden[0].weight.T + vae.encoder.hidden[0].bias)
    mu, log_var = vae.encoder.mu(h), vae.encoder.log_var(h)
    torch.manual_seed(3)
    z = mu + torch.exp(log_var / 2) * torch.randn(1, *mu.shape, dtype=mu.dtype)[0]
    hidden = torch.relu(vae.decoder.hidden[0](z))
    p = torch.sigmoid(vae.decoder.logits(hidden))
    by_hand = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(reconstruction, by_hand)
    torch.testing.assert_close(kl, gaussian_kl(mu, log_var))


def test_the_elbo_lies_below_the_log_likelihood_and_touches_it_at_the_true_posterior():
    """log p(x) by quadrature over a 2-D z; the gap is KL(q ‖ p(z|x)), by the same quadrature."""
    vae, x = small_vae(torch.float64), images(4, dtype=torch.float64)
    axis = torch.linspace(-9, 9, 401, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    with torch.no_grad():
        log_joint = vae.decoder(z.unsqueeze(1)).log_prob(x) + vae.prior.log_prob(z).unsqueeze(1)
        log_p = torch.logsumexp(log_joint, 0) + cell.log()
        posterior = vae.encoder(x)
        log_q = posterior.log_prob(z.unsqueeze(1))
        gap = (log_q.exp() * (log_q - (log_joint - log_p))).sum(0) * cell
        samples = 20_000
        elbo = vae.elbo(x, samples)
        draws = vae.decoder(posterior.sample((samples,))).log_prob(x)
    assert (gap > 0).all()
    error = draws.std(0) / math.sqrt(samples)
    # Four two-sided z-tests at 5.5 standard errors: false alarm 2e-7. An ELBO without the KL, or
    # with half of it, is off by more than 20 of them.
    assert ((elbo - (log_p - gap)).abs() < 5.5 * error).all()
    _, kl = vae.terms(x)
    assert (0.5 * kl > 11 * error).all()


def one_dimensional_vae() -> tuple[VAE, torch.Tensor, torch.Tensor]:
    """A model with one latent number, all 64 images of six pixels, and `log p(x)` by quadrature."""
    vae = VAE(GaussianEncoder(6, 16, 1), BernoulliDecoder(1, 16, 6)).double()
    with torch.no_grad():
        vae.decoder.logits.weight.mul_(4)  # so that the code matters
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6)
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        log_joint = vae.decoder(z.unsqueeze(1)).log_prob(x) + vae.prior.log_prob(z).unsqueeze(1)
    log_p = log_joint.logsumexp(0) + (z[1, 0] - z[0, 0]).log()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
    return vae, x, log_p


def test_the_importance_weighted_bound_tends_to_the_log_likelihood():
    """Its error is at most a multiple of the weights' relative variance, over K."""
    vae, x, log_p = one_dimensional_vae()
    gaps = []
    for num_samples in (1, 10, 100):
        bounds = torch.stack(
            [log_likelihood(vae, x, num_samples, seed, progress=False).each for seed in range(200)]
        )
        gaps.append((log_p - bounds.mean(0)).mean().item())
        errors = bounds.mean(1).std() / 200**0.5
        assert gaps[-1] > -6 * errors  # below log p(x) in the mean
    assert gaps[0] > 4 * gaps[1] > 16 * gaps[2]  # like 1/K in the end
    assert gaps[2] < 0.01
    elbo = evaluate(vae, x, num_samples=2000).mean
    assert gaps[0] == pytest.approx(log_p.mean().item() - elbo, rel=0.1)


def test_the_bound_has_the_gradient_of_that_name():
    vae, x = small_vae(torch.float64), images(5, dtype=torch.float64)
    slopes = {}
    for name in ("pathwise", "dreg"):
        torch.manual_seed(4)
        vae.zero_grad()
        vae.importance_weighted(x, 8, name).sum().backward()
        slopes[name] = [parameters_to_vector(p.grad for p in part.parameters()).clone()
                        for part in (vae.encoder, vae.decoder)]  # fmt: skip
    torch.testing.assert_close(slopes["pathwise"][1], slopes["dreg"][1])
    assert (slopes["pathwise"][0] - slopes["dreg"][0]).abs().max() > 0.01
    with pytest.raises(ValueError, match="knows the gradients"):
        vae.importance_weighted(x, 8, "reinforce")


def test_the_log_likelihood_is_looked_at_from_outside():
    vae, x = small_vae(), images(30)
    for mode in (True, False):
        vae.train(mode)
        state = torch.get_rng_state()
        result = log_likelihood(vae, x, 50, progress=False)
        assert vae.training is mode and torch.equal(state, torch.get_rng_state())
    assert result.mean == pytest.approx(result.each.mean().item())
    assert result.standard_error == pytest.approx(result.each.std().item() / 30**0.5)
    assert result.each.shape == (30,) and "each" not in repr(result)
    assert all(p.grad is None for p in vae.parameters())
    for arguments, error, message in (
        ((x, 0), ValueError, "num_samples"),
        ((x, 2.0), TypeError, "num_samples"),
        ((x[0], 5), ValueError, r"\[n, pixels\]"),
        ((x / 2, 5), ValueError, "binarize"),
        ((x.long(), 5), TypeError, "images"),
    ):
        with pytest.raises(error, match=message):
            log_likelihood(vae, *arguments)


def test_what_train_and_evaluate_return_stays_as_it_was():
    results = (
        train(small_vae(), images(), epochs=1, progress=False),
        evaluate(small_vae(), images()),
    )
    for result in results:
        with pytest.raises(FrozenInstanceError):
            result.elbo = result.mean = 0.0


def test_a_bound_of_many_samples_takes_as_many_images_as_fit_and_at_least_one(monkeypatch):
    monkeypatch.setattr("reparam.vae._SAMPLES_AT_ONCE", 12)
    vae, sizes = small_vae(), []
    vae.encoder.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    for k, expected in ((4, [3, 3, 1]), (13, [1] * 7)):
        sizes.clear()
        log_likelihood(vae, images(7), k, progress=False)
        assert sizes == expected


def test_the_bar_of_the_log_likelihood_can_be_hidden(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    log_likelihood(small_vae(), images(), 2)
    assert "Evaluating: 100%" in capsys.readouterr().err
    log_likelihood(small_vae(), images(), 2, progress=False)
    assert capsys.readouterr().err == ""


def test_a_full_covariance_encoder_without_its_triangle_is_the_gaussian_encoder():
    full = FullCovarianceEncoder(6, 16, 2).double()
    diagonal = GaussianEncoder(6, 16, 2).double()
    with torch.no_grad():
        full.factor.weight.mul_(30)
        full.hidden.load_state_dict(diagonal.hidden.state_dict())
        full.mu.load_state_dict(diagonal.mu.state_dict())
        diagonal.log_var.weight.copy_(full.factor.weight[:2])
    x, z = images(7, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    q, simple = full(x), diagonal(x)
    L = q.scale_tril
    torch.testing.assert_close(q.mean, simple.mean)
    assert (L[:, 1, 0].abs() > 1e-3).all() and (L[:, 0, 1] == 0).all()
    torch.testing.assert_close(q.covariance_matrix, L @ L.mT)
    kl = torch.distributions.kl_divergence(q, full.prior)
    torch.testing.assert_close(kl, full_covariance_kl(q.mean, L))
    with torch.no_grad():
        full.factor.weight[2].zero_()
    # Both take raw numbers for log-variances; the full one bounds them, softly.
    torch.testing.assert_close(full(x).log_prob(z), simple.log_prob(z), atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_full_covariance_vae_learns_correlated_codes(dtype):
    vae = VAE(FullCovarianceEncoder(6, 16, 2), BernoulliDecoder(2, 16, 6)).to(dtype)
    before = evaluate(vae, images(200, dtype)).mean
    history = train(vae, images(200, dtype), epochs=30, learning_rate=1e-2)
    assert history.elbo[-1] > before and vae.prior.sample().dtype == dtype
    assert vae.encoder(images(5, dtype)).scale_tril[:, 1, 0].abs().max() > 1e-3
    assert full_covariance_digits_vae().encoder.latent_dim == 8


def test_more_samples_average_the_reconstruction_only():
    vae, x = small_vae(), images(3)
    torch.manual_seed(5)
    many, kl = vae.terms(x, num_samples=7)
    torch.manual_seed(5)
    z = vae.encoder(x).rsample((7,))
    one_by_one = torch.stack([vae.decoder(code).log_prob(x) for code in z])
    torch.testing.assert_close(many, one_by_one.mean(0))
    torch.testing.assert_close(kl, vae.terms(x)[1])


@pytest.mark.parametrize(
    "make",
    [
        digits_vae,
        full_covariance_digits_vae,
        lambda **sizes: flow_digits_vae("radial", 2, **sizes),
        discrete_digits_vae,
        hybrid_digits_vae,
        quantized_digits_vae,
    ],
)
def test_images_of_another_size(make):
    vae, x = make(hidden_dim=5, pixels=9), images(4).repeat(1, 2)[:, :9]
    assert evaluate(vae, x).each.shape == (4,) and vae.decoder.logits.out_features == 9


@pytest.mark.parametrize("size", ["variables", "codes", "dim", "hidden_dim", "pixels"])
def test_bad_sizes_of_a_quantized_model(size):
    for bad, error in ((0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError)):
        with pytest.raises(error, match=f"{size} must be"):
            quantized_digits_vae(**{size: bad})


def test_posteriors_start_near_unit_variance_on_the_digits():
    sigma = digits_vae().encoder(load_digits().train).stddev
    assert sigma.min() > 0.8 and sigma.max() < 1.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_and_prior_follow_the_model(dtype):
    vae = small_vae(dtype)
    assert vae.prior.sample().dtype == dtype
    assert vae.elbo(images(dtype=dtype)).dtype == dtype
    assert train(vae, images(dtype=dtype), epochs=1).elbo.isfinite().all()
    assert "prior_mu" not in vae.state_dict()


@pytest.mark.gpu
def test_on_a_gpu():
    vae, x = small_vae().cuda(), images().cuda()
    state = torch.cuda.get_rng_state()
    assert train(vae, x, epochs=2, validation=x).held_out.isfinite().all()
    assert torch.equal(state, torch.cuda.get_rng_state())
    with pytest.raises(ValueError, match="device"):
        vae.elbo(x.cpu())


# Under autocast (chapter 4)


def test_what_heads_give_is_wide_under_autocast(device):
    vae, x = small_vae().to(device), images().to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        posterior = vae.encoder(x)
        likelihood = vae.decoder(posterior.rsample())
        assert vae.encoder.mu(vae.encoder.hidden(x)).dtype == torch.bfloat16
    of_heads = (posterior.mean, posterior.stddev, likelihood.base_dist.logits)
    assert all(given.dtype == torch.float32 for given in of_heads)


@pytest.mark.parametrize(
    ("make", "estimator"),
    [
        (digits_vae, None),
        (lambda: flow_digits_vae("planar", 2, amortized=True), None),
        (lambda: flow_digits_vae("iaf", 2, amortized=True), None),
        (discrete_digits_vae, GumbelSoftmax()),
        (hybrid_digits_vae, None),
        (quantized_digits_vae, None),
    ],
    ids=["gaussian", "planar", "iaf", "discrete", "hybrid", "quantized"],
)
def test_training_under_autocast(make, estimator, device):
    """As good as without it, although autocast keeps its copies of the weights, stale ones too."""
    x, elbos = load_digits().train[:300].to(device), []
    for enabled in (False, True):
        torch.manual_seed(0)
        vae = make().to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=enabled):
            train(vae, x, epochs=5, estimator=estimator, progress=False)
        elbos.append(evaluate(vae, x).mean)
    assert abs(elbos[0] - elbos[1]) < 0.2, elbos


def test_evaluation_under_autocast_sees_the_weights_as_they_are(device):
    vae, x = small_vae().to(device), images().to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        before = evaluate(vae, x).mean
        with torch.no_grad():
            vae.decoder.logits.weight += 1
        after = evaluate(vae, x).mean
    with torch.autocast(device, dtype=torch.bfloat16):
        assert before != after == evaluate(vae, x).mean


# The blocked encoder of chapter 1 (correction C20)


def test_a_blocked_sample_leaves_only_the_kl_gradient():
    vae, x = small_vae(), images()
    reconstruction, kl = vae.terms(x, sample=lambda q: q.sample())
    reconstruction.sum().backward()
    assert all(weights.grad is None for weights in vae.encoder.parameters())
    assert all(weights.grad is not None for weights in vae.decoder.parameters())
    kl.sum().backward()
    assert any(weights.grad.abs().max() > 0 for weights in vae.encoder.parameters())


def test_without_the_kl_a_blocked_encoder_does_not_move_at_all():
    vae = small_vae()
    encoder = parameters_to_vector(vae.encoder.parameters()).clone()
    decoder = parameters_to_vector(vae.decoder.parameters()).clone()
    train(vae, images(), epochs=3, sample=lambda q: q.sample(), kl_weight=0.0)
    assert torch.equal(parameters_to_vector(vae.encoder.parameters()), encoder)
    assert not torch.equal(parameters_to_vector(vae.decoder.parameters()), decoder)


def test_the_history_reports_the_elbo_whatever_the_weight_of_the_kl():
    history = train(small_vae(), images(), epochs=2, kl_weight=0.0)
    torch.testing.assert_close(history.elbo, history.reconstruction - history.kl)
    assert (history.kl > 0).all()


# Training


def test_training_learns_and_reports_every_epoch():
    x = images(200)
    x[:, 3:] = x[:, :3]  # three coins, each shown twice: worth 3 H(0.4) = 2.02 nats, not 4.04
    vae = small_vae()
    before = evaluate(vae, x).mean
    history = train(vae, x, epochs=80, learning_rate=1e-2, validation=x)
    assert before < -3.9 and history.held_out[-5:].mean() > -3.5
    assert [len(series) for series in (history.elbo, history.kl, history.held_out)] == [80] * 3
    assert history.seconds > 0 and not history.interrupted
    assert len(train(vae, x, epochs=1).held_out) == 0


def test_the_epochs_average_weighs_images_not_batches():
    """With a learning rate that moves nothing, the average is that of all images."""
    vae, x = small_vae(), images(33)
    history = train(vae, x, epochs=1, batch_size=32, learning_rate=1e-12)
    with torch.no_grad():
        kl = vae.terms(x)[1].mean().item()
    assert history.kl.item() == pytest.approx(kl, rel=1e-5)


def test_a_seed_fixes_everything_and_the_global_stream_stays_as_it_was():
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, second, third = (
        train(small_vae_here, images(), epochs=2, seed=seed, validation=images())
        for small_vae_here, seed in ((same_start(), 4), (same_start(), 4), (same_start(), 5))
    )
    assert torch.equal(first.elbo, second.elbo) and torch.equal(first.held_out, second.held_out)
    assert not torch.equal(first.elbo, third.elbo)
    assert torch.equal(torch.get_rng_state(), state)


def same_start() -> VAE:
    with torch.random.fork_rng([]):
        return small_vae()


def test_evaluation_leaves_mode_and_stream_alone_and_measures_its_error():
    vae, x = small_vae(), images(1000)
    for mode in (True, False):
        vae.train(mode)
        state = torch.get_rng_state()
        result = evaluate(vae, x, num_samples=20)
        assert vae.training is mode and torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        elbo = vae.elbo(x, 2000)
    assert result.mean == pytest.approx(elbo.mean().item(), abs=0.05)
    assert result.standard_error == pytest.approx(elbo.std().item() / 1000**0.5, rel=0.05)
    assert str(result) == f"{result.mean:.2f} ± {result.standard_error:.2f} nats per image"


def test_the_digits_reach_their_elbo_quickly():
    """Ten epochs; the full hundred is in test_long_runs. An untrained model has -44.5."""
    digits = load_digits()
    vae = digits_vae()
    train(vae, digits.train, epochs=10)
    assert evaluate(vae, digits.validation, num_samples=10).mean > -22.5


def test_progress_bar_shows_the_elbo(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    history = train(small_vae(), images(), epochs=2)
    assert f"ELBO={history.elbo[-1]:.2f} nats" in capsys.readouterr().err
    train(small_vae(), images(), epochs=2, progress=False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    train(small_vae(), images(), epochs=2)
    assert capsys.readouterr().err == ""


def test_small_models_train_on_one_thread_and_give_the_others_back():
    threads, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        train(
            small_vae(),
            images(),
            epochs=1,
            sample=lambda q: seen.append(torch.get_num_threads()) or q.rsample(),
        )
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


# Ctrl-C and divergence


@pytest.fixture
def own_interrupts():
    """Python's own answer to Ctrl-C: what a shell starts in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before or signal.default_int_handler)


def test_ctrl_c_keeps_what_was_learned(capsys, own_interrupts):
    vae, draws = small_vae(), 0
    start = parameters_to_vector(vae.parameters()).clone()

    def interrupting(q):
        nonlocal draws
        draws += 1
        if draws == 8:  # 40 images in batches of 16: the second step of the third epoch
            signal.raise_signal(signal.SIGINT)
        return q.rsample()

    history = train(vae, images(), epochs=50, batch_size=16, sample=interrupting)
    assert history.interrupted and len(history.elbo) == 2
    assert not torch.equal(parameters_to_vector(vae.parameters()), start)
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["Interrupted in epoch 3 of 50: the model keeps what it has learned so far."]


def test_ctrl_c_in_the_first_epoch_gives_an_empty_history():
    def interrupting(q):
        raise KeyboardInterrupt

    history = train(small_vae(), images(), epochs=5, sample=interrupting, validation=images())
    assert history.interrupted
    assert [len(series) for series in (history.elbo, history.kl, history.held_out)] == [0] * 3


def test_divergence_names_the_step_and_restores_the_last_finite_weights():
    vae, draws, seen = small_vae(), 0, []

    def poisoned(q):
        nonlocal draws
        draws += 1
        seen.append(parameters_to_vector(vae.parameters()).detach().clone())
        return q.rsample() * (math.nan if draws == 6 else 1.0)

    with pytest.raises(FloatingPointError, match=r"step 6, in epoch 2.*NaN.*learning_rate"):
        train(vae, images(), batch_size=10, sample=poisoned)
    assert torch.equal(parameters_to_vector(vae.parameters()), seen[4])  # those of step 5


@pytest.mark.parametrize("learning_rate", [1e3, 1e8, 1e30])
def test_a_huge_learning_rate_ends_in_one_clear_error_with_finite_weights(learning_rate):
    vae = small_vae()
    with pytest.raises(FloatingPointError, match="diverged at step"):
        train(vae, images(), epochs=20, learning_rate=learning_rate)
    assert parameters_to_vector(vae.parameters()).isfinite().all()
    assert vae.elbo(images()).isfinite().all()


def test_an_infinite_loss_is_caught_before_it_reaches_the_weights():
    class Overflowing(GaussianEncoder):
        def forward(self, x):
            q = super().forward(x)
            return Independent(Normal(q.mean, q.stddev * 1e30, validate_args=False), 1)

    vae = VAE(Overflowing(6, 16, 2), BernoulliDecoder(2, 16, 6))
    with pytest.raises(FloatingPointError, match=r"step 1.*loss is"):
        train(vae, images())
    assert parameters_to_vector(vae.parameters()).isfinite().all()


# Bad input


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 5), ValueError, r"shape \[..., 6\], got \[3, 5\]"),
        (torch.zeros(0, 6), ValueError, "empty"),
        (torch.tensor(1.0), ValueError, "shape"),
        (torch.zeros(3, 6, dtype=torch.long), TypeError, "floating-point"),
        (torch.zeros(3, 6, dtype=torch.float64), ValueError, "dtype"),
        (torch.zeros(3, 6, device="meta"), ValueError, "device"),
        (torch.full((3, 6), math.nan), ValueError, "NaN"),
        ([[0.0] * 6], TypeError, "tensor"),
        (torch.full((3, 6), 0.5), ValueError, "binarize"),
    ],
)
def test_bad_images(x, error, message):
    for call in (
        lambda: small_vae().elbo(x),
        lambda: train(small_vae(), x, epochs=1),
        lambda: evaluate(small_vae(), x),
    ):
        with pytest.raises(error, match=message):
            call()


def test_one_grey_image_among_many_is_found_before_training():
    x = images(100)
    x[77] = 0.25
    vae = small_vae()
    before = parameters_to_vector(vae.parameters()).clone()
    with pytest.raises(ValueError, match="binarize"):
        train(vae, x, batch_size=10)
    with pytest.raises(ValueError, match="binarize"):
        train(vae, images(), validation=x)
    assert torch.equal(parameters_to_vector(vae.parameters()), before)


@pytest.mark.parametrize("z", [torch.zeros(3, 3), torch.full((3, 2), math.nan), torch.zeros(0, 2)])
def test_bad_codes(z):
    with pytest.raises(ValueError, match=r"^z "):
        BernoulliDecoder(2, 4, 6)(z)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"epochs": 1.5}, TypeError, "epochs"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate"),
        ({"learning_rate": "1e-3"}, TypeError, "learning_rate must be a number, got str"),
        ({"kl_weight": None}, TypeError, "kl_weight must be a number"),
        ({"kl_weight": -1.0}, ValueError, "kl_weight"),
        ({"seed": -1}, ValueError, "seed"),
        ({"validation": torch.zeros(0, 6)}, ValueError, "empty"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        train(small_vae(), images(), **options)


@pytest.mark.parametrize(
    ("sample", "got"),
    [
        (lambda q: q.rsample()[0], r"\[40, 2\]"),
        (lambda q: q.rsample((3,)), r"\[3, 2, 40, 2\]"),
        (lambda q: torch.zeros(2), r"\[2\]"),
        (lambda q: 0.0, "float"),
    ],
)
def test_samples_of_another_shape(sample, got):
    for vae in (small_vae(), small_flow_vae()):
        with pytest.raises(ValueError, match=rf"shape \[2, 40, 2\], got {got}"):
            vae.elbo(images(), 2, sample=sample)


def test_an_estimate_of_another_shape():
    with pytest.raises(ValueError, match=r"batch_shape \(40,\), got Tensor of \(\)"):
        small_vae().elbo(images(), estimator=lambda f, q, n: f(q.rsample((n,))).mean())
    with pytest.raises(ValueError, match=r"batch_shape \(40,\), got float"):
        small_vae().elbo(images(), estimator=lambda f, q, n: 1.0)


def test_what_does_not_fit_the_last_batch_is_no_divergence():
    vae = small_vae()
    before = parameters_to_vector(vae.parameters()).clone()
    with pytest.raises(ValueError, match=r"a baseline must fit .*\(1, 8\)"):
        train(vae, images(40), batch_size=32, estimator=ScoreFunction(Constant(torch.zeros(32))))
    assert torch.equal(parameters_to_vector(vae.parameters()), before)
    with pytest.raises(TypeError, match="validation must be a tensor, got ndarray"):
        train(vae, images(), validation=images().numpy())
    with pytest.raises(ValueError, match=r"validation must have shape \[n, pixels\]"):
        train(vae, images(), validation=images()[0])
    with pytest.raises(ValueError) as error:
        vae.decoder(torch.zeros(5, 3))
    assert "flatten" not in str(error.value)


def test_each_part_keeps_its_mode():
    vae = small_vae().train()
    vae.encoder.eval()
    evaluate(vae, images(), 1)
    log_likelihood(vae, images(), 2, progress=False)
    assert vae.training and vae.decoder.training and not vae.encoder.training


def test_an_evaluation_with_many_samples_takes_fewer_images_at_once(monkeypatch):
    monkeypatch.setattr("reparam.vae._SAMPLES_OF_AN_ELBO", 33)
    vae, sizes = small_vae(), []
    vae.encoder.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    for num_samples in (1, 11, 34):
        evaluate(vae, images(7), num_samples)
    assert sizes == [7, 3, 3, 1, *[1] * 7]


@pytest.mark.parametrize("make", [small_vae, small_flow_vae])
def test_gradients_of_each_image(make):
    vae, x = make(), images(5)

    class OfOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self, image):
            x, at = image.unsqueeze(0), torch.tensor([0.3, -0.7])
            return self.vae.elbo(x, sample=lambda q: at.expand(1, 1, 2)).squeeze(0)

    weights = dict((module := OfOne()).named_parameters())
    of_one = torch.func.grad(lambda w, image: torch.func.functional_call(module, w, (image,)))
    found = torch.func.vmap(of_one, (None, 0))(weights, x)
    for i in range(5):
        for name, slope in of_one(weights, x[i]).items():
            torch.testing.assert_close(found[name][i], slope)


def test_bad_sizes_and_counts():
    with pytest.raises(ValueError, match="latent_dim"):
        GaussianEncoder(6, 16, 0)
    with pytest.raises(TypeError, match="hidden_dim"):
        BernoulliDecoder(2, 16.0, 6)
    with pytest.raises(ValueError, match="one latent_dim, got 3 and 2"):
        VAE(GaussianEncoder(6, 16, 3), BernoulliDecoder(2, 16, 6))
    with pytest.raises(ValueError, match="num_samples"):
        small_vae().elbo(images(), 0)
    with pytest.raises(ValueError, match=r"\[n, pixels\]"):
        evaluate(small_vae(), torch.zeros(2, 3, 6))


def test_an_encoder_of_ones_own_works():
    class Linear(nn.Module):
        latent_dim = 2

        def __init__(self):
            super().__init__()
            self.mu = nn.Linear(6, 2)

        def forward(self, x):
            return Independent(Normal(self.mu(x), 1.0), 1)

    history = train(VAE(Linear(), BernoulliDecoder(2, 16, 6)), images(), epochs=2)
    assert history.elbo.isfinite().all()


# What the chapters rely on without saying it


@pytest.mark.parametrize(
    ("function", "unless_told"),
    [
        (digits_vae, dict(latent_dim=8, hidden_dim=200, pixels=64)),
        (full_covariance_digits_vae, dict(latent_dim=8, hidden_dim=200, pixels=64)),
        (discrete_digits_vae, dict(variables=8, classes=8, hidden_dim=200, pixels=64)),
        (hybrid_digits_vae, dict(classes=10, continuous_dim=4, hidden_dim=200, pixels=64)),
        (quantized_digits_vae, dict(variables=8, codes=8, dim=4, hidden_dim=200, pixels=64)),
        (train, dict(epochs=100, batch_size=64, learning_rate=2e-3, num_samples=1, seed=0)),
        (evaluate, dict(num_samples=100, seed=0)),
        (log_likelihood, dict(num_samples=500, seed=0)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_done_unless_told(function, unless_told):
    """Chapters and stored runs compare models of these sizes, trained in this way."""
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in unless_told} == unless_told


# Each mistake by its name, wherever it is made


@pytest.mark.parametrize("sample", [None, lambda q: q.rsample()])
def test_no_samples_are_refused_by_every_way_in(sample):
    ways = [small_vae().terms, small_vae().elbo, small_flow_vae().terms]
    for way in ways:
        for number, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError)):
            with pytest.raises(error, match=r"num_samples must be .*, got"):
                way(images(), number, sample)
    for look in (evaluate, log_likelihood, lambda *x: train(*x[:2], num_samples=x[2])):
        for number, error in ((0, ValueError), (2.0, TypeError)):
            vae = small_vae().eval()
            with pytest.raises(error, match=r"num_samples must be .*, got"):
                look(vae, images(), number)
            assert not vae.training


def test_a_full_covariance_encoder_looks_at_its_images():
    encoder = FullCovarianceEncoder(6, 16, 2)
    for bad, error, says in (
        (torch.zeros(3, 5), ValueError, r"\[\.\.\., 6\]"),
        (torch.full((3, 6), math.nan), ValueError, "NaN"),
        (torch.zeros(3, 6, dtype=torch.int64), TypeError, "floating-point"),
    ):
        with pytest.raises(error, match=says):
            encoder(bad)


def test_laws_take_what_lies_outside_them():
    """Checks of torch would cost each step: a value that cannot come has a number, no error."""
    vae = small_vae()
    assert vae.encoder(images(3)).log_prob(torch.full((3, 2), math.nan)).isnan().all()
    assert vae.decoder(torch.zeros(3, 2)).log_prob(torch.full((3, 6), 0.5)).shape == (3,)


# Modes and bars


class Recorded(nn.Module):
    """Remembers the modes it is called in."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(self.training)
        return x


def test_training_and_evaluation_have_their_modes():
    vae, part = small_vae(), Recorded()
    vae.decoder.hidden.append(part)
    for mode in (True, False):
        vae.train(mode)
        part.seen.clear()
        evaluate(vae, images(), num_samples=2)
        log_likelihood(vae, images(), 2, progress=False)
        assert set(part.seen) == {False} and part.training is mode
        part.seen.clear()
        train(vae, images(), epochs=1, batch_size=40, progress=False)
        assert part.seen == [False, True]  # a look at all images, and the one step


class Bar(tqdm):
    was_closed = False

    def close(self):
        self.was_closed = True
        super().close()


@pytest.mark.parametrize("learning_rate", [1e-3, 1e30])
def test_the_bar_is_closed_however_training_ends(learning_rate, monkeypatch):
    bars = []

    def shown(number, **options):
        bars.append(Bar(range(number), **options))
        return bars[-1]

    monkeypatch.setattr(vae_module, "trange", shown)
    with contextlib.suppress(FloatingPointError):
        train(small_vae(), images(), epochs=2, learning_rate=learning_rate, progress=False)
    assert [bar.was_closed for bar in bars] == [True]


# Numbers at their edges


def test_one_image_has_a_mean_and_no_error_of_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = evaluate(small_vae(), images(1), num_samples=2)
    assert math.isfinite(one.mean) and math.isnan(one.standard_error)
    two = evaluate(small_vae(), images(2), num_samples=2)
    apart = (two.each[0] - two.each[1]).abs().item() / 2
    assert two.standard_error == pytest.approx(apart)


def test_the_time_is_that_of_the_training():
    start = time.perf_counter()
    history = train(small_vae(), images(), epochs=2, progress=False)
    assert 0 < history.seconds < time.perf_counter() - start


def test_the_curve_has_one_sample_of_each_validation_image():
    vae, held_out = small_vae(), images(9)
    history = train(vae, images(), epochs=3, validation=held_out, progress=False)
    assert history.held_out[-1].item() == evaluate(vae, held_out, num_samples=1, seed=2).mean


def test_a_step_keeps_no_graph():
    vae, x = small_vae(), images()
    optimizer = torch.optim.Adam(vae.parameters())
    sums = vae_module._step(vae, vae.terms(x), optimizer, vae_module._Snapshot(vae), 1.0)
    assert not sums.requires_grad


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_slope_without_bound_is_caught_on_either_side(side):
    model = nn.Module()
    model.weights = nn.Parameter(torch.tensor([0.0, 1.0]))
    terms = side * model.weights.sqrt().sum().expand(3), torch.zeros(3)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(FloatingPointError, match="its largest slope inf"):
        vae_module._step(model, terms, optimizer, vae_module._Snapshot(model), 1.0)
    assert model.weights.tolist() == [0.0, 1.0]


def test_a_model_that_broke_before_a_shorter_batch_has_diverged():
    """The error that the shorter batch raises is the model's fault, not the batch's."""
    vae = small_vae()
    assert vae_module._is_well(vae, images()) is True
    with pytest.raises(FloatingPointError, match="diverged at step 2"):
        train(vae, images(6), batch_size=4, learning_rate=1e30, progress=False)
    with torch.no_grad():
        vae.encoder.mu.weight.fill_(math.nan)
    assert vae_module._is_well(vae, images()) is False


# Decoders, estimators and types that do not fit


class Bare(BernoulliDecoder):
    """Each pixel for itself."""

    def forward(self, z):
        return super().forward(z).base_dist


@pytest.mark.parametrize("number", [1, 6, 40])
def test_a_decoder_of_something_else_than_one_image(number):
    """Values of pixels would broadcast with images, to a number that looks like an ELBO."""

    def models(decoder):
        layers = nn.Sequential(nn.Linear(6, 2), nn.Unflatten(-1, (2, 1)))
        return (
            VAE(small_vae().encoder, decoder),
            FlowVAE(small_flow_vae().encoder, decoder),
            QuantizedVAE(layers, VectorQuantizer(3, 1), decoder),
        )

    for vae in models(BernoulliDecoder(2, 16, 1)):
        for call in (vae.elbo, lambda x, vae=vae: train(vae, x)):
            with pytest.raises(ValueError, match=r"has event_shape \[1\], and an image .* \[6\]"):
                call(images(number))
    for vae in models(Bare(2, 16, 6)):
        for call in (vae.elbo, lambda x, vae=vae: train(vae, x)):
            with pytest.raises(ValueError, match=r"one (value|number) for each"):
                call(images(number))


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6)])
def test_images_in_any_batch(shape):
    x = torch.ones(shape)
    for vae in (small_vae(), small_flow_vae()):
        assert vae.elbo(x, 3).shape == shape[:-1]


def test_observations_that_are_no_images():
    """One number for each code; and whatever has a support and a log_prob."""

    class Numbers(nn.Module):
        latent_dim = 2

        def forward(self, z):
            return Normal(z.sum(-1), 1.0)

    class Encoder(nn.Module):
        latent_dim = 2

        def __init__(self):
            super().__init__()
            self.inner = GaussianEncoder(1, 4, 2)

        def forward(self, x):
            return self.inner(x.unsqueeze(-1))

    class Likelihood:
        support = torch.distributions.constraints.real

        def __init__(self, mean):
            self.mean = mean

        def log_prob(self, x):
            return -((x - self.mean) ** 2).sum(-1)

    class Own(Numbers):
        def forward(self, z):
            return Likelihood(z.sum(-1, keepdim=True))

    assert VAE(Encoder(), Numbers()).elbo(torch.randn(5), 3).shape == (5,)
    assert VAE(small_vae().encoder, Own()).elbo(images(5), 3).shape == (5,)


def test_a_posterior_without_a_kl():
    with pytest.raises(NotImplementedError, match=r"no KL in closed form.* as FlowVAE \(not VAE\)"):
        VAE(small_flow_vae().encoder, BernoulliDecoder(2, 16, 6)).elbo(images())


def test_an_estimator_that_was_not_made():
    with pytest.raises(TypeError, match=r"got the class ScoreFunction: use ScoreFunction\(\)"):
        train(small_vae(), images(), estimator=ScoreFunction)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_training_turns_gradients_on(off):
    vae = small_vae()
    with off():
        train(vae, images(), epochs=2, progress=False)
    twin = small_vae()
    train(twin, images(), epochs=2, progress=False)
    assert torch.equal(*(parameters_to_vector(each.parameters()) for each in (vae, twin)))


def test_what_does_not_train_may_be_of_any_kind():
    class Encoder(nn.Module):
        latent_dim = 2

        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6).half().requires_grad_(False)
            self.then = GaussianEncoder(6, 16, 2)

        def forward(self, x):
            return self.then(self.first(x.half()).float())

    vae = VAE(Encoder(), BernoulliDecoder(2, 16, 6))
    assert train(vae, images(), epochs=1, progress=False).elbo.isfinite().all()
    with torch.inference_mode():
        vae = small_vae()
    with pytest.raises(ValueError, match=r"made under torch\.inference_mode"):
        train(vae, images())


def test_nothing_to_train():
    with pytest.raises(ValueError, match="no weight of the model wants a gradient"):
        train(small_vae().requires_grad_(False), images())


def test_sixteen_bits():
    """Sums and means of many images in float32; no training in float16, where Adam fails."""
    x, vae = images(1500).bfloat16(), small_vae().bfloat16()
    with torch.no_grad():
        wanted = evaluate(copy.deepcopy(vae).float(), x.float(), num_samples=1).mean
    got = evaluate(vae, x, num_samples=1)
    assert got.mean == pytest.approx(got.each.double().mean().item(), abs=1e-5)
    assert got.mean == pytest.approx(wanted, abs=0.02)
    spread = got.each.double().std().item() / len(x) ** 0.5
    assert got.standard_error == pytest.approx(spread, rel=1e-4)
    history = train(vae, x, epochs=1, learning_rate=1e-12, progress=False)
    assert history.elbo.item() == pytest.approx(wanted, abs=0.05)
    with pytest.raises(ValueError, match=r"Adam divides by 0 in float16.*torch\.autocast"):
        train(small_vae().half(), images().half())
    with pytest.raises(ValueError, match=r"no triangular system in torch\.bfloat16"):
        FullCovarianceEncoder(6, 16, 2).bfloat16()(x)
