"""check_encoder and check_kl: every fault is found by its name; right encoders and KLs pass."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from reparam.checkup import check_encoder, check_kl
from reparam.checkup.encoder import _heads, _some
from reparam.checkup.kl import _LOG_VAR, _MISTAKES, _MU, _REDUCTIONS, _RIGHT
from reparam.data import load_digits
from reparam.gaussian import bound_log_var, gaussian_kl
from reparam.vae import HybridEncoder, digits_vae, train


def names(report) -> list[str]:
    return [finding.name for finding in report.findings]


def remarks(report) -> list[str]:
    return [remark.name for remark in report.remarks]


@pytest.fixture(scope="module")
def images():
    return load_digits().train


class Encoder(nn.Module):
    """One hidden layer and two heads, as a reader writes it, with something behind each head."""

    def __init__(self, behind_log_var=nn.Identity(), behind_mu=nn.Identity(), dim=8):  # noqa: B008
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(64, 50), nn.ReLU())
        self.mu, self.log_var = nn.Linear(50, dim), nn.Linear(50, dim)
        self.behind_mu, self.behind_log_var = behind_mu, behind_log_var

    def forward(self, x):
        h = self.hidden(x)
        return self.behind_mu(self.mu(h)), self.behind_log_var(self.log_var(h))


class AsDistribution(Encoder):
    def forward(self, x):
        mu, log_var = super().forward(x)
        return Independent(Normal(mu, torch.exp(log_var / 2)), 1)


class WithSoftplusScale(Encoder):
    def forward(self, x):
        mu, raw = super().forward(x)
        return Normal(mu, F.softplus(raw) + 1e-3)


class Dropping(Encoder):
    """Noise in training alone, as it should be."""

    def forward(self, x):
        return super().forward(F.dropout(x, 0.5, self.training))


def zero_heads() -> Encoder:
    encoder = Encoder()
    for tensor in (*encoder.mu.parameters(), *encoder.log_var.parameters()):
        nn.init.zeros_(tensor)
    return encoder


def around(module, call):
    """A function, not a module, that uses one."""
    return lambda x: call(module, x)


RIGHT = {
    "linear heads": Encoder,
    "one dimension": lambda: Encoder(dim=1),
    "a hundred": lambda: Encoder(dim=100),
    "a distribution": AsDistribution,
    "softplus for sigma": WithSoftplusScale,
    "bounded": lambda: Encoder(bound_log_var),
    "bounded, far out": lambda: Encoder(lambda raw: bound_log_var(300 * raw)),
    "a clamp that nothing reaches": lambda: Encoder(lambda raw: raw.clamp(-10, 10)),
    "log of softplus": lambda: Encoder(lambda raw: torch.log(F.softplus(raw) + 3)),
    "minus softplus": lambda: Encoder(lambda raw: -F.softplus(raw)),
    "dropout in training": Dropping,
    "heads that start at zero": zero_heads,
    "the library's": lambda: digits_vae().encoder,
    "float64": lambda: around(Encoder().double(), lambda encoder, x: encoder(x.double())),
    "side by side": lambda: around(nn.Linear(64, 16), lambda head, x: head(x).chunk(2, -1)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_encoders_pass(name, images):
    for seed in range(4):
        torch.manual_seed(seed)
        for x in (images[:100], images[:2], torch.randn(50, 64)):
            report = check_encoder(RIGHT[name](), x)
            assert report.ok and not report.remarks, report


def test_a_convolutional_encoder_with_batch_norm_passes_and_stays_as_it_is(images):
    """Each part's mode, the statistics, the gradients and the random stream."""
    norm = nn.BatchNorm2d(4)
    body = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, 64)]
    encoder = nn.Sequential(*body, Encoder())
    norm.eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = torch.get_rng_state()
    assert check_encoder(encoder, images[:50]).ok
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.training and not norm.training
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert all(weights.grad is None for weights in encoder.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("latent_dim", "weight"), [(8, 1.0), (8, 0.0), (24, 1.0)])
def test_trained_encoders_pass(latent_dim, weight, images):
    torch.manual_seed(0)
    vae = digits_vae(latent_dim=latent_dim, hidden_dim=50)
    train(vae, images, epochs=10, kl_weight=weight, progress=False)
    report = check_encoder(vae.encoder, images)
    assert report.ok, report
    assert not report.remarks or latent_dim == 24


@pytest.mark.slow
def test_a_collapsed_posterior_is_found_out(images):
    torch.manual_seed(0)
    vae = digits_vae(hidden_dim=50)
    train(vae, images, epochs=15, kl_weight=30.0, progress=False)
    assert names(check_encoder(vae.encoder, images)) == ["the posterior has collapsed to the prior"]


