"""VAEs with flow posteriors: their terms by quadrature and autograd, training, how they fail."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.func import jacrev, vmap

from reparam.data import load_digits
from reparam.estimators import Pathwise
from reparam.flows import (
    AffineCouplingFlow,
    Flow,
    FlowSequence,
    InverseAutoregressiveFlow,
    PlanarFlow,
    RadialFlow,
    SplineFlow,
)
from reparam.objectives import importance_weighted_bound
from reparam.vae import (
    VAE,
    BernoulliDecoder,
    FlowEncoder,
    FlowVAE,
    GaussianEncoder,
    digits_vae,
    evaluate,
    flow_digits_vae,
    train,
)

KINDS = {
    "planar": {},
    "radial": {},
    "sylvester": {},
    "coupling": {"hidden": (16,)},
    "iaf": {"hidden": (16,)},
    "spline": {"hidden": (16,)},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small_vae(amortized: bool = True, dtype=torch.float64, spread: float = 0.7) -> FlowVAE:
    """Six pixels, two latent variables, three flows that are far from the identity."""
    torch.manual_seed(0)
    context = 16 if amortized else 0
    flows = [PlanarFlow(2, context), RadialFlow(2), PlanarFlow(2, context)]
    vae = FlowVAE(FlowEncoder(6, 16, flows), BernoulliDecoder(2, 16, 6)).to(dtype)
    with torch.no_grad():
        for weights in vae.encoder.flows.parameters():
            weights += spread * torch.randn_like(weights)
    return vae


def images(n: int = 40, dtype=torch.float64) -> torch.Tensor:
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.4).to(dtype)


def plane(vae: VAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """A grid of z, log p(x, z) and log p(x) there for each image, and the area of a cell."""
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    z, cell = torch.cartesian_prod(axis, axis), (axis[1] - axis[0]).item() ** 2
    log_joint = vae.decoder(z[:, None]).log_prob(x) + vae.prior.log_prob(z)[:, None]
    return z, log_joint, log_joint.logsumexp(0) + math.log(cell), cell


# What it computes


@pytest.mark.parametrize("amortized", [False, True])
def test_the_terms_and_their_gradients_equal_formulas_written_out_by_hand(amortized):
    """The log-determinant is that of autograd's Jacobian; log p(z) is taken behind the flows."""
    vae, x = small_vae(amortized), images(5)
    torch.manual_seed(3)
    reconstruction, kl = vae.terms(x)
    weights = list(vae.parameters())
    gradients = torch.autograd.grad((reconstruction - 0.3 * kl).sum(), weights)

    h = torch.relu(x @ vae.encoder.hidden[0].weight.T + vae.encoder.hidden[0].bias)
    mu, sigma = vae.encoder.mu(h), torch.exp(vae.encoder.log_var(h) / 2)
    torch.manual_seed(3)
    eps = torch.randn(1, *mu.shape, dtype=mu.dtype)[0]
    z_0 = mu + sigma * eps

    def last(z, context):
        for flow in vae.encoder.flows.flows:
            z = flow(z, context if flow.context_dim else None)[0]
        return z

    z = last(z_0, h)
    log_det = torch.linalg.slogdet(vmap(jacrev(last))(z_0, h)).logabsdet
    log_q = (-(eps**2) / 2 - math.log(2 * math.pi) / 2 - sigma.log()).sum(-1) - log_det
    log_p = (-(z**2) / 2 - math.log(2 * math.pi) / 2).sum(-1)
    p = torch.sigmoid(vae.decoder.logits(torch.relu(vae.decoder.hidden[0](z))))
    by_hand = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(reconstruction, by_hand)
    torch.testing.assert_close(kl, log_q - log_p)
    expected = torch.autograd.grad((by_hand - 0.3 * (log_q - log_p)).sum(), weights)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert (z - z_0).abs().min() > 1e-3  # else a prior in the wrong place would go unseen


