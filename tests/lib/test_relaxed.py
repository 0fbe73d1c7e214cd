"""Relaxed samples and conditional noise: formulas, laws, exactness of hard samples, bad input."""

import itertools
import math

import mpmath
import pytest
import torch
from scipy import stats
from torch.distributions import RelaxedBernoulli, RelaxedOneHotCategorical
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from reparam import relaxed
from reparam.relaxed import (
    annealed_temperature,
    gumbel_given,
    gumbel_softmax,
    log_gumbel_softmax,
    log_gumbel_softmax_log_prob,
    logistic_given,
    relaxed_bernoulli,
    relaxed_logit,
    relaxed_logit_log_prob,
    straight_through,
)
from tests.lib.statistical import ALARM, check_count

F64 = torch.float64
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def given_noise(monkeypatch, name, noise):
    """Noise of that name is `noise` from now on, in the dtype and of the shape asked for."""

    def draw(size, *, dtype, device):
        assert torch.Size(size) == noise.shape
        return noise.to(device=device, dtype=dtype)

    monkeypatch.setattr(relaxed, name, draw)


# --- formulas ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.3, torch.tensor([[0.5], [2.0]])], ids=str)
def test_gumbel_softmax_by_its_formula(monkeypatch, temperature, device):
    logits = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]], dtype=F64, device=device)
    noise = torch.tensor([[0.3, -0.4, 2.0], [-1.0, 0.2, 4.0]], dtype=F64)
    given_noise(monkeypatch, "gumbel_noise", noise)
    if isinstance(temperature, torch.Tensor):
        temperature = temperature.to(device)
    powers = ((logits + noise.to(device)) / temperature).exp()
    torch.testing.assert_close(gumbel_softmax(logits, temperature), powers / powers.sum(-1, True))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.3, torch.tensor([0.5, 2.0, 1.0])], ids=str)
def test_relaxed_bernoulli_by_its_formula(monkeypatch, temperature, device):
    logits = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]], dtype=F64, device=device)
    noise = torch.tensor([[0.3, -0.4, 2.0], [-1.0, 0.2, 4.0]], dtype=F64)
    given_noise(monkeypatch, "logistic_noise", noise)
    if isinstance(temperature, torch.Tensor):
        temperature = temperature.to(device)
    expected = 1 / (1 + (-(logits + noise.to(device)) / temperature).exp())
    torch.testing.assert_close(relaxed_bernoulli(logits, temperature), expected)


@pytest.mark.parametrize("sampler", [gumbel_softmax, relaxed_bernoulli])
def test_derivatives_of_first_and_second_order(sampler):
    """By differences, with respect to the logits and to a tensor of temperatures."""

    def sample(logits, temperature):
        torch.manual_seed(0)
        return sampler(logits, temperature)

    logits = torch.tensor([[0.2, -1.0, 1.5]], dtype=F64, requires_grad=True)
    temperature = torch.tensor([[0.7]], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(sample, (logits, temperature))
    assert torch.autograd.gradgradcheck(sample, (logits, temperature))


@pytest.mark.parametrize("sampler", [gumbel_softmax, relaxed_bernoulli])
def test_a_hard_sample_has_the_gradient_of_the_soft_one(sampler):
    weight, logits = torch.randn(50, 4), torch.randn(50, 4, requires_grad=True)
    gradients, samples = [], []
    for hard in (False, True):
        torch.manual_seed(5)
        samples.append(sampler(logits, 0.5, hard))
        gradients += torch.autograd.grad((weight * samples[-1]).sum(), logits)
    assert torch.equal(*gradients)
    assert gradients[0].abs().min() > 0
    if sampler is gumbel_softmax:
        assert torch.equal(samples[1].argmax(-1), samples[0].argmax(-1))
    else:
        assert torch.equal(samples[1] > 0.5, samples[0] > 0.5)


@pytest.mark.parametrize("sampler", [gumbel_softmax, relaxed_bernoulli])
def test_defaults(sampler):
    """Temperature 1, soft."""
    samples = []
    for arguments in ((), (1.0, False)):
        torch.manual_seed(1)
        samples.append(sampler(torch.zeros(4, 3), *arguments))
    assert torch.equal(*samples)
    assert ((samples[0] > 0) & (samples[0] < 1)).all()


def test_defaults_in_log_space():
    logits = torch.randn(4, 3)
    for sampler, log_prob in (
        (log_gumbel_softmax, log_gumbel_softmax_log_prob),
        (relaxed_logit, relaxed_logit_log_prob),
    ):
        samples = []
        for arguments in ((), (1.0,)):
            torch.manual_seed(1)
            samples.append(sampler(logits, *arguments))
        assert torch.equal(*samples)
        assert torch.equal(log_prob(samples[0], logits), log_prob(samples[0], logits, 1.0))


@pytest.mark.parametrize("temperature", [1.0, 2.0, torch.tensor([0.5, 4.0])], ids=str)
def test_what_estimators_soften_with(temperature):
    """The same for noise that is there already."""
    z = torch.tensor([[0.3, -4.0], [8.0, 0.0]])
    torch.testing.assert_close(
        relaxed._binary_softened(z, temperature), (z / temperature).sigmoid()
    )
    torch.testing.assert_close(
        relaxed._one_hot_softened(z, temperature), (z / temperature).softmax(-1)
    )


# --- every dtype, and the tails -------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_finite_at_extremes(dtype, hard, temperature, device):
    """At logits of ±100 and a temperature of 0.01, where the exponent reaches 20,000."""
    logits = torch.tensor([[100.0, -100.0, 0.0], [-100.0] * 3, [-100.0, 99.0, 100.0]])
    logits = logits.to(device, dtype).expand(200, 3, 3).clone().requires_grad_()
    for sampler in (gumbel_softmax, relaxed_bernoulli):
        y = sampler(logits, temperature, hard)
        assert y.dtype == dtype
        assert ((y >= 0) & (y <= 1)).all()
        (gradient,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), logits)
        assert gradient.isfinite().all()
    if not hard:
        total = gumbel_softmax(logits, temperature).double().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=0.01)