class Sampling(Encoder):
    def forward(self, x):
        mu, log_var = super().forward(x)
        return mu + 0.1 * torch.randn_like(mu), log_var


class DropsInEvaluation(Encoder):
    def forward(self, x):
        mu, log_var = super().forward(F.dropout(x, 0.5))
        return mu, log_var


class ZeroScale(Encoder):
    def forward(self, x):
        mu, log_var = super().forward(x)
        return Normal(mu, rows(0.0)(torch.exp(log_var / 2)), validate_args=False)


class DeadHidden(Encoder):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.hidden[0].bias, -100.0)


class FirstDeaf(Encoder):
    """Dimension 0 is a bias in both heads."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        mu, log_var = super().forward(x)
        here = torch.eye(8)[0]
        return tuple(
            head * (1 - here) + b * here for head, b in zip((mu, log_var), self.bias, strict=True)
        )


def some_beyond(low: float, high: float):
    offset = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.0, -50.0])
    return lambda raw: (raw + offset).clamp(low, high)


def rows(bad_value: float):
    def behind(head):
        mask = torch.zeros(len(head), 1).index_fill(0, torch.tensor([3, 7]), 1.0)
        return torch.where(mask.bool(), torch.full_like(head, bad_value), head)

    return behind


FAULTY = {
    # form
    "one tensor": (lambda: nn.Linear(64, 16), ["it does not return mu and log_var"]),
    "three": (lambda: lambda x: (x, x, x), ["it does not return mu and log_var"]),
    "not tensors": (lambda: lambda x: (0.0, 1.0), ["it does not return mu and log_var"]),
    "raises": (lambda: nn.Linear(3, 2), ["it raises an error"]),
    "shapes": (lambda: lambda x: (x, x[:, :3]), ["mu and log_var differ in shape"]),
    "dtypes": (lambda: lambda x: (x, x.double()), ["mu and log_var differ in dtype"]),
    "devices": (lambda: lambda x: (x, x.to("meta")), ["mu and log_var differ in device"]),
    "one for all": (
        lambda: around(Encoder(), lambda encoder, x: encoder(x.mean(0, keepdim=True))),
        ["there is not one posterior for each input"],
    ),
    "flat": (
        lambda: around(Encoder(dim=1), lambda encoder, x: [h.flatten() for h in encoder(x)]),
        ["there is not one posterior for each input"],
    ),
    # values
    "NaN": (lambda: Encoder(behind_mu=rows(math.nan)), ["mu is not finite"]),
    "infinite": (lambda: Encoder(rows(math.inf)), ["log_var is not finite"]),
    "sigma of 0": (ZeroScale, ["log_var is not finite"]),
    "sampled inside": (Sampling, ["mu changes from call to call"]),
    "dropout always": (
        DropsInEvaluation,
        ["mu changes from call to call", "log_var changes from call to call"],
    ),
    # gradients
    "detached": (lambda: Encoder(torch.detach), ["log_var has no graph"]),
    "constant sigma": (lambda: Encoder(lambda raw: 0 * raw.detach()), ["log_var has no graph"]),
    "clamp, two units beyond": (
        lambda: Encoder(some_beyond(-9.0, 9.0)),
        ["log_var has dead units"],
    ),
    "rounded": (lambda: Encoder(behind_mu=torch.round), ["mu has dead units"]),
    "clamp inside the range": (
        lambda: Encoder(lambda raw: (30 * raw).clamp(-4.0, 4.0)),
        ["log_var is cut off at -4", "log_var is cut off at 4"],
    ),
    "clamp from below": (
        lambda: Encoder(lambda raw: raw.clamp(min=-0.05)),
        ["log_var is cut off at -0.05"],
    ),
    "saturated tanh": (
        lambda: Encoder(lambda raw: 6 * torch.tanh(200 * raw)),
        ["log_var is cut off at -6", "log_var is cut off at 6"],
    ),
    "ReLU means": (lambda: Encoder(behind_mu=F.relu), ["mu is cut off at 0"]),
    # the law
    "ReLU": (lambda: Encoder(F.relu), ["log_var is cut off at 0", "log_var is never negative"]),
    "softplus": (lambda: Encoder(F.softplus), ["log_var is never negative"]),
    "softplus + eps": (
        lambda: Encoder(lambda raw: F.softplus(raw) + 1e-6),
        ["log_var is never negative"],
    ),
    "exp": (lambda: Encoder(torch.exp), ["log_var is never negative"]),
    "square": (lambda: Encoder(torch.square), ["log_var is never negative"]),
    "overflow": (
        lambda: Encoder(lambda raw: 3000 * raw),
        ["exp(log_var) overflows", "exp(log_var) underflows to 0", "sigma is of absurd size"],
    ),
    # the code
    "dead hidden layer": (DeadHidden, ["latent dimensions ignore the input"]),
    "one is a bias": (FirstDeaf, ["latent dimensions ignore the input"]),
    "collapsed": (
        lambda: Encoder(lambda raw: 1e-3 * raw, lambda mu: 1e-3 * mu),
        ["the posterior has collapsed to the prior"],
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_each_fault_of_an_encoder_is_named(name, images):
    make, wanted = FAULTY[name]
    for seed in range(3):
        torch.manual_seed(seed)
        report = check_encoder(make(), images[:200])
        # Whether a clamp or a ReLU that cuts off values kills whole units as well is chance.
        chance = {"mu has dead units", "log_var has dead units"} - set(wanted)
        if any("cut off" in name for name in wanted):
            assert [finding for finding in names(report) if finding not in chance] == wanted
        else:
            assert names(report) == wanted, report
        assert all(f.evidence and f.cure for f in report.findings)


def test_evidence_names_dimensions_bounds_and_rows(images):
    torch.manual_seed(0)
    report = check_encoder(Encoder(some_beyond(-9.0, 9.0)), images[:200])
    assert report.findings[0].evidence == (
        "dimensions 6, 7 of 8: the gradient is exactly zero for all 200 inputs; they are 9, -9"
    )
    assert "bound_log_var(raw)" in report.findings[0].cure
    report = check_encoder(Encoder(behind_mu=some_beyond(-9.0, 9.0)), images[:200])
    assert report.findings[0].name == "mu has dead units"
    assert "bound_log_var" not in report.findings[0].cure
    report = check_encoder(Encoder(lambda raw: (raw + 9).clamp(max=8)), images[:200])
    assert "for all 200 inputs; they are 8, 8, 8, 8, 8 and 3 more" in " ".join(str(report).split())
    report = check_encoder(Encoder(lambda raw: (100 * raw).clamp(max=0.5)), images[:200])
    assert "values are exactly 0.5, and their gradient is" in " ".join(str(report).split())
    report = check_encoder(Encoder(behind_mu=rows(math.nan)), images[:200])
    assert "16 of 1600 values are NaN or infinite, for the inputs 3, 7" in str(report)
    report = check_encoder(FirstDeaf(), images[:200])
    assert "dimensions 0 are the same for all 200 inputs" in str(report)


def test_pixels_up_to_255(images):
    """The correction's own case: 784 pixels, 400 hidden units, torch's initialization."""
    torch.manual_seed(0)
    encoder = Encoder()
    encoder.hidden[0] = nn.Linear(784, 50)
    pixels = 255 * torch.rand(100, 784)
    assert check_encoder(encoder, pixels / 255).ok
    report = check_encoder(encoder, pixels)
    assert "sigma is of absurd size" in names(report)
    finding = report.findings[names(report).index("sigma is of absurd size")]
    assert "which run from 0.0" in finding.evidence and "to 255" in finding.evidence
    assert finding.cure.startswith("scale the inputs")
    large = check_encoder(Encoder(lambda raw: raw + 15), images)
    assert names(large) == ["sigma is of absurd size"]
    assert large.findings[0].cure.startswith("start the log_var head")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_heads_of_sixteen_bits_are_remarked_on(dtype, images):
    torch.manual_seed(0)
    encoder = Encoder().to(dtype)
    report = check_encoder(encoder, images[:100].to(dtype))
    assert report.ok
    assert remarks(report) == [f"the heads are in {str(dtype).removeprefix('torch.')}"]
    assert "no fault found\n· the heads are in" in str(report)


def test_means_below_zero_are_as_coarse_as_those_above(images):
    torch.manual_seed(0)
    heads = nn.Linear(64, 4).bfloat16()

    def encoder(x):
        mu, log_var = heads(x).chunk(2, -1)
        return mu - 100, 0.1 * log_var

    report = check_encoder(encoder, images[:100].bfloat16())
    (remark,) = [r for r in report.remarks if r.name == "the heads are in bfloat16"]
    # eps is 1/128, the widest mean about -101, sigma about 1.
    assert "up to 0.8 sigma apart at mu" in remark.evidence


def test_a_dimension_that_is_switched_off_ignores_the_input(images):
    """Its heads are 0, and so are all their gradients."""
    torch.manual_seed(0)
    heads, mask = nn.Linear(64, 8), torch.tensor([1.0, 1.0, 0.0, 1.0])

    def encoder(x):
        mu, log_var = heads(x).chunk(2, -1)
        return mask * mu, mask * log_var

    report = check_encoder(encoder, images[:100])
    finding = report.findings[names(report).index("latent dimensions ignore the input")]
    assert "of dimensions 2 are the same for all 100 inputs" in finding.evidence


def test_float16_overflows_early(images):
    torch.manual_seed(0)
    encoder = Encoder(lambda raw: raw + 11.5).half()
    report = check_encoder(encoder, images[:100].half())
    assert names(report) == ["exp(log_var) overflows"]
    assert "float16 ends where it is 11.1" in " ".join(str(report).split())
    assert check_encoder(Encoder(lambda raw: raw + 11.5), images[:100]).ok


def test_unused_dimensions_are_remarked_on(images):
    torch.manual_seed(0)
    scale = torch.tensor([20.0] * 5 + [1e-4] * 3)
    report = check_encoder(Encoder(lambda raw: 1e-4 * raw, lambda mu: mu * scale), images)
    assert report.ok
    assert remarks(report) == ["3 of 8 dimensions are unused"]
    assert report.remarks[0].evidence.startswith("dimensions 5, 6, 7 have KLs below 0.01")


def test_other_encoders_of_the_library(images):
    """A hybrid's Gaussian part; a VAE that is blocked is no fault of its encoder."""
    assert check_encoder(HybridEncoder(64, 50, 10, 4).gaussian, images[:50]).ok