@pytest.mark.parametrize("amortized", [False, True])
def test_the_elbo_is_below_the_log_likelihood_by_the_kl_to_the_true_posterior(amortized):
    """Both by quadrature over z, with log q by the inverse: no sample in it, no forward pass."""
    vae, x = small_vae(amortized, spread=0.3), images(4)
    samples = 20_000
    with torch.no_grad():
        z, log_joint, log_p, cell = plane(vae, x)
        posterior = vae.encoder(x)
        log_q = posterior.log_prob(z[:, None].expand(-1, 4, -1))
        assert torch.allclose(log_q.exp().sum(0) * cell, torch.ones(4).double(), atol=1e-6)
        gap = (log_q.exp() * (log_q - log_joint + log_p)).sum(0) * cell
        prior_gap = (log_q.exp() * (log_q - vae.prior.log_prob(z)[:, None])).sum(0) * cell
        reconstruction, kl = vae.terms(x, samples)
        draws, log_q = posterior.rsample_and_log_prob((samples,))
        each_kl = log_q - vae.prior.log_prob(draws)
        each = vae.decoder(draws).log_prob(x) - each_kl
    # Sixteen two-sided z-tests at 6 standard errors: false alarm below 1e-8 each.
    bound = 6 * each.std(0) / math.sqrt(samples)
    assert (gap > 0).all()
    assert ((reconstruction - kl - (log_p - gap)).abs() < bound).all()
    kl_bound = 6 * each_kl.std(0) / math.sqrt(samples)
    assert ((kl - prior_gap).abs() < kl_bound).all()
    assert (0.5 * prior_gap > 2 * kl_bound).all()  # half the KL would be seen


def test_a_sampled_kl_has_the_mean_of_the_closed_form():
    """The same Gaussian posterior in both; a z-test for each image, false alarm below 1e-8."""
    encoder, decoder = GaussianEncoder(6, 16, 2), BernoulliDecoder(2, 16, 6)
    torch.nn.init.normal_(encoder.log_var.bias)
    closed, sampled = VAE(encoder, decoder).double(), FlowVAE(encoder, decoder).double()
    x, samples = images(8), 40_000
    with torch.no_grad():
        posterior = encoder(x)
        z = posterior.rsample((1000,))
        spread = (posterior.log_prob(z) - closed.prior.log_prob(z)).std(0)
        _, exact = closed.terms(x)
        _, estimate = sampled.terms(x, samples)
    assert torch.equal(exact, kl_divergence(posterior, closed.prior))
    error = spread / math.sqrt(samples)
    assert ((estimate - exact).abs() < 6 * error).all() and (0.5 * exact > 6 * error).any()


def test_one_sample_of_the_kl_leaves_the_gradient_unbiased():
    """Mean of the gradients of 20,000 single samples, against that of the closed form."""
    n = 20_000
    mu = torch.tensor([0.7, -0.3]).double().expand(n, -1).clone().requires_grad_()
    sigma = torch.tensor([0.4, 1.2]).double().expand(n, -1).clone().requires_grad_()

    class Given(torch.nn.Module):
        latent_dim = 2

        def forward(self, x):
            return Independent(Normal(mu, sigma), 1)

    vae, x = VAE(Given(), BernoulliDecoder(2, 16, 6)).double(), images(1).expand(n, -1)
    exact = torch.autograd.grad(vae.terms(x)[1].sum(), [mu, sigma])
    sampled = FlowVAE(vae.encoder, vae.decoder).double()
    for slope, expected in zip(
        torch.autograd.grad(sampled.terms(x)[1].sum(), [mu, sigma]), exact, strict=True
    ):
        error = slope.std(0) / math.sqrt(n)  # false alarm below 1e-8 for each of four entries
        assert ((slope.mean(0) - expected[0]).abs() < 6 * error).all()
        assert (expected[0].abs() > 12 * error).all()