@each_dtype
def test_hard_samples_are_exact(dtype, device):
    logits = 3 * torch.randn(20, 100, 7, device=device).to(dtype)
    y = gumbel_softmax(logits, 0.7, hard=True)
    assert ((y == 0) | (y == 1)).all() and (y.sum(-1) == 1).all(), "not exactly one-hot"
    b = relaxed_bernoulli(logits, 0.7, hard=True)
    assert ((b == 0) | (b == 1)).all()
    assert 0 < b.double().mean() < 1


@each_dtype
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_outcomes_have_their_probabilities(dtype, temperature, device):
    """Down to a class of probability 4e-5, of which 2**20 draws hold 42."""
    p = torch.tensor([0.6, 0.39996, 4e-5], dtype=F64)
    logits = p.log().to(device, dtype)
    q = logits.double().softmax(-1)
    count = 2**20
    y = gumbel_softmax(logits.expand(count, 3), temperature, hard=True)
    for k in range(3):
        check_count(y[:, k].double().sum(), count, q[k])
    for logit in (10.0, -10.0, 0.5):
        b = relaxed_bernoulli(
            torch.full((count,), logit, dtype=dtype, device=device), temperature, True
        )
        check_count(b.double().sum(), count, 1 / (1 + math.exp(-logit)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_round_the_finished_sample_only(dtype):
    logits = torch.randn(100, 5).to(dtype)
    for sampler in (gumbel_softmax, relaxed_bernoulli):
        torch.manual_seed(1)
        narrow = sampler(logits, 0.5)
        torch.manual_seed(1)
        assert torch.equal(narrow, sampler(logits.float(), 0.5).to(dtype))


def test_the_slope_of_a_relaxed_bit_lives_where_torch_has_none(monkeypatch):
    """At a logit of ±20 the slope is `σ(z) σ(-z)` with 15 right digits in float64, 5 in float32."""
    for dtype, precision in ((F64, 1e-13), (torch.float32, 1e-5)):
        for logit, noise in itertools.product((-60.0, -20.0, 20.0, 30.0), (0.0, 0.5)):
            given_noise(monkeypatch, "logistic_noise", torch.tensor(noise, dtype=dtype))
            x = torch.tensor(logit, dtype=dtype, requires_grad=True)
            (slope,) = torch.autograd.grad(relaxed_bernoulli(x, 1.0), x)
            with mpmath.workdps(50):
                power = mpmath.exp(mpmath.mpf(logit) + noise)
                exact = float(power / (1 + power) ** 2)
            assert slope.item() == pytest.approx(exact, rel=precision), (dtype, logit, noise)
    x = torch.full((100,), 20.0, requires_grad=True)
    RelaxedBernoulli(torch.tensor(1.0), logits=x).rsample().sum().backward()
    assert (x.grad == 0).sum() > 0, "torch mends this: say so in the docstring"


# --- in log space ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.3, torch.tensor([[0.5], [2.0]])], ids=str)
def test_log_samples_are_logarithms_of_samples(temperature, device):
    logits = torch.randn(2, 5, dtype=F64, device=device)
    if isinstance(temperature, torch.Tensor):
        temperature = temperature.to(device)
    pairs = ((gumbel_softmax, log_gumbel_softmax), (relaxed_bernoulli, relaxed_logit))
    for (plain, logarithmic), inverse in zip(pairs, (torch.exp, torch.sigmoid), strict=True):
        samples = []
        for sampler in (plain, logarithmic):
            torch.manual_seed(0)
            samples.append(sampler(logits, temperature))
        torch.testing.assert_close(samples[0], inverse(samples[1]))


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_log_space_is_finite_and_right_at_low_temperatures(classes, temperature, device):
    """In float32: samples, densities of them, and the gradients of both, to float64's densities.

    The sum over the classes has that many roundings, of numbers around 10.
    """
    logits = 3 * torch.randn(20_000 // classes, classes, device=device)
    logits.requires_grad_()
    log_y = log_gumbel_softmax(logits, temperature)
    log_prob = log_gumbel_softmax_log_prob(log_y, logits, temperature)
    slopes = torch.autograd.grad(log_y.sum() / classes, logits, retain_graph=True)
    slopes += torch.autograd.grad(log_prob.sum(), logits)
    for tensor in (log_y, log_prob, *slopes):
        assert tensor.isfinite().all()
    with torch.no_grad():
        exact = log_gumbel_softmax_log_prob(log_y.double(), logits.double(), temperature)
    torch.testing.assert_close(log_prob.double(), exact, rtol=0, atol=1e-5 * classes)


def test_the_simplex_is_not():
    """Why log space: torch's densities of its own samples, 10 classes, τ = 0.01 and 0.03."""
    for temperature, lost in ((0.03, 0.8), (0.01, 0.99)):
        q = RelaxedOneHotCategorical(
            torch.tensor(temperature), logits=torch.randn(2000, 10), validate_args=False
        )
        share = (~q.log_prob(q.rsample()).isfinite()).double().mean()
        assert share > lost


@each_dtype
def test_log_space_in_every_dtype(dtype, device):
    """16 bits round the finished sample only; densities are in float32 at least."""
    logits = (30 * torch.randn(500, 7, device=device)).to(dtype).requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    for sampler, log_prob_of in (
        (log_gumbel_softmax, log_gumbel_softmax_log_prob),
        (relaxed_logit, relaxed_logit_log_prob),
    ):
        torch.manual_seed(1)
        sample = sampler(logits, 0.05)
        torch.manual_seed(1)
        assert torch.equal(sample, sampler(logits.to(wide), 0.05).to(dtype))
        assert sample.dtype == dtype and sample.isfinite().all()
        log_prob = log_prob_of(sample, logits, 0.05)
        assert log_prob.dtype == wide and log_prob.isfinite().all()
        (slope,) = torch.autograd.grad(log_prob.sum(), logits)
        assert slope.dtype == dtype and slope.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.01])
@pytest.mark.parametrize("logits", [[0.0, 0.0], [2.0, -1.0], [0.5, -3.0, 1.0], [0.0, 9.0, -9.0, 1]])
def test_the_density_is_that_of_differences_of_gumbel_noise(logits, temperature):
    """Integrated over the last class's noise g, in mpmath: the others' noise is then known.

    With `r_k = log(y_k / y_C)`, class k's noise is `temperature * r_k + logits_C - logits_k + g`.
    """
    log_y = log_gumbel_softmax(torch.tensor(logits, dtype=F64), temperature)
    ours = log_gumbel_softmax_log_prob(log_y, torch.tensor(logits, dtype=F64), temperature)
    r = [mpmath.mpf(x) - mpmath.mpf(log_y[-1].item()) for x in log_y[:-1].tolist()]
    shifts = [temperature * x + logits[-1] - a for x, a in zip(r, logits, strict=False)]

    def joint(g):
        log_density = sum(-(s + g) - mpmath.exp(-(s + g)) for s in [*shifts, 0])
        return mpmath.exp(log_density) * mpmath.mpf(temperature) ** len(r)

    with mpmath.workdps(30):
        center = -min([*shifts, 0])
        edges = [center - 8, *(center + k for k in range(-4, 60, 4)), center + 100]
        exact = mpmath.log(mpmath.quad(joint, edges))
    assert ours.item() == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.01])