def test_it_works_where_gradients_are_switched_off_and_on_token_ids():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 32), nn.Linear(32, 8)

        def forward(self, ids):
            return self.head(self.embed(ids).mean(1)).chunk(2, -1)

    encoder = Encoder()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert check_encoder(encoder, torch.rand(30, 64)).ok
            assert check_kl(gaussian_kl).ok
    with torch.no_grad():
        assert check_encoder(Tokens(), torch.randint(20, (30, 5))).ok


def test_inputs_stay_as_they_are(images):
    x = images[:50].clone()
    heads = nn.Linear(64, 8)
    assert check_encoder(lambda x: heads(x.sub_(0.5)).chunk(2, -1), x).ok
    assert torch.equal(x, images[:50])


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        (lambda h: h.long().chunk(2, -1), "mu and log_var are no floating-point numbers"),
        (lambda h: h.to(torch.complex64).chunk(2, -1), "mu and log_var are no floating-point num"),
        (lambda h: (h[:, :0], h[:, :0]), "there is not one posterior for each input"),
        (lambda h: (h, None), "it does not return mu and log_var"),
        (lambda h: (None, h), "it does not return mu and log_var"),
    ],
)
def test_heads_of_another_kind(last, wanted, images):
    heads = nn.Linear(64, 8)
    (name,) = names(check_encoder(lambda x: last(heads(x)), images[:50]))
    assert name.startswith(wanted)


