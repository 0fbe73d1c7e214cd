"""VAEs with discrete, hybrid and quantized codes, and VAEs trained by any estimator."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, OneHotCategorical
from torch.nn.utils import parameters_to_vector

from reparam import estimators
from reparam.data import load_digits
from reparam.estimators import (
    NVIL,
    REBAR,
    RELAX,
    Enumeration,
    GumbelSoftmax,
    Learned,
    LeaveOneOut,
    MovingAverage,
    Pathwise,
    RaoBlackwell,
    ScoreFunction,
)
from reparam.long_runs import posteriors_on_digits
from reparam.vae import (
    VAE,
    BernoulliDecoder,
    CategoricalDecoder,
    CategoricalEncoder,
    GaussianEncoder,
    HybridEncoder,
    HybridVAE,
    QuantizedVAE,
    VectorQuantizer,
    discrete_digits_vae,
    evaluate,
    hybrid_digits_vae,
    log_likelihood,
    quantized_digits_vae,
    train,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def gaussian() -> VAE:
    return VAE(GaussianEncoder(6, 16, 2), BernoulliDecoder(2, 16, 6))


def categorical(dtype=torch.float64) -> VAE:
    """Three variables of two classes... and four: 64 codes, which can be listed."""
    return VAE(CategoricalEncoder(6, 16, 3, 4), CategoricalDecoder(3, 4, 16, 6)).to(dtype)


def hybrid(dtype=torch.float64) -> HybridVAE:
    return HybridVAE(HybridEncoder(6, 16, 3, 2), BernoulliDecoder(5, 16, 6)).to(dtype)


def quantized(dtype=torch.float64) -> QuantizedVAE:
    """Two vectors of length two, five codes."""
    encoder = nn.Sequential(nn.Linear(6, 4), nn.Unflatten(-1, (2, 2)))
    return QuantizedVAE(encoder, VectorQuantizer(5, 2), BernoulliDecoder(4, 16, 6)).to(dtype)


def images(n: int = 40, dtype=torch.float64) -> Tensor:
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.4).to(dtype)


def slopes(value: Tensor, module: nn.Module) -> Tensor:
    found = torch.autograd.grad(value.sum(), list(module.parameters()), retain_graph=True)
    return torch.cat([slope.flatten() for slope in found])


# Any estimator in the Gaussian VAE


def test_the_default_is_the_pathwise_gradient_to_the_last_bit():
    """What chapters 1 and 2 stored was made with `sample=rsample`, before there was a choice."""
    vae, x = gaussian(), images(dtype=torch.float32)
    found = []
    for options in ({}, {"sample": lambda q: q.rsample()}, {"estimator": Pathwise()}):
        torch.manual_seed(3)
        elbo = vae.elbo(x, **options)
        found.append((elbo.detach(), slopes(elbo, vae)))
    for elbo, gradient in found[1:]:
        assert torch.equal(elbo, found[0][0]) and torch.equal(gradient, found[0][1])


def test_the_score_function_gradient_of_the_elbo_equals_the_formula():
    vae, x = gaussian().double(), images()
    torch.manual_seed(3)
    reconstruction, _ = vae.terms(x, 2, estimator=ScoreFunction(LeaveOneOut()))
    torch.manual_seed(3)
    q = vae.encoder(x)
    z = q.sample((2,))
    values = vae.decoder(z).log_prob(x)
    torch.testing.assert_close(reconstruction, values.mean(0))
    by_hand = ((values - values.flip(0)).detach() * q.log_prob(z)).mean(0)
    torch.testing.assert_close(slopes(reconstruction, vae.encoder), slopes(by_hand, vae.encoder))
    torch.testing.assert_close(slopes(reconstruction, vae.decoder), slopes(values / 2, vae.decoder))


def test_a_sampler_still_overrules_the_estimator():
    def never(*_):
        raise AssertionError

    vae, x = gaussian(), images(dtype=torch.float32)
    reconstruction, _ = vae.terms(x, sample=lambda q: q.sample(), estimator=never)
    assert all(g is None for g in _gradients(reconstruction, vae.encoder))


def _gradients(value: Tensor, module: nn.Module):
    return torch.autograd.grad(value.sum(), list(module.parameters()), allow_unused=True)


# Discrete codes


def every_code(variables: int, classes: int) -> Tensor:
    index = torch.cartesian_prod(*[torch.arange(classes)] * variables)
    return nn.functional.one_hot(index, classes).double()


def test_the_terms_of_a_categorical_vae_equal_sums_over_every_code():
    vae, x = categorical(), images(5)
    z = every_code(3, 4)
    logits = vae.encoder.logits(vae.encoder.hidden(x)).reshape(5, 3, 4)
    q = torch.einsum("bdc,kdc->kbd", logits.softmax(-1), z).prod(-1)
    log_likelihood = vae.decoder(z.unsqueeze(1)).log_prob(x)
    reconstruction, kl = vae.terms(x, estimator=Enumeration())
    torch.testing.assert_close(reconstruction, (q * log_likelihood).sum(0))
    torch.testing.assert_close(kl, (q * (q.log() + 3 * math.log(4))).sum(0))
    exact = (q * (log_likelihood - q.log() - 3 * math.log(4))).sum(0)
    torch.testing.assert_close(slopes(reconstruction - kl, vae), slopes(exact, vae))

    log_joint = log_likelihood - 3 * math.log(4)
    log_p = torch.logsumexp(log_joint, 0)
    gap = (q * (q.log() - log_joint + log_p)).sum(0)  # KL from the true posterior, exactly
    assert (gap > 1e-6).all()
    torch.testing.assert_close(vae.elbo(x, estimator=Enumeration()), log_p - gap)


def test_the_prior_of_a_categorical_vae_is_uniform_and_follows_the_model():
    for dtype in (torch.float32, torch.float64):
        prior = categorical(dtype).prior
        assert isinstance(prior, Independent) and isinstance(prior.base_dist, OneHotCategorical)
        assert prior.event_shape == (3, 4) and prior.sample().dtype == dtype
        log_p = prior.log_prob(every_code(3, 4).to(dtype))
        torch.testing.assert_close(log_p, torch.full((64,), -3 * math.log(4), dtype=dtype))


def test_a_discrete_code_without_an_estimator_is_one_clear_error():
    with pytest.raises(ValueError, match=r"Pathwise needs.*rsample.*use ScoreFunction"):
        categorical().elbo(images())
    vae = categorical()
    before = parameters_to_vector(vae.parameters()).clone()
    with pytest.raises(ValueError, match=r"^Pathwise needs.*use ScoreFunction"):
        train(vae, images(), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"^LeaveOneOut needs num_samples of at least 2"):
        train(vae, images(), epochs=1, estimator=ScoreFunction(LeaveOneOut()), progress=False)
    assert torch.equal(parameters_to_vector(vae.parameters()), before)


@pytest.mark.parametrize("estimator", [ScoreFunction(), GumbelSoftmax(0.3)])
def test_evaluation_draws_exact_codes_whatever_the_training_relaxed(estimator):
    vae, x, seen = categorical(), images(), []
    vae.decoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    train(vae, x, epochs=1, estimator=estimator, progress=False)
    relaxed = any(((z != 0) & (z != 1)).any() for z in seen if z.requires_grad)
    assert relaxed == isinstance(estimator, GumbelSoftmax)
    seen.clear()
    held_out = evaluate(vae, x, num_samples=2_000)
    assert all(((z == 0) | (z == 1)).all() and (z.sum(-1) == 1).all() for z in seen)
    exact = vae.elbo(x, estimator=Enumeration()).mean().item()
    # 80,000 draws, standard deviation of one below 2: 5.5 standard errors are under 0.04.
    assert abs(held_out.mean - exact) < 0.04


def test_enumeration_learns_a_categorical_code():
    """Three coins, each shown twice: log p(x) is at best -3 H(0.4) = -2.02."""
    x = images(200)
    x[:, 3:] = x[:, :3]
    vae = categorical()
    before = evaluate(vae, x).mean
    history = train(
        vae,
        x,
        epochs=120,
        learning_rate=1e-2,
        estimator=Enumeration(),
        validation=x,
        progress=False,
    )
    assert before < -3.9 and history.held_out[-5:].mean() > -2.6


def test_training_takes_as_many_samples_as_it_is_told():
    vae, seen = categorical(), set()
    vae.decoder.register_forward_pre_hook(lambda _, z: seen.add(z[0].shape[0]))
    estimator = ScoreFunction(LeaveOneOut())
    train(vae, images(), epochs=1, estimator=estimator, num_samples=7, progress=False)
    assert seen == {1, 7}  # 1: the check of every image before the first step
    for count, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="num_samples"):
            train(vae, images(), num_samples=count)


def network(outputs: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), outputs)


class Surrogate(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 1)

    def forward(self, z):
        return self.linear(z.flatten(-2)).squeeze(-1)


#: Every estimator for discrete codes, as `train` takes it.
DISCRETE = {
    "score": ScoreFunction,
    "moving average": lambda: ScoreFunction(MovingAverage()),
    "learned": lambda: Learned(network(nn.Linear(8, 1))),
    "nvil": lambda: NVIL(network(nn.Linear(8, 1))),
    "enumeration": Enumeration,
    "rao-blackwell": lambda: RaoBlackwell(ScoreFunction(), [0]),
    "rao-blackwell, rebar": lambda: RaoBlackwell(REBAR(), [0]),
    "rebar": REBAR,
    "relax": lambda: RELAX(Surrogate()),
    "measure-valued": estimators.MeasureValued,
    "arm": estimators.ARM,
    "disarm": estimators.DisARM,
    "gumbel-softmax": GumbelSoftmax,
    "straight-through": estimators.StraightThrough,
    "gumbel-rao": estimators.GumbelRao,
    "reinmax": estimators.ReinMax,
    "spsa": estimators.SPSA,
}
OWN = {"learned", "nvil", "rebar", "relax", "rao-blackwell, rebar"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DISCRETE)
def test_every_estimator_trains_a_categorical_vae_and_itself(name, dtype):
    vae, estimator = categorical(dtype), DISCRETE[name]()
    module = estimator.outer if isinstance(estimator, RaoBlackwell) else estimator
    if isinstance(module, nn.Module):
        module.to(dtype)
    own = list(module.parameters()) if isinstance(module, nn.Module) else []
    before = [w.detach().clone() for w in [*vae.parameters(), *own]]
    history = train(vae, images(dtype=dtype), epochs=2, estimator=estimator, progress=False)
    assert history.elbo.isfinite().all() and (name in OWN) == bool(own)
    for weights, start in zip([*vae.parameters(), *own], before, strict=True):
        assert not torch.equal(weights, start)


def test_an_estimator_inside_a_module_is_trained_each_parameter_once():
    """In a dataclass that is no part of the module; beside it stands the model that is trained."""

    class Wrapped(nn.Module):
        def __init__(self, inner, vae):
            super().__init__()
            self.inner, self.known = inner, [vae]

        def forward(self, f, q, num_samples):
            return self.inner(f, q, num_samples)

    rebar = REBAR()
    vae = categorical(torch.float32)
    before = [w.detach().clone() for w in rebar.parameters()]
    assert before
    wrapped = Wrapped(RaoBlackwell(rebar, [0]), vae)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Adam's, where a parameter is there twice
        train(vae, images(dtype=torch.float32), epochs=1, estimator=wrapped, progress=False)
    trained = [not torch.equal(w, b) for w, b in zip(rebar.parameters(), before, strict=True)]
    assert all(trained)


def test_a_learned_baseline_learns_the_reconstruction_of_each_image():
    """A model that does not move: the network's squared error falls to what noise leaves."""
    vae, x = categorical(), images(20)
    learned = Learned(network(nn.Linear(8, 1))).double()
    optimizer = torch.optim.Adam(learned.parameters(), lr=2e-2)
    target = vae.terms(x, estimator=Enumeration())[0].detach()
    for sign in [1, -1] * 150:  # the sign of the loss must not matter
        optimizer.zero_grad()
        (sign * vae.elbo(x, 4, estimator=learned).mean()).backward()
        optimizer.step()
    assert (learned.predict(x) - target).square().mean() < 0.25 * target.var()