def test_densities_against_torch_in_float64(temperature):
    logits = 3 * torch.randn(200, 10, dtype=F64)
    tau = torch.tensor(temperature, dtype=F64)
    log_y = log_gumbel_softmax(logits, temperature)
    theirs = ExpRelaxedCategorical(tau, logits=logits).log_prob(log_y)
    torch.testing.assert_close(log_gumbel_softmax_log_prob(log_y, logits, temperature), theirs)
    x = relaxed_logit(logits, temperature)
    theirs = LogitRelaxedBernoulli(tau, logits=logits).log_prob(x)
    torch.testing.assert_close(relaxed_logit_log_prob(x, logits, temperature), theirs)


def test_two_classes_are_one_bit():
    logits, x = torch.randn(2, 50, dtype=F64)
    both = torch.stack([logits, torch.zeros_like(logits)], -1)
    log_y = torch.stack([x, torch.zeros_like(x)], -1).log_softmax(-1)
    torch.testing.assert_close(
        log_gumbel_softmax_log_prob(log_y, both, 0.3), relaxed_logit_log_prob(x, logits, 0.3)
    )


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("logit", [-90.0, 0.0, 3.0, 100.0])
def test_the_density_of_a_logit_far_out(logit, temperature):
    """At x = 0, too, far from a sample, where torch's is minus infinity from a logit of 89 on."""
    for x in (0.0, logit / temperature, 500.0):
        d = mpmath.mpf(logit) - mpmath.mpf(temperature) * mpmath.mpf(x)
        exact = mpmath.log(temperature) - d - 2 * mpmath.log1p(mpmath.exp(-d))
        for dtype, precision in ((F64, 1e-13), (torch.float32, 1e-5)):
            arguments = torch.tensor([x, logit], dtype=dtype)
            ours = relaxed_logit_log_prob(*arguments, temperature)
            assert ours.item() == pytest.approx(float(exact), rel=precision), (x, dtype)
    theirs = LogitRelaxedBernoulli(torch.tensor(1.0), logits=torch.tensor(100.0))
    assert theirs.log_prob(torch.tensor(0.0)) == -math.inf, "torch mends this: say so"