@pytest.mark.parametrize("base", [1000.0, -1000.0])
def test_a_unit_that_is_constant_but_for_rounding_ignores_the_input(base, images):
    weight = torch.full((1,), base, requires_grad=True)
    heads = nn.Linear(64, 3)
    rounding = torch.arange(100).remainder(2).unsqueeze(-1) * 1e-4

    def encoder(x):
        mu = weight + rounding.expand(len(x), 1)
        return torch.cat([mu, heads(x)], -1), torch.cat([0 * mu, heads(x)], -1)

    assert "latent dimensions ignore the input" in names(check_encoder(encoder, images[:100]))


def test_ctrl_c_is_not_a_finding():
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_encoder(interrupted, torch.randn(3, 4))
    with pytest.raises(KeyboardInterrupt):
        check_kl(interrupted)


@pytest.mark.gpu
def test_an_encoder_on_a_gpu(images):
    assert check_encoder(Encoder().cuda(), images[:50].cuda()).ok
    found = names(check_encoder(Encoder(F.relu).cuda(), images[:50].cuda()))
    assert [name for name in found if name != "log_var has dead units"] == [
        "log_var is cut off at 0",
        "log_var is never negative",
    ]


@pytest.mark.parametrize(
    ("encoder", "x", "error", "says"),
    [
        (3, torch.randn(4, 64), TypeError, r"callable as encoder\(x\), got int"),
        (Encoder(), [[0.0] * 64], TypeError, "x must be a tensor of inputs, got list"),
        (Encoder(), torch.randn(1, 64), ValueError, "at least two different inputs"),
        (Encoder(), torch.zeros(5, 64), ValueError, "all the same"),
        (Encoder(), torch.tensor(1.0), ValueError, "at least two different inputs"),
        (Encoder(), torch.full((5, 64), math.nan), ValueError, "x holds NaN"),
        (Encoder(), torch.full((5, 64), math.inf), ValueError, "x holds infinity"),
        (Encoder(), torch.randn(5, 64) * 1j, TypeError, "real numbers"),
    ],
)
def test_bad_encoder_input(encoder, x, error, says):
    with pytest.raises(error, match=says):
        check_encoder(encoder, x)


# --- what the evidence says, and where the limits lie ---------------------------------------------