def test_training_is_repeatable_with_an_estimator_of_its_own_parameters():
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        vae, estimator = categorical(), REBAR()
        train(vae, images(), epochs=2, estimator=estimator, seed=4, progress=False)
        found.append(parameters_to_vector([*vae.parameters(), *estimator.parameters()]))
    assert torch.equal(*found)


@pytest.mark.parametrize("shape", [(5, 12), (5, 4, 3), (12,), (3,), ()])
def test_codes_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"z must have shape \[..., 3, 4\], got"):
        categorical().decoder(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 5), ValueError, r"shape \[..., 6\], got \[3, 5\]"),
        (torch.zeros(3, 6, dtype=torch.long), TypeError, "floating-point"),
        (torch.full((3, 6), 0.5), ValueError, "binarize"),
        (torch.full((3, 6), math.nan), ValueError, "NaN"),
    ],
)
@pytest.mark.parametrize("make", [categorical, hybrid])
def test_bad_images(make, x, error, message):
    with pytest.raises(error, match=message):
        make(torch.float32).elbo(x, estimator=Enumeration())


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 5), ValueError, r"x must have shape \[..., 64\], got \[3, 5\]"),
        (torch.zeros(3, 64).tolist(), TypeError, "x must be a tensor, got list"),
        (torch.zeros(3, 64).double(), ValueError, "weights and x must share dtype"),
    ],
)
def test_bad_images_of_a_quantized_vae(x, error, message):
    with pytest.raises(error, match=message):
        quantized_digits_vae().elbo(x)


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_classes_of_images_in_any_batch(batch):
    q = CategoricalEncoder(6, 16, 3, 4)(torch.zeros(*batch, 6))
    assert q.batch_shape == batch and q.event_shape == (3, 4)