def test_temperatures_in_batches():
    """One for each row; torch's density then has the wrong shape."""
    logits, tau = torch.randn(5, 3), torch.rand(5, 1) + 0.5
    log_y = log_gumbel_softmax(logits, tau)
    log_prob = log_gumbel_softmax_log_prob(log_y, logits, tau)
    each = [
        log_gumbel_softmax_log_prob(*row)
        for row in zip(log_y, logits, tau.flatten().tolist(), strict=True)
    ]
    torch.testing.assert_close(log_prob, torch.stack(each))
    theirs = ExpRelaxedCategorical(tau, logits=logits, validate_args=False).log_prob(log_y)
    assert theirs.shape == (5, 5), "torch mends this"
    x = torch.randn(5, 3)
    torch.testing.assert_close(
        relaxed_logit_log_prob(x, logits, tau)[2], relaxed_logit_log_prob(x[2], logits[2], tau[2])
    )
    for one in (torch.tensor(0.5), torch.tensor([0.5])):
        found = log_gumbel_softmax_log_prob(log_y, logits, one)
        torch.testing.assert_close(found, log_gumbel_softmax_log_prob(log_y, logits, 0.5))
    apart = log_gumbel_softmax_log_prob(log_y.view(5, 1, 3), logits.view(5, 1, 3), tau[:, None])
    torch.testing.assert_close(apart, log_prob.view(5, 1))


def test_log_space_derivatives_of_first_and_second_order():
    logits = torch.randn(2, 3, dtype=F64, requires_grad=True)
    tau = torch.tensor([[0.7], [0.3]], dtype=F64, requires_grad=True)
    point = torch.randn(2, 3, dtype=F64).log_softmax(-1).requires_grad_()
    for log_prob in (log_gumbel_softmax_log_prob, relaxed_logit_log_prob):
        assert torch.autograd.gradcheck(log_prob, (point, logits, tau))
        assert torch.autograd.gradgradcheck(log_prob, (point, logits, tau))
    for sampler in (log_gumbel_softmax, relaxed_logit):

        def sample(logits, tau, sampler=sampler):
            torch.manual_seed(0)
            return sampler(logits, tau)

        assert torch.autograd.gradcheck(sample, (logits, tau))
        assert torch.autograd.gradgradcheck(sample, (logits, tau))