def of_heads(change, dim=4):
    """An encoder with two linear heads, and `change(mu, log_var)` behind them; and 20 inputs."""
    to_mu, to_log_var = nn.Linear(3, dim), nn.Linear(3, dim)
    return (lambda x: change(to_mu(x), 0.1 * to_log_var(x))), torch.randn(20, 3)


def finding_of(report, name):
    (found,) = [f for f in (*report.findings, *report.remarks) if f.name == name]
    return found


def test_two_finite_posteriors_are_looked_at_and_one_is_not():
    def change(finite):
        def nan_behind(mu, log_var):
            mask = torch.arange(len(mu))[:, None] >= finite
            return (0 * mu).masked_fill(mask, math.nan), log_var

        return nan_behind

    assert "mu has dead units" in names(check_encoder(*of_heads(change(2))))
    for finite in (1, 0):
        assert names(check_encoder(*of_heads(change(finite)))) == ["mu is not finite"]


def test_the_kl_of_unused_dimensions_is_that_of_the_prior():
    """One of 0.8 nats is active, and makes others unused."""
    seen = []

    def change(mu, log_var):
        height = torch.tensor([1.26, 0.01, 0.01, 0.01])
        seen.append((height * (mu / mu.detach().abs()), 0.01 * log_var))
        return seen[-1]

    report = check_encoder(*of_heads(change))
    kl = gaussian_kl(*seen[0], reduction="none").mean(0).max()
    assert 0.7 < kl < 0.9
    assert f"another has {kl:.2g}" in finding_of(report, "3 of 4 dimensions are unused").evidence


def test_constants_without_a_graph_ignore_the_input():
    report = check_encoder(lambda x: (torch.ones(len(x), 2),) * 2, torch.randn(20, 3))
    assert names(report) == [
        "mu has no graph", "log_var has no graph", "latent dimensions ignore the input",
    ]  # fmt: skip


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_bias_alone_ignores_the_input_whatever_its_sign(sign):
    bias = nn.Parameter(torch.randn(2))
    report = check_encoder(lambda x: (sign * bias.expand(len(x), 2),) * 2, torch.randn(20, 3))
    assert "latent dimensions ignore the input" in names(report)


def test_fixed_features_behind_a_bias_do_not_ignore_it():
    bias = nn.Parameter(torch.randn(3))
    assert check_encoder(lambda x: (x + bias, 0.1 * (x + bias)), torch.randn(20, 3)).ok


def test_heads_that_start_at_constants_near_the_prior_have_not_collapsed():
    """With weights of 0, which learn from the first step on."""
    to_mu, to_log_var = nn.Linear(3, 4), nn.Linear(3, 4)
    with torch.no_grad():
        for parameter in (*to_mu.parameters(), *to_log_var.parameters()):
            parameter.zero_()
        to_mu.bias += 1e-3 * torch.arange(4)
    assert check_encoder(lambda x: (to_mu(x), to_log_var(x)), torch.randn(20, 3)).ok


@pytest.mark.parametrize(("cut", "found"), [(1, False), (2, True)])
def test_one_value_at_a_bound_is_chance_and_two_are_cut_off(cut, found):
    def change(mu, log_var):
        at = torch.zeros_like(mu, dtype=torch.bool)
        at[:cut, 0] = True
        return torch.where(at, 9.0, mu), log_var

    report = check_encoder(*of_heads(change))
    assert ("mu is cut off at 9" in names(report)) == found


def test_cures_tell_the_heads_and_the_types_apart():
    report = check_encoder(*of_heads(lambda mu, s: (mu.clamp(max=0), s.clamp(max=0))))
    assert "linear layer" in finding_of(report, "mu is cut off at 0").cure
    assert "bound_log_var" in finding_of(report, "log_var is cut off at 0").cure
    for dtype, advice in ((torch.float32, False), (torch.bfloat16, True)):
        encoder, x = of_heads(lambda mu, s, d=dtype: (mu.to(d), (1000 * (s + 1)).to(d)))
        cure = finding_of(check_encoder(encoder, x), "exp(log_var) overflows").cure
        assert ("take exponentials in float32" in cure) == advice


def test_where_an_exponential_underflows():
    report = check_encoder(*of_heads(lambda mu, s: (mu, s - 200)))
    end = math.log(2**-149)
    found = finding_of(report, "exp(log_var) underflows to 0")
    assert f"float32 ends where it is {end:.3g}" in found.evidence


def test_steps_between_neighbors_in_units_of_sigma():
    heads = []

    def change(mu, log_var):
        heads.append((mu.bfloat16(), (log_var + 3).bfloat16()))
        return heads[-1]

    report = check_encoder(*of_heads(change))
    mu, log_var = (head.float() for head in heads[0])
    steps = (mu.abs() * 2**-7 / (log_var / 2).exp()).max()
    evidence = finding_of(report, "the heads are in bfloat16").evidence
    assert f"up to {steps:.1g} sigma apart at mu" in evidence