def test_the_class_of_a_hybrid_comes_from_two_layers():
    encoder, x = hybrid().encoder, images(5)
    first, _, last = encoder.logits
    expected = last(first(x).relu())
    torch.testing.assert_close(encoder(x)[0].logits, expected.log_softmax(-1))


@pytest.mark.parametrize("sample", [None, lambda q: q.sample()])
def test_no_samples_of_a_hybrid(sample):
    for number, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match=r"num_samples must be .*, got"):
            hybrid().terms(images(), number, sample)


def test_a_decoder_of_codes_takes_tensors():
    with pytest.raises(TypeError, match="z must be a tensor, got list"):
        CategoricalDecoder(1, 2, 3, 4)([[0.0, 1.0]])


def test_bad_sizes():
    for make in (
        lambda: CategoricalEncoder(6, 16, 0, 4),
        lambda: CategoricalEncoder(6, 16, 3, 0),
        lambda: CategoricalDecoder(0, 4, 16, 6),
        lambda: CategoricalDecoder(-2, -4, 16, 6),  # whose product is a size
        lambda: HybridEncoder(6, 16, 0, 2),
        lambda: HybridEncoder(6, 16, 3, 0),
        lambda: VectorQuantizer(0, 2),
        lambda: VectorQuantizer(5, 0),
        lambda: VectorQuantizer(5, 2, commitment=0.0),
        lambda: VectorQuantizer(5, 2, commitment=math.nan),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
    with pytest.raises(TypeError, match="classes"):
        CategoricalEncoder(6, 16, 3, 4.0)
    with pytest.raises(ValueError, match="one latent_dim, got 12 and 9"):
        VAE(CategoricalEncoder(6, 16, 3, 4), CategoricalDecoder(3, 3, 16, 6))
    with pytest.raises(ValueError, match="num_samples"):
        hybrid().elbo(images(), 0)
    with pytest.raises(ValueError, match="num_samples"):
        quantized().importance_weighted(images(), 0)


# A class beside a vector


def test_the_hybrid_terms_equal_a_sum_over_classes_of_pathwise_estimates():
    vae, x = hybrid(), images(5)
    torch.manual_seed(3)
    reconstruction, kl = vae.terms(x)
    q_y, q_z = vae.encoder(x)
    torch.manual_seed(3)
    by_hand, gauss = 0, q_z.base_dist
    epsilon = torch.randn(1, 3, 5, 2, dtype=torch.float64)[0]
    for k in range(3):
        y = nn.functional.one_hot(torch.full((5,), k), 3).double()
        z = gauss.loc + gauss.scale * epsilon[k]
        by_hand = by_hand + q_y.probs[:, k] * vae.decoder(torch.cat([y, z], -1)).log_prob(x)
    torch.testing.assert_close(reconstruction, by_hand)
    torch.testing.assert_close(slopes(reconstruction, vae), slopes(by_hand, vae))

    kl_y = (q_y.probs * (q_y.probs.log() + math.log(3))).sum(-1)
    kl_z = (gauss.loc**2 + gauss.scale**2 - 1 - 2 * gauss.scale.log()).sum(-1) / 2
    torch.testing.assert_close(kl, kl_y + kl_z)


def test_more_samples_of_an_enumerated_class_are_refused_nowhere_and_the_mean_is_the_same():
    vae, x = hybrid(), images(3)
    with torch.no_grad():
        once = torch.stack([vae.terms(x)[0] for _ in range(3_000)])
        sampled = vae.terms(x, 30_000, estimator=ScoreFunction())[0]
    # Standard deviations below 1: 5.5 standard errors of these two means are 0.1.
    assert ((once.mean(0) - sampled).abs() < 0.1).all()


@pytest.mark.parametrize("estimator", [None, ScoreFunction(), GumbelSoftmax(0.5), REBAR()])
def test_a_hybrid_vae_trains_with_any_estimator_of_its_class(estimator):
    x = images(100, dtype=torch.float32)
    x[:, 3:] = x[:, :3]
    vae = hybrid(torch.float32)
    before = evaluate(vae, x).mean
    history = train(
        vae, x, epochs=30, learning_rate=1e-2, estimator=estimator, validation=x, progress=False
    )
    assert history.held_out[-5:].mean() > before + 0.3
    for weights in vae.encoder.parameters():
        assert weights.grad.abs().max() > 0


def test_the_hybrid_prior_makes_new_images():
    vae = hybrid_digits_vae()
    y, z = (p.sample((20,)) for p in vae.prior)
    assert vae.decoder(torch.cat([y, z], -1)).mean.shape == (20, 64)
    assert torch.equal(vae.prior[0].probs, torch.full((10,), 0.1))


# Vector quantization


def test_quantization_takes_the_nearest_code_exactly():
    quantizer = VectorQuantizer(5, 2).double()
    z = torch.randn(50, 3, 2, dtype=torch.float64)
    out = quantizer(z)
    assert out.code.shape == z.shape and out.index.shape == out.loss.shape == (50, 3)
    assert torch.equal(out.code, quantizer.codebook[out.index])  # exactly: no rounding
    distances = torch.cdist(z.reshape(-1, 2), quantizer.codebook)
    assert torch.equal(out.index.flatten(), distances.argmin(-1))


def test_the_quantizers_gradients_are_those_of_the_paper():
    quantizer = VectorQuantizer(5, 2, commitment=0.3).double()
    z = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    out = quantizer(z)
    weight = torch.randn(7, 2, dtype=torch.float64)
    (straight,) = torch.autograd.grad((out.code * weight).sum(), z, retain_graph=True)
    assert torch.equal(straight, weight)
    with pytest.raises(RuntimeError, match=r"unused|not have been used"):
        torch.autograd.grad((out.code * weight).sum(), quantizer.codebook, retain_graph=True)

    difference = (z - out.code).detach()
    torch.testing.assert_close(out.loss, 1.3 * difference.square().sum(-1))
    by_z, by_code = torch.autograd.grad(out.loss.sum(), (z, quantizer.codebook))
    torch.testing.assert_close(by_z, 0.6 * difference)
    wanted = torch.zeros(5, 2, dtype=torch.float64).index_add_(0, out.index, -2 * difference)
    torch.testing.assert_close(by_code, wanted)


@pytest.mark.parametrize(
    ("index", "error", "says"),
    [
        (torch.arange(6), ValueError, "from 0 to 4, got shape .6. from 0 to 5"),
        (torch.tensor([-1]), ValueError, "from -1 to -1"),
        (torch.zeros(0, dtype=torch.long), ValueError, "got shape .0."),
        (torch.zeros(3), TypeError, "torch.long, got torch.float32"),
        ([0, 1], TypeError, "got list"),
    ],
)
def test_what_is_no_index(index, error, says):
    with pytest.raises(error, match=says):
        VectorQuantizer(5, 2).perplexity(index)


def test_a_quantized_vae_whose_parts_do_not_fit():
    with pytest.raises(ValueError, match="codes of length 3 side by side, got a latent_dim of 4"):
        QuantizedVAE(nn.Linear(6, 4), VectorQuantizer(5, 3), BernoulliDecoder(4, 16, 6))
    vae = QuantizedVAE(nn.Linear(6, 4), VectorQuantizer(5, 2), BernoulliDecoder(4, 16, 6))
    with pytest.raises(ValueError, match=r"\[40, 2, 2\] for images .*nn.Unflatten\(-1, \(2, 2\)\)"):
        vae.elbo(images(dtype=torch.float32))
    with pytest.raises(ValueError, match="one gradient, got 'dreg'"):
        quantized().importance_weighted(images(), 3, "dreg")
    with pytest.raises(TypeError, match="commitment must be a number"):
        VectorQuantizer(5, 2, commitment=None)


def test_perplexity_counts_the_codes_in_use():
    quantizer = VectorQuantizer(4, 2)
    assert quantizer.perplexity(torch.tensor([[2, 2], [2, 2]])) == pytest.approx(1)
    assert quantizer.perplexity(torch.tensor([0, 1, 2, 3])) == pytest.approx(4)
    assert quantizer.perplexity(torch.tensor([0, 0, 3, 3])) == pytest.approx(2)
    assert quantizer.perplexity(torch.tensor([0, 0, 0, 1])) == pytest.approx(4 / 3**0.75)


@pytest.mark.parametrize(
    ("z", "error"),
    [
        (torch.zeros(3, 3), ValueError),
        (torch.tensor(1.0), ValueError),
        (torch.full((3, 2), math.nan), ValueError),
        (torch.zeros(3, 2, dtype=torch.float64), ValueError),
        (torch.zeros(3, 2, dtype=torch.long), TypeError),
    ],
)
def test_bad_vectors(z, error):
    with pytest.raises(error, match="z "):
        VectorQuantizer(5, 2)(z)


def test_the_quantized_elbo_is_a_bound_and_has_no_noise():
    """log p(x) as a sum over all 25 codes, each with probability 1/25."""
    vae, x = quantized(), images(5)
    with torch.no_grad():
        index = torch.cartesian_prod(torch.arange(5), torch.arange(5))
        codes = vae.quantizer.codebook[index].flatten(-2)
        log_joint = vae.decoder(codes.unsqueeze(1)).log_prob(x) - 2 * math.log(5)
        elbo = vae.elbo(x)
    chosen = vae.quantizer(vae.encoder(x)).index
    row = chosen[:, 0] * 5 + chosen[:, 1]
    torch.testing.assert_close(elbo, log_joint.gather(0, row.unsqueeze(0))[0])
    assert (elbo < torch.logsumexp(log_joint, 0)).all()
    torch.testing.assert_close(vae.prior.log_prob(index)[0].item(), -2 * math.log(5))
    assert evaluate(vae, x, num_samples=1, seed=0) == evaluate(vae, x, num_samples=9, seed=1)


def test_the_quantized_vae_of_the_digits_takes_batches_of_any_shape():
    vae, x = quantized_digits_vae(), torch.eye(64)[:6]
    torch.testing.assert_close(vae.elbo(x.unflatten(0, (2, 3))), vae.elbo(x).view(2, 3))


def test_the_quantized_vae_descends_the_quantizers_loss_whatever_its_value_says():
    vae, x = quantized(), images(5)
    quantized_ = vae.quantizer(vae.encoder(x))
    likelihood = vae.decoder(quantized_.code.flatten(-2)).log_prob(x)
    by_hand = likelihood - quantized_.loss.sum(-1)
    torch.testing.assert_close(vae.elbo(x), likelihood - 2 * math.log(5))
    torch.testing.assert_close(slopes(vae.elbo(x), vae), slopes(by_hand, vae))


def test_a_quantized_vae_learns_and_uses_its_codes():
    digits = load_digits()
    vae = quantized_digits_vae()
    before = evaluate(vae, digits.validation).mean
    history = train(vae, digits.train, epochs=10, validation=digits.validation, progress=False)
    assert before < -55 and history.held_out[-1] > -36
    index = vae.quantizer(vae.encoder(digits.validation)).index
    assert index.shape == (300, 8) and vae.quantizer.perplexity(index) > 4


# On the digits, and on a GPU


def test_the_digits_reach_their_elbo_with_discrete_and_hybrid_codes():
    digits = load_digits()
    discrete, mixed = discrete_digits_vae(), hybrid_digits_vae()
    train(discrete, digits.train, epochs=20, estimator=GumbelSoftmax(), progress=False)
    train(mixed, digits.train, epochs=20, progress=False)
    assert evaluate(discrete, digits.validation, num_samples=10).mean > -24
    assert evaluate(mixed, digits.validation, num_samples=10).mean > -22


@pytest.mark.gpu
@pytest.mark.parametrize("make", [categorical, hybrid, quantized])
def test_on_a_gpu(make):
    vae, x = make().cuda(), images().cuda()
    for estimator in (Enumeration(), REBAR().cuda(), GumbelSoftmax()):
        assert train(vae, x, epochs=2, estimator=estimator, validation=x).held_out.isfinite().all()


# Bounds from many samples


def every_image(dtype=torch.float64) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=dtype)] * 6)