def test_flows_that_are_the_identity_leave_the_gaussian_vae():
    torch.manual_seed(1)
    plain = digits_vae()
    torch.manual_seed(1)
    flows = [AffineCouplingFlow(8, context_dim=200, reverse=i == 1) for i in range(2)]
    vae = FlowVAE(FlowEncoder(64, 200, flows), BernoulliDecoder(8, 200, 64))
    own = {name: w for name, w in vae.state_dict().items() if "flows" not in name}
    assert own.keys() == plain.state_dict().keys()
    vae.load_state_dict(plain.state_dict(), strict=False)
    x = load_digits().test[:20]
    torch.manual_seed(2)
    reconstruction, kl = vae.terms(x, 5)
    torch.manual_seed(2)
    expected, _ = plain.terms(x, 5)
    torch.manual_seed(2)
    z = plain.encoder(x).rsample((5,))
    log_ratio = plain.encoder(x).log_prob(z) - plain.prior.log_prob(z)
    torch.testing.assert_close(reconstruction, expected)
    torch.testing.assert_close(kl, log_ratio.mean(0), rtol=1e-4, atol=1e-4)


def test_a_blocked_sample_leaves_the_flows_without_the_likelihoods_gradient():
    vae, x = small_vae(), images(5)
    reconstruction, kl = vae.terms(x, sample=lambda q: q.sample())
    reconstruction.sum().backward()
    assert all(weights.grad is None for weights in vae.encoder.parameters())
    kl.sum().backward()  # of log q at a given point: by the inverse
    assert all(weights.grad.isfinite().all() for weights in vae.encoder.parameters())


# Importance weights


def test_importance_weights_average_to_the_likelihood():
    """E_q[p(x, z) / q(z|x)] = p(x), by quadrature; four z-tests, false alarm below 1e-8 each."""
    vae, x = small_vae(spread=0.2), images(4)
    samples = 40_000

    def log_joint(z):
        return vae.decoder(z).log_prob(x) + vae.prior.log_prob(z)

    posterior = vae.encoder(x)
    with torch.no_grad():
        _, _, log_p, _ = plane(vae, x)
        z, log_q = posterior.rsample_and_log_prob((10_000,))
        weights = (log_joint(z) - log_q - log_p).exp()
    error = weights.std(0) / math.sqrt(samples)
    bound = importance_weighted_bound(log_joint, posterior, samples)
    assert (error < 0.03).all()
    assert (((bound.detach() - log_p).exp() - 1).abs() < 6 * error).all()


@pytest.mark.parametrize("gradient", ["pathwise", "stl", "dreg"])
def test_every_gradient_along_the_path_reaches_the_flows(gradient):
    vae, x = small_vae(), images(4)
    bound = importance_weighted_bound(
        lambda z: vae.decoder(z).log_prob(x) + vae.prior.log_prob(z),
        vae.encoder(x),
        num_samples=8,
        gradient=gradient,
    )
    bound.sum().backward()
    for weights in vae.encoder.parameters():
        assert weights.grad.isfinite().all() and weights.grad.abs().max() > 0


# Training and evaluation