def test_rounding_of_large_heads_is_no_change_and_a_rise_is_one():
    calls = itertools.count()
    encoder, x = of_heads(lambda mu, s: (1e4 * mu + 1e-2 * (next(calls) % 2), s))
    assert "mu changes from call to call" not in names(check_encoder(encoder, x))
    for first in (0, 1):  # the lower of two calls comes first, then the higher
        calls = itertools.count(first)
        encoder, x = of_heads(lambda mu, s, calls=calls: (mu + next(calls) % 2, s))
        assert "mu changes from call to call" in names(check_encoder(encoder, x))


def test_large_inputs_of_either_sign_are_named():
    to_mu = nn.Linear(3, 2)
    report = check_encoder(lambda x: (to_mu(x), to_mu(x)), -1000 * torch.rand(20, 3) - 11)
    assert "which run from -" in finding_of(report, "sigma is of absurd size").evidence


def test_what_a_normal_says_of_its_log_variance():
    mu, sigma = torch.zeros(2, 3), torch.full((2, 3), 4.0)
    for q in (Normal(mu, sigma), Independent(Normal(mu, sigma), 1)):
        assert torch.equal(_heads(q)[0], mu)
        torch.testing.assert_close(_heads(q)[1], sigma.square().log())


def test_long_lists_are_cut_short():
    assert [_some(list(range(n))) for n in (1, 5, 6, 8)] == [
        "0", "0, 1, 2, 3, 4", "0, 1, 2, 3, 4 and 1 more", "0, 1, 2, 3, 4 and 3 more",
    ]  # fmt: skip


# --- check_kl ------------------------------------------------------------------------------------


def usual(mu, log_var):
    return -0.5 * (1 + log_var - mu.pow(2) - log_var.exp())


def torchs(mu, log_var):
    return kl_divergence(Normal(mu, torch.exp(log_var / 2)), Normal(0.0, 1.0))


@pytest.mark.parametrize("reduction", ["sum", "none", "batchmean"])
def test_the_library_s_kl_passes(reduction):
    report = check_kl(lambda mu, log_var: gaussian_kl(mu, log_var, reduction=reduction))
    assert report.ok and not report.remarks, report


@pytest.mark.parametrize("kl", [usual, torchs])
@pytest.mark.parametrize("reduce", _RIGHT)
def test_right_kls_pass_and_their_cancellation_is_remarked_on(kl, reduce):
    report = check_kl(lambda mu, log_var: reduce(kl(mu, log_var)))
    assert report.ok
    assert remarks(report) == ["it cancels near the prior"]
    assert report.remarks[0].cure.startswith("none for training")


def test_a_sum_over_the_batch_is_remarked_on():
    report = check_kl(lambda mu, log_var: usual(mu, log_var).sum())
    assert report.ok
    assert remarks(report) == ["it is summed over the batch", "it cancels near the prior"]


def faults() -> list:
    """Each mistake in the formula, or none, with each reduction, right or wrong."""
    formulas = {None: usual} | {name: formula for name, (formula, _) in _MISTAKES.items()}
    reductions = [(None, reduce) for reduce in _RIGHT]
    reductions += [(name, reduce) for name, (reduce, _) in _REDUCTIONS.items()]
    return [
        pytest.param(formula, reduce, [n for n in (mistake, misreduction) if n], id=f"{i}")
        for i, ((mistake, formula), (misreduction, reduce)) in enumerate(
            itertools.product(formulas.items(), reductions)
        )
        if mistake or misreduction
    ]


@pytest.mark.parametrize(("formula", "reduce", "wanted"), faults())
def test_each_mistake_in_a_kl_is_named(formula, reduce, wanted):
    """Alone and together, so that no two of them give the same numbers."""
    report = check_kl(lambda mu, log_var: reduce(formula(mu, log_var)))
    summed = "it is summed over the batch"  # no fault by itself
    assert names(report) == [name for name in wanted if name != summed]
    assert report.ok == (wanted == [summed])