def check_bound_of_many(vae: VAE, log_p: Tensor) -> None:
    """The bound lies below `log p(x)`, by little if there are many samples."""
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)  # a distribution of images
    few = torch.stack([log_likelihood(vae, every_image(), 2, s, progress=False).each.mean()
                       for s in range(100)])  # fmt: skip
    many = log_likelihood(vae, every_image(), 5000, progress=False).each
    assert log_p.mean() - few.mean() > 5 * few.std() / 10
    assert (log_p - many).abs().max() < 0.1


def test_the_bound_of_a_categorical_model_tends_to_the_sum_over_its_codes():
    vae = categorical()
    with torch.no_grad():
        vae.decoder.logits.weight.mul_(6)
        vae.encoder.logits.weight.mul_(3)
        codes = vae.prior.base_dist.enumerate_support(expand=False)[:, 0]
        codes = codes[torch.cartesian_prod(*[torch.arange(4)] * 3)]
        log_p = vae.decoder(codes).log_prob(every_image()[:, None]).logsumexp(-1) - math.log(64)
    check_bound_of_many(vae, log_p)
    exact = posteriors_on_digits.exact_log_likelihood(vae.float(), every_image().float())
    torch.testing.assert_close(exact, log_p, atol=1e-5, rtol=0)


def test_the_bound_of_a_hybrid_sums_the_class_out():
    vae = HybridVAE(HybridEncoder(6, 16, 3, 1), BernoulliDecoder(4, 16, 6)).double()
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        vae.decoder.logits.weight.mul_(4)
        codes = torch.cat([torch.eye(3).double().unsqueeze(1).expand(3, len(z), 3),
                           z.expand(3, *z.shape)], -1)  # fmt: skip
        log_joint = vae.decoder(codes).log_prob(every_image()[:, None, None])
        log_joint = log_joint - math.log(3) + vae.prior[1].log_prob(z)
        log_p = log_joint.logsumexp((-2, -1)) + (z[1, 0] - z[0, 0]).log()
    check_bound_of_many(vae, log_p)