def test_log_space_under_torch_func_and_compile():
    def loss(logits):
        torch.manual_seed(3)
        log_y = log_gumbel_softmax(logits, 0.05)
        return log_gumbel_softmax_log_prob(log_y, 2 * logits, 0.1).sum()

    logits = torch.randn(6, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(logits), logits)
    torch.testing.assert_close(torch.func.grad(loss)(logits.detach()), expected)
    compiled = torch.compile(
        lambda x, logits: relaxed_logit_log_prob(x, logits, 0.1),
        backend="aot_eager",
        fullgraph=True,
    )
    x = torch.randn(6, 4)
    torch.testing.assert_close(compiled(x, logits), relaxed_logit_log_prob(x, logits, 0.1))


def test_masked_classes_in_log_space():
    """A class of probability 0 has log-sample -inf; a density there is refused."""
    logits = torch.tensor([0.0, 1.0, -math.inf], requires_grad=True)
    log_y = log_gumbel_softmax(logits.expand(100, 3), 0.01)
    assert (log_y[:, 2] == -math.inf).all() and log_y[:, :2].isfinite().all()
    (slope,) = torch.autograd.grad(log_y[:, :2].sum(), logits)
    assert slope[:2].isfinite().all()
    with pytest.raises(ValueError, match="log_y holds infinity in 100 of its 300"):
        log_gumbel_softmax_log_prob(log_y, logits, 0.01)


# --- straight through -----------------------------------------------------------------------------


def test_straight_through_is_exact():
    """For any values; the usual sum rounds, and is NaN where the soft one is infinite."""
    hard = torch.randn(1000) * torch.logspace(-4, 4, 1000)
    soft = torch.randn(1000, requires_grad=True)
    assert not torch.equal(hard - soft.detach() + soft, hard)
    y = straight_through(hard, soft)
    assert torch.equal(y, hard)
    weight = torch.randn(1000)
    (gradient,) = torch.autograd.grad((weight * y).sum(), soft)
    assert torch.equal(gradient, weight)
    assert straight_through(torch.tensor(1.0), torch.tensor(-math.inf)) == 1
    with_graph = torch.ones(3, requires_grad=True)
    straight_through(with_graph, torch.ones(3, requires_grad=True)).sum().backward()
    assert with_graph.grad is None


@each_dtype
def test_the_source_document_s_sum_is_exact_for_zeros_and_ones(dtype):
    """`y_hard - y_soft.detach() + y_soft`, as the source document has it, for any `y_soft`."""
    soft = torch.rand(2**20, dtype=F64).to(dtype)
    soft = torch.cat([soft, soft * 1e-3, torch.tensor([0.0, 1.0], dtype=dtype)])
    for hard in (0.0, 1.0):
        assert (hard - soft + soft == hard).all()


# --- noise, given the outcome ---------------------------------------------------------------------