def test_each_mistake_by_hand():
    """Written as readers write them, not as the check does."""
    prior = Normal(0.0, 1.0)
    cases = {
        "the ½ is missing": lambda m, s: (m**2 + s.exp() - s - 1).sum(-1),
        "the sign is wrong": lambda m, s: 0.5 * (1 + s - m**2 - s.exp()).sum(-1),
        "log_var is read as log sigma": lambda m, s: kl_divergence(Normal(m, s.exp()), prior),
        "log_var is read as sigma": lambda m, s: kl_divergence(
            Normal(m, s, validate_args=False), prior
        ),
        "log_var is read as the variance": lambda m, s: kl_divergence(
            Normal(m, s.sqrt(), validate_args=False), prior
        ),
        "mu and log_var are swapped": lambda s, m: usual(m, s).sum(-1),
        "the KL is turned around": lambda m, s: kl_divergence(
            Normal(torch.zeros_like(m), 1.0), Normal(m, (s / 2).exp())
        ),
        "it is averaged over the dimensions": lambda m, s: usual(m, s).mean(1),
        "it is averaged over batch and dimensions": lambda m, s: (
            -0.5 * torch.mean(1 + s - m**2 - s.exp())
        ),
        "mu is not squared": lambda m, s: 0.5 * (s.exp() + m - 1 - s).sum(-1),
        "the term with mu is missing": lambda m, s: kl_divergence(
            Normal(0 * m, (s / 2).exp()), prior
        ).sum(-1),
        "the term -log_var is missing": lambda m, s: -0.5 * (1 - m**2 - s.exp()).sum(-1),
        "the constant is missing": lambda m, s: -0.5 * (s - m**2 - s.exp()).sum(-1),
        "it is summed over the batch and averaged over the dimensions": lambda m, s: (
            usual(m, s).sum() / m.shape[-1]
        ),
        "it is summed over the batch, not over the dimensions": lambda m, s: sum(usual(m, s)),
        "it is averaged over the batch before the dimensions are summed": lambda m, s: (
            sum(usual(m, s)) / len(m)
        ),
    }
    known = {*_MISTAKES, *_REDUCTIONS} - {"it is summed over the batch"}  # a remark, tested above
    assert cases.keys() == known
    for wanted, kl in cases.items():
        (finding,) = check_kl(kl).findings
        assert finding.name == wanted and len(finding.cure) > 10


def test_evidence_has_the_right_number_beside_the_wrong_one():
    mu, log_var = torch.tensor(_MU).double(), torch.tensor(_LOG_VAR).double()
    each = (mu**2 + log_var.exp() - 1 - log_var) / 2
    of_each, of_mean = each.sum(-1)[0].item(), each.sum(-1).mean().item()
    for reduce, wanted in (
        (
            lambda kl: kl.sum(-1),
            f"{2 * of_each:.4g} where the first posterior's KL is {of_each:.4g}",
        ),
        (
            lambda kl: kl.sum(-1).mean(),
            f"{2 * of_mean:.4g} where the mean of the KLs is {of_mean:.4g}",
        ),
        (lambda kl: kl, f"where the first dimension's KL is {each[0, 0].item():.4g}"),
        (lambda kl: kl.sum(0), "shape [4] for mu and log_var of shape [3, 4]"),
    ):
        (finding,) = check_kl(lambda m, s, reduce=reduce: reduce(2 * usual(m, s))).findings[:1]
        assert wanted in finding.evidence

    def one_detached(mu, log_var):
        cut = torch.zeros_like(log_var, dtype=torch.bool)
        cut[0, 0] = True
        return usual(mu, torch.where(cut, log_var.detach(), log_var)).sum(-1)

    (finding,) = check_kl(one_detached).findings
    assert finding.name == "the gradient for log_var is wrong"
    assert finding.evidence.startswith("0 where the value's own is")


def in_place(mu, log_var):
    variance = log_var.exp()
    kl = (mu**2 + variance - 1 - log_var) / 2
    variance.add_(1.0)
    return kl


class Raising(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kl):
        return kl.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("not implemented")


def raising(mu, log_var):
    return Raising.apply(usual(mu, log_var))


def refusing(where):
    def kl(mu, log_var):
        if where(log_var):
            raise ValueError("not there")
        return usual(mu, log_var)

    return kl