def test_a_quantized_model_gains_nothing_from_more_samples_and_has_an_exact_sum():
    vae = QuantizedVAE(
        nn.Sequential(nn.Linear(6, 4), nn.Unflatten(-1, (2, 2))),
        VectorQuantizer(3, 2),
        BernoulliDecoder(4, 16, 6),
    ).double()
    for k in (1, 7):
        bound = log_likelihood(vae, every_image(), k, progress=False).each
        torch.testing.assert_close(bound, vae.elbo(every_image()).detach())
    with torch.no_grad():
        codes = vae.quantizer.codebook[torch.cartesian_prod(*[torch.arange(3)] * 2)].flatten(-2)
        log_p = vae.decoder(codes).log_prob(every_image()[:, None]).logsumexp(-1) - math.log(9)
    exact = posteriors_on_digits.exact_log_likelihood(vae, every_image())
    torch.testing.assert_close(exact, log_p)
    assert (exact > bound).all()


def test_an_estimate_of_another_shape_of_a_class():
    for estimator in (
        lambda f, q, n: f(q.sample((n,))).mean(),
        lambda f, q, n: f(q.sample((n,))),
    ):
        with pytest.raises(ValueError, match="one estimate for each entry"):
            hybrid().elbo(images(), 3, estimator=estimator)