@pytest.mark.parametrize("amortized", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_the_digits(kind, amortized):
    digits = load_digits()
    vae = flow_digits_vae(kind, 2, amortized, **KINDS[kind])
    before = {n: w.clone() for n, w in vae.encoder.flows.named_parameters()}
    history = train(vae, digits.train, epochs=2, validation=digits.validation, progress=False)
    assert history.held_out[-1] > -27  # about -44 before the first step, -26 after the second epoch
    assert all(not torch.equal(w, before[n]) for n, w in vae.encoder.flows.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_goes_forward_only_and_equals_the_average_of_elbos(kind, monkeypatch):
    vae, x = flow_digits_vae(kind, 2, amortized=True, **KINDS[kind]), load_digits().test[:30]
    with torch.no_grad():
        torch.manual_seed(4)
        elbo = vae.elbo(x, 7)
    monkeypatch.setattr(Flow, "inverse", None)
    held_out = evaluate(vae, x, 7, seed=4)
    assert held_out.mean == pytest.approx(elbo.mean().item(), abs=1e-4)


class _Failing(PlanarFlow):
    """Gives NaN from a given call on."""

    calls_left = math.inf

    def _map(self, z, context):
        self.calls_left -= 1
        z, log_det = super()._map(z, context)
        return z, log_det if self.calls_left > 0 else log_det * math.nan


def test_a_flow_that_fails_in_training_is_named_with_the_step():
    flows = [_Failing(2) if i == 2 else PlanarFlow(2) for i in range(8)]
    vae = FlowVAE(FlowEncoder(6, 16, flows), BernoulliDecoder(2, 16, 6))
    flows[2].calls_left = 1 + 7  # the look at the images before the first step, six good steps
    x = images(dtype=torch.float32)
    with pytest.raises(FloatingPointError, match=r"step 7.* layer 3 of 8 \(_Failing\)"):
        train(vae, x, epochs=9, batch_size=20, progress=False)
    assert all(weights.isfinite().all() for weights in vae.parameters())


def test_real_divergence_leaves_finite_weights():
    vae = flow_digits_vae("planar", 4)
    with pytest.raises(FloatingPointError, match="training diverged at step"):
        train(vae, load_digits().train, epochs=20, learning_rate=1e4, progress=False)
    assert all(weights.isfinite().all() for weights in vae.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_follow_the_model(dtype):
    vae = small_vae(dtype=dtype, spread=0.1)
    assert vae.elbo(images(dtype=dtype)).dtype == dtype
    assert train(vae, images(dtype=dtype), epochs=1, progress=False).elbo.isfinite().all()


@pytest.mark.gpu
def test_on_a_gpu():
    vae, x = small_vae(dtype=torch.float32, spread=0.1).cuda(), images(dtype=torch.float32).cuda()
    assert train(vae, x, epochs=2, validation=x, progress=False).held_out.isfinite().all()


# Bad input


def test_a_context_of_another_length_than_the_hidden_layer():
    with pytest.raises(ValueError, match=r"length 5.*has 16: make them with context_dim=16"):
        FlowEncoder(6, 16, [PlanarFlow(2, context_dim=5)])


def test_flows_of_another_dimension_than_the_decoder():
    with pytest.raises(ValueError, match="latent_dim, got 3 and 2"):
        FlowVAE(FlowEncoder(6, 16, [PlanarFlow(3)]), BernoulliDecoder(2, 16, 6))


def test_no_flows():
    with pytest.raises(ValueError, match="0 flows"):
        FlowEncoder(6, 16, [])


def test_an_estimator_is_refused_before_training():
    vae, x = small_vae(dtype=torch.float32), images(dtype=torch.float32)
    with pytest.raises(ValueError, match="takes no estimator"):
        train(vae, x, epochs=1, estimator=Pathwise(), progress=False)


def test_what_the_factory_makes_unless_told():
    flows = flow_digits_vae().encoder.flows.flows
    assert len(flows) == 8 and all(type(flow) is PlanarFlow for flow in flows)
    assert all((flow.dim, flow.context_dim) == (8, 0) for flow in flows)
    assert flow_digits_vae().decoder.hidden[0].weight.shape == (200, 8)


@pytest.mark.parametrize(
    ("kind", "flow"),
    [("coupling", AffineCouplingFlow), ("iaf", InverseAutoregressiveFlow), ("spline", SplineFlow)],
)
def test_the_order_of_the_variables_alternates(kind, flow, monkeypatch):
    make, orders = flow.__init__, []

    def noted(self, *arguments, **options):
        orders.append(options["reverse"])
        make(self, *arguments, **options)

    monkeypatch.setattr(flow, "__init__", noted)
    flow_digits_vae(kind, num_flows=5)
    assert orders == [False, True, False, True, False]


def test_wrong_arguments_of_the_factory():
    with pytest.raises(ValueError, match=r"planar, radial.*got 'planer'"):
        flow_digits_vae("planer")
    with pytest.raises(TypeError, match="amortized must be True or False"):
        flow_digits_vae("planar", amortized=200)
    with pytest.raises(ValueError, match="num_flows must be at least 1"):
        flow_digits_vae("planar", num_flows=0)


def test_images_that_do_not_fit():
    vae = small_vae()
    with pytest.raises(ValueError, match=r"\[\.\.\., 6\]"):
        vae.elbo(torch.zeros(3, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="binarize"):
        vae.elbo(torch.full((3, 6), 0.5, dtype=torch.float64))


def test_a_sequence_of_flows_is_taken_as_it_is():
    flows = FlowSequence([PlanarFlow(2)])
    assert FlowEncoder(6, 16, flows)(torch.zeros(3, 6)).event_shape == (2,)