OTHER = {
    "clamped": (lambda m, s: usual(m, s.clamp(-10, 10)).sum(-1), ["it is clamped inside"]),
    "clamped above": (lambda m, s: usual(m, s.clamp(max=4.5)), ["it is clamped inside"]),
    "clamped below": (lambda m, s: usual(m, s.clamp(min=-20)).sum(-1), ["it is clamped inside"]),
    "exponential clamped": (
        lambda m, s: 0.5 * (m**2 + s.exp().clamp(max=1e4) - 1 - s).sum(-1),
        ["it is clamped inside"],
    ),
    "means clamped": (lambda m, s: usual(m.clamp(-2, 2), s), ["the value is wrong"]),
    "float16": (lambda m, s: usual(m, s.half().exp().log().float()).sum(-1), None),
    "overflow": (lambda m, s: 0.5 * (m**2 + (2 * s).exp().sqrt() - 1 - s), ["it overflows"]),
    "detached": (lambda m, s: usual(m, s).detach(), ["it has no graph"]),
    "half detached": (lambda m, s: usual(m.detach(), s), ["the gradient for mu is wrong"]),
    "log_var detached": (lambda m, s: usual(m, s.detach()), ["the gradient for log_var is wrong"]),
    "item": (lambda m, s: usual(m, s).mean().item(), ["it does not return a tensor"]),
    "nothing": (lambda m, s: None, ["it does not return a tensor"]),
    "kept": (lambda m, s: usual(m, s).sum(-1, keepdim=True), ["it has the wrong shape"]),
    "flat": (lambda m, s: usual(m, s).flatten(), ["it has the wrong shape"]),
    "unexplained": (lambda m, s: usual(m, s) + m.sin(), ["the value is wrong"]),
    "infinite": (lambda m, s: usual(m, s) / 0, ["the value is not finite"]),
    "raises": (lambda m: m, ["it raises an error"]),
    "complex": (lambda m, s: usual(m, s) + 0j, ["it does not return floating-point numbers"]),
    "integers": (lambda m, s: usual(m, s).long(), ["it does not return floating-point numbers"]),
    "changed in place": (in_place, ["its gradient raises an error"]),
    "infinite far out": (lambda m, s: usual(m, s) / (s.abs().max() < 20), ["it overflows"]),
    "a backward that raises": (raising, ["its gradient raises an error"]),
    "refuses what is far out": (refusing(lambda s: s.abs().max() > 20), ["it raises an error"]),
    "refuses what is near": (refusing(lambda s: s.abs().max() < 1e-2), ["it raises an error"]),
    "nothing far out": (
        lambda m, s: usual(m, s) if s.abs().max() < 20 else None,
        ["it does not return a tensor"],
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_faults_of_a_kl(name):
    kl, wanted = OTHER[name]
    report = check_kl(kl)
    if wanted is None:
        assert not report.ok
    else:
        assert names(report) == wanted, report
    assert all(finding.evidence and finding.cure for finding in report.findings)


def test_the_evidence_of_a_gradient_is_where_it_is_furthest_off():
    torch.manual_seed(3)
    (finding,) = check_kl(lambda m, s: usual(m.detach(), s).sum(-1)).findings
    torch.manual_seed(3)
    slopes = torch.randn(3, dtype=torch.float64)[:, None] * torch.tensor(_MU)
    worst = slopes.flatten()[slopes.abs().argmax()]
    assert finding.evidence == f"0 where the value's own is {worst:.3g}"


def test_a_clamp_is_found_at_the_first_size_beyond_it():
    (finding,) = check_kl(lambda m, s: usual(m, s.clamp(min=-10))).findings
    assert finding.name == "it is clamped inside" and "at log_var = -11 " in finding.evidence


def test_the_evidence_names_the_clamp():
    report = check_kl(lambda m, s: usual(m, s.clamp(-10, 10)).sum(-1))
    assert "at log_var = 11" in str(report) and "below 11 it is right" in " ".join(
        str(report).split()
    )


def test_an_error_says_where_it_was_raised():
    for kl, cure in ((in_place, "leave tensors as they are"), (raising, "call backward()")):
        assert cure in check_kl(kl).findings[0].cure
    report = check_kl(refusing(lambda s: s.abs().max() > 20))
    assert "ValueError: not there; at log-variances from 21 to 21" in str(report)


def test_a_check_of_a_kl_leaves_the_random_stream_alone():
    state = torch.get_rng_state()
    with torch.no_grad():
        assert check_kl(gaussian_kl).ok
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_kl_input():
    with pytest.raises(TypeError, match=r"callable as kl_function\(mu, log_var\), got str"):
        check_kl("kl")


def test_the_points_tell_the_mistakes_apart():
    """Values of any two readings of one shape differ by ten times what the check forgives."""
    mu, log_var = torch.tensor(_MU, dtype=torch.float64), torch.tensor(_LOG_VAR).double().abs()
    formulas = [usual, *(formula for formula, _ in _MISTAKES.values())]
    reductions = [*_RIGHT, *(reduce for reduce, _ in _REDUCTIONS.values())]
    values = [reduce(formula(mu, log_var)) for formula in formulas for reduce in reductions]
    for a, b in itertools.combinations(values, 2):
        assert a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_right_kl_in_sixteen_bits_is_right():
    def half(mu, log_var):
        return (0.5 * (mu**2 + log_var.exp() - 1 - log_var)).sum(-1).bfloat16()

    assert check_kl(half).ok
    report = check_kl(lambda mu, log_var: half(mu, log_var.clamp(-8, 3)))
    assert [fault.name for fault in report.findings] == ["it is clamped inside"]
    assert not check_kl(lambda mu, log_var: 1.1 * half(mu, log_var)).ok