LOGITS = [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [0.0, -20.0, -40.0], [60.0, 0.0, -60.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_given_noise_leads_to_the_given_outcome(dtype, device):
    """For every draw and every outcome, likely or not."""
    logits = torch.tensor(LOGITS, dtype=dtype, device=device)
    for k in range(3):
        b = torch.zeros(20_000, 4, 3, dtype=dtype, device=device)
        b[..., k] = 1
        z = gumbel_given(b, logits)
        assert z.dtype == dtype
        assert torch.equal(z.argmax(-1), b.argmax(-1))
        top = z.topk(2).values
        assert (top[..., 0] > top[..., 1]).all(), "ties"
        assert z.isfinite().all()
    for bit in (0.0, 1.0):
        b = torch.full((20_000, 4, 3), bit, dtype=dtype, device=device)
        z = logistic_given(b, logits)
        assert torch.equal((z > 0).to(dtype), b)
        assert (z != 0).all()
        assert z.isfinite().all()


def test_a_maximum_is_strict_where_rounding_would_tie(monkeypatch):
    """A likely class that loses by far less than a rounding step."""
    given_noise(monkeypatch, "gumbel_noise", torch.tensor([-3.0, 30.0]))
    z = gumbel_given(torch.tensor([1.0, 0.0]), torch.tensor([-20.0, 0.0]))
    assert z[0] > z[1]
    assert z[1] == torch.nextafter(z[0], torch.tensor(-math.inf))


def test_gumbel_given_by_the_formula_of_the_paper(monkeypatch):
    """`-log(E_i / Z)` at the outcome i, `-log(E_j / exp(logits_j) + E_i / Z)` elsewhere."""
    logits = torch.randn(500, 4, dtype=F64) * 3
    arrivals = torch.rand(500, 4, dtype=F64) * 3 + 1e-3
    given_noise(monkeypatch, "gumbel_noise", -arrivals.log())
    index = torch.arange(500) % 4
    b = torch.nn.functional.one_hot(index, 4).to(F64)
    z = gumbel_given(b, logits)
    first = (arrivals * b).sum(-1, True) / logits.exp().sum(-1, True)
    torch.testing.assert_close(z, -torch.log(first + (1 - b) * arrivals / logits.exp()))


@pytest.mark.parametrize("bit", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-30.0, -2.0, 0.0, 1.5, 30.0])
def test_logistic_given_is_the_inverse_cdf(monkeypatch, bit, logit):
    """`logit + log(u / (1 - u))` with u in the upper part, of length σ(logit), or in the lower."""
    noise = torch.tensor([-30.0, -3.0, 0.0, 2.0, 30.0], dtype=F64)
    given_noise(monkeypatch, "logistic_noise", noise)
    x = torch.tensor(logit, dtype=F64, requires_grad=True)
    z = logistic_given(torch.full((5,), bit, dtype=F64), x)
    (slope,) = torch.autograd.grad(z.sum(), x)

    def exact(logit):
        def one(level):
            v = 1 / (1 + mpmath.exp(-level))
            theta = 1 / (1 + mpmath.exp(-logit))
            u = 1 - theta + v * theta if bit else (1 - v) * (1 - theta)
            return logit + mpmath.log(u / (1 - u))

        return [one(mpmath.mpf(level)) for level in noise.tolist()]

    with mpmath.workdps(100):
        values = [float(value) for value in exact(mpmath.mpf(logit))]
        step = mpmath.mpf("1e-20")
        sides = exact(logit + step), exact(logit - step)
        exact_slope = float(sum(a - b for a, b in zip(*sides, strict=True)) / (2 * step))
    assert z.tolist() == pytest.approx(values, rel=1e-13)
    assert slope.item() == pytest.approx(exact_slope, rel=1e-12, abs=1e-300)


def test_law_of_noise_given_a_drawn_outcome():
    """Outcome drawn, then noise given it: together the law of `logits + noise`, each by a KS test.

    At 200,000 draws and a false-alarm rate of 1e-9 it sees a distribution function off by 0.8 %.
    """
    count = 200_000
    logits = torch.tensor([1.0, -1.0, 0.0], dtype=F64)
    index = torch.multinomial(logits.softmax(-1), count, replacement=True)
    z = gumbel_given(torch.nn.functional.one_hot(index, 3).to(F64), logits)
    for k in range(3):
        assert stats.kstest(z[:, k], stats.gumbel_r(loc=logits[k].item()).cdf).pvalue > ALARM
    # The differences too, which marginal laws say nothing about.
    difference = stats.logistic(loc=2.0)
    assert stats.kstest(z[:, 0] - z[:, 1], difference.cdf).pvalue > ALARM
    bits = torch.bernoulli(logits.sigmoid().expand(count, 3))
    z = logistic_given(bits, logits)
    for k in range(3):
        assert stats.kstest(z[:, k], stats.logistic(loc=logits[k].item()).cdf).pvalue > ALARM


def test_masked_classes_stay_out():
    """A logit of -inf is a class of probability 0; gradients of the others stay finite."""
    logits = torch.tensor([0.0, 1.0, -math.inf], requires_grad=True)
    b = torch.tensor([1.0, 0.0, 0.0]).expand(100, 3)
    for sample in (gumbel_softmax(logits.expand(100, 3), 0.5), gumbel_given(b, logits).softmax(-1)):
        assert (sample[:, 2] == 0).all()
        (gradient,) = torch.autograd.grad((sample[:, 0] ** 2).sum(), logits)
        assert gradient[:2].isfinite().all()
        assert gradient[0] > 0


# --- schedules, transforms, bad input -------------------------------------------------------------


def test_annealed_temperature():
    assert annealed_temperature(0) == 1.0
    assert annealed_temperature(10, start=2.0, end=0.5, rate=0.1) == pytest.approx(2 / math.e)
    assert annealed_temperature(100, start=2.0, end=0.5, rate=0.1) == 0.5
    assert annealed_temperature(10**9) == 0.1
    assert annealed_temperature(3, rate=0.0) == 1.0
    assert annealed_temperature(10_000) == pytest.approx(1 / math.e)
    assert annealed_temperature(10, start=0.5, end=0.5) == 0.5


@pytest.mark.parametrize("sampler", [gumbel_softmax, relaxed_bernoulli])
@pytest.mark.parametrize("hard", [False, True])
def test_under_torch_func_and_compile(sampler, hard):
    def loss(logits):
        torch.manual_seed(3)
        return (sampler(logits, 0.5, hard) * torch.arange(4.0)).sum()

    logits = torch.randn(6, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(logits), logits)
    torch.testing.assert_close(torch.func.grad(loss)(logits.detach()), expected)
    compiled = torch.compile(
        lambda x: sampler(x, 0.5, hard).sum(), backend="aot_eager", fullgraph=True
    )
    value = compiled(logits)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


ONE_HOT = torch.tensor([0.0, 1.0])
MASKED = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]])  # of all classes, in a row


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: gumbel_softmax(torch.zeros(2), 0), ValueError, "StraightThrough or ScoreFunction"),
        (lambda: gumbel_softmax(torch.zeros(2), 0.0), ValueError, "positive and finite, got 0.0"),
        (lambda: gumbel_softmax(torch.zeros(2), -1), ValueError, "got -1"),
        (lambda: gumbel_softmax(torch.zeros(2), math.nan), ValueError, "got nan"),
        (lambda: gumbel_softmax(torch.zeros(2), math.inf), ValueError, "got inf"),
        (lambda: gumbel_softmax(torch.zeros(2), True), TypeError, r"number, got bool \(True\)"),
        (lambda: gumbel_softmax(torch.zeros(2), "1"), TypeError, r"got str \('1'\)"),
        (lambda: gumbel_softmax(torch.zeros(2), torch.tensor([1.0, 0.0])), ValueError, "positive"),
        (lambda: gumbel_softmax(torch.zeros(2), torch.tensor(math.inf)), ValueError, "positive"),
        (
            lambda: gumbel_softmax(torch.zeros(2), torch.ones(3)),
            ValueError,
            r"temperature of shape \(3,\) does not broadcast to .* logits, \(2,\)",
        ),
        (lambda: gumbel_softmax(torch.zeros(2), torch.ones(3, 1)), ValueError, "does not broad"),
        (lambda: gumbel_softmax(torch.tensor(1.0)), ValueError, "use relaxed_bernoulli"),
        (lambda: gumbel_softmax([0.0, 1.0]), TypeError, "logits must be a tensor, got list"),
        (lambda: gumbel_softmax(torch.zeros(2).long()), TypeError, "floating-point"),
        (lambda: gumbel_softmax(torch.zeros(0, 2)), ValueError, "logits is empty"),
        (lambda: gumbel_softmax(torch.tensor([0.0, math.nan])), ValueError, "NaN in 1 of its 2"),
        (lambda: log_gumbel_softmax(torch.zeros(2), 0), ValueError, "positive and finite"),
        (lambda: log_gumbel_softmax(torch.tensor(1.0)), ValueError, "use relaxed_bernoulli"),
        (lambda: relaxed_logit(torch.zeros(2), -1.0), ValueError, "positive and finite"),
        (lambda: relaxed_logit([0.0]), TypeError, "logits must be a tensor, got list"),
        (
            lambda: log_gumbel_softmax_log_prob(torch.zeros(3), torch.zeros(2)),
            ValueError,
            r"log_y must fit logits, got shapes \(3,\) and \(2,\)",
        ),
        (
            lambda: log_gumbel_softmax_log_prob(torch.zeros(4, 1), torch.zeros(2)),
            ValueError,
            "log_y must fit logits",
        ),
        (
            lambda: log_gumbel_softmax_log_prob(torch.zeros(2), torch.zeros(2), torch.ones(2)),
            ValueError,
            r"share one temperature: its last dimension must be 1, got shape \(2,\)",
        ),
        (
            lambda: log_gumbel_softmax_log_prob(torch.zeros(2), torch.zeros(2).double()),
            ValueError,
            "share dtype",
        ),
        (
            lambda: log_gumbel_softmax_log_prob(torch.zeros(2) * math.nan, torch.zeros(2)),
            ValueError,
            "log_y holds NaN",
        ),
        (
            lambda: relaxed_logit_log_prob(torch.tensor(math.inf), torch.zeros(2)),
            ValueError,
            "x holds infinity",
        ),
        (
            lambda: relaxed_logit_log_prob(torch.zeros(3), torch.zeros(2)),
            ValueError,
            "x must fit logits",
        ),
        (lambda: relaxed_logit_log_prob(0.0, torch.zeros(2)), TypeError, "x must be a tensor"),
        (lambda: relaxed_logit_log_prob(torch.zeros(2), 0.0), TypeError, "logits must be a tensor"),
        (
            lambda: log_gumbel_softmax_log_prob(torch.tensor(0.0), torch.tensor(0.0)),
            ValueError,
            "use relaxed_bernoulli",
        ),
        (lambda: logistic_given([0.0], torch.zeros(2)), TypeError, "b must be a tensor"),
        (lambda: logistic_given(ONE_HOT, 0.0), TypeError, "logits must be a tensor"),
        (lambda: gumbel_given(ONE_HOT, ONE_HOT * math.nan), ValueError, "logits holds NaN"),
        (lambda: relaxed_bernoulli(torch.zeros(2), 0), ValueError, "positive and finite"),
        (lambda: relaxed_bernoulli(torch.zeros(2), torch.ones(3)), ValueError, "does not broadc"),
        (lambda: relaxed_bernoulli(torch.tensor(math.nan)), ValueError, "logits holds NaN"),
        (lambda: straight_through(torch.zeros(2), torch.zeros(3)), ValueError, "one shape"),
        (lambda: straight_through(torch.zeros(2), torch.zeros(2).double()), ValueError, "dtype"),
        (lambda: straight_through(torch.zeros(2), torch.tensor([0, math.nan])), ValueError, "soft"),
        (lambda: gumbel_given(torch.ones(2), torch.zeros(2)), ValueError, "exactly one 1"),
        (lambda: gumbel_given(torch.zeros(2), torch.zeros(2)), ValueError, "exactly one 1"),
        (lambda: gumbel_given(torch.tensor(1.0), torch.zeros(2)), ValueError, "exactly one 1"),
        (lambda: gumbel_given(torch.full((2,), 0.5), torch.zeros(2)), ValueError, "zeros and ones"),
        (
            lambda: gumbel_given(ONE_HOT, torch.zeros(3)),
            ValueError,
            "one_hot and logits must broad",
        ),
        (lambda: gumbel_given(ONE_HOT, torch.zeros(2).double()), ValueError, "share dtype"),
        (lambda: logistic_given(torch.tensor(0.5), torch.zeros(2)), ValueError, "b must hold zero"),
        (lambda: logistic_given(ONE_HOT, torch.zeros(3)), ValueError, "b and logits must broad"),
        (lambda: annealed_temperature(-1), ValueError, "not be negative, got step=-1"),
        (lambda: annealed_temperature(1, rate=-1.0), ValueError, "not be negative"),
        (lambda: annealed_temperature(math.nan), ValueError, "not be negative"),
        (lambda: annealed_temperature(1, start=0.0), ValueError, "start must be positive"),
        (lambda: annealed_temperature(1, end=0.0), ValueError, "end must be positive"),
        (lambda: annealed_temperature(1, 0.5, 0.7), ValueError, "end must not exceed start"),
        (lambda: annealed_temperature(1, start="1"), TypeError, "start must be a positive number"),
        (lambda: annealed_temperature("1"), TypeError, "step must be a number, got str"),
        (lambda: annealed_temperature(1, end=torch.ones(2)), TypeError, "end must be a number"),
        (
            lambda: gumbel_softmax(torch.zeros(2), 1.0, None),
            TypeError,
            "hard must be True or False",
        ),
        (
            lambda: relaxed_bernoulli(torch.zeros(2), 1.0, 1),
            TypeError,
            "hard must be True or False",
        ),
        (lambda: gumbel_softmax(MASKED), ValueError, "must be finite, got -inf: .* must be left"),
        (lambda: gumbel_softmax(-MASKED), ValueError, "must be finite, got inf"),
        (lambda: log_gumbel_softmax(MASKED), ValueError, "must be finite, got -inf"),
        (lambda: gumbel_given(ONE_HOT, MASKED[1]), ValueError, "must be finite, got -inf"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("draw", [gumbel_softmax, log_gumbel_softmax, relaxed_bernoulli])
def test_temperatures_at_the_ends_of_the_arithmetic(draw, dtype):
    """All that is let in gives numbers, where logits are of moderate size."""
    limits = torch.finfo(torch.promote_types(dtype, torch.float32))
    least, logits = limits.tiny / limits.eps, torch.zeros(2, 3, dtype=dtype)
    for temperature in (least, 1.01 * least, 0.99 / least, 1 / least):
        for given in (temperature, torch.tensor(temperature, dtype=torch.float64)):
            assert not draw(logits, given).isnan().any()
    for temperature in (0.99 * least, 1.01 / least):
        for given in (temperature, torch.tensor(temperature, dtype=torch.float64)):
            with pytest.raises(ValueError, match=r"temperature must lie between .* got"):
                draw(logits, given)
