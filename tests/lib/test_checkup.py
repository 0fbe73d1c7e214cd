"""Every fault is found by its name in a sampler that really has it; right samplers pass."""

import math

import pytest
import scipy.stats
import torch
from torch import nn
from torch.distributions import Normal

from reparam.checkup import check_gradients, check_sampler
from reparam.gaussian import ReparameterizedSampling, reparameterize_gaussian


def names(report) -> list[str]:
    return [finding.name for finding in report.findings]


class OneLayer(nn.Module):
    """A sampler that is a right module, written by a reader."""

    def forward(self, mu, log_var):
        if not self.training:
            return mu
        return mu + log_var.mul(0.5).exp() * torch.randn_like(mu)


RIGHT = {
    "function": reparameterize_gaussian,
    "module": ReparameterizedSampling(),
    "own module": OneLayer(),
    "torch": lambda mu, log_var: Normal(mu, torch.exp(log_var / 2)).rsample(),
    "inverse of the CDF": lambda mu, log_var: (
        mu
        + torch.exp(log_var / 2)
        * torch.special.ndtri(torch.rand_like(mu, dtype=torch.float64)).to(mu)
    ),
    "minus": lambda mu, log_var: mu - torch.sqrt(log_var.exp()) * torch.randn(mu.shape).to(mu),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_samplers_pass(name):
    """40 seeds each; test_false_alarms runs more of them."""
    for seed in range(40):
        report = check_sampler(RIGHT[name], seed=seed)
        assert report.ok, report


def test_false_alarms():
    """200 seeds at the stated 1e-6: false alarm 2e-4 by that bound, fixed by the seeds."""
    for seed in range(1000, 1200):
        report = check_sampler(reparameterize_gaussian, seed=seed)
        assert report.ok, report


def deviating(z_of_mean: float = 0.0, upper_tail: float = 0.5):
    """A sampler whose second column has exactly this mean, in standard errors, and this variance.

    The variance is that which chi-square exceeds with probability `upper_tail`.
    """

    def sampler(mu, log_var):
        noise = torch.randn_like(mu)
        if len(mu) > 100:
            noise = (noise - noise.mean(0)) / noise.std(0)
            n, column = len(mu), torch.tensor([0.0, 1.0, 0.0, 0.0])
            variance = scipy.stats.chi2(n - 1).isf(upper_tail) / (n - 1)
            noise = noise * (1 + (math.sqrt(variance) - 1) * column)
            noise = noise + column * z_of_mean * math.sqrt(variance / n)
        return mu + std(log_var) * noise

    return sampler


def test_the_level_is_the_stated_one():
    """1e-6 shared by 22 tests is 4.5e-8 each: on either side of it, for mean and variance."""
    passed, found = 0.5 * 1.01 * 1e-6 / 22, 0.5 * 0.99 * 1e-6 / 22  # in one of two tails
    assert check_sampler(deviating(z_of_mean=scipy.stats.norm.isf(passed))).ok
    report = check_sampler(deviating(z_of_mean=scipy.stats.norm.isf(found)))
    assert names(report) == ["the mean is wrong"]
    for tail in (passed, 1 - passed):
        assert check_sampler(deviating(upper_tail=tail)).ok
    for tail in (found, 1 - found):
        assert names(check_sampler(deviating(upper_tail=tail))) == ["the variance is wrong"]


class NoEps(torch.autograd.Function):
    """The right value with a gradient that forgets the noise."""

    @staticmethod
    def forward(ctx, mu, log_var):
        ctx.save_for_backward(log_var)
        return mu + torch.exp(log_var / 2) * torch.randn_like(mu)

    @staticmethod
    def backward(ctx, slope):
        (log_var,) = ctx.saved_tensors
        return slope, slope * torch.exp(log_var / 2) / 2


class Always(nn.Module):
    """The source document's module (correction C21)."""

    def forward(self, mu, log_var):
        return mu + torch.exp(0.5 * log_var) * torch.randn_like(log_var)


class SigmaDetached(nn.Module):
    def forward(self, mu, log_var):
        return mu + std(log_var).detach() * torch.randn_like(mu) if self.training else mu


class Narrow(nn.Module):
    """Without tensors of its own, so that nothing but its code fixes the dtype."""

    def forward(self, mu, log_var):
        return reparameterize_gaussian(mu, log_var, training=self.training).float()


class Never(nn.Module):
    def forward(self, mu, log_var):
        return mu + 0 * log_var


class Swapped(nn.Module):
    def forward(self, mu, log_var):
        return reparameterize_gaussian(mu, log_var, training=not self.training)


def reseeded(mu, log_var):
    torch.manual_seed(0)
    return reparameterize_gaussian(mu, log_var)


def moving_average(mu, log_var):
    eps = torch.randn_like(mu)
    return mu + torch.exp(log_var / 2) * (eps + 0.5 * eps.roll(1, 0)) / math.sqrt(1.25)


def mixed_columns(mu, log_var):
    eps = torch.randn_like(mu)
    return mu + torch.exp(log_var / 2) * (eps + 0.5 * eps.roll(1, 1)) / math.sqrt(1.25)


def raises(mu, log_var):
    raise RuntimeError("no idea")


std = lambda log_var: torch.exp(log_var / 2)  # noqa: E731
eps = torch.randn_like

FAULTY = {
    # gradients
    "sample": (lambda m, v: Normal(m, std(v)).sample(), ["the sample has no graph"]),
    "detached": (lambda m, v: (m + std(v) * eps(m)).detach(), ["the sample has no graph"]),
    "torch.normal": (lambda m, v: torch.normal(m, std(v)), ["the gradient is silently zero"]),
    "in place": (
        lambda m, v: (m.clone() * 0 + std(v) * 0).normal_() * std(v).detach() + m.detach(),
        ["the gradient is silently zero"],
    ),
    "mu detached": (lambda m, v: m.detach() + std(v) * eps(m), ["the gradient for mu is not 1"]),
    "mu on a longer path": (
        lambda m, v: m + std(v) * eps(m) + m - m.detach(),
        ["the gradient for mu is not 1"],
    ),
    "sigma detached": (lambda m, v: m + std(v).detach() * eps(m), ["log_var gets no gradient"]),
    "no eps": (NoEps.apply, ["the gradient for log_var lacks eps"]),
    "nearly twice too large": (  # 0.95 (z - mu), which is no known mistake
        lambda m, v: (z := m + std(v) * eps(m)) + 0.45 * (z - m).detach() * (v - v.detach()),
        ["the gradient for log_var is not sigma eps / 2"],
    ),
    "extra slope": (
        lambda m, v: m + std(v) * eps(m) + 3 * (v - v.detach()),
        ["the gradient for log_var is not sigma eps / 2"],
    ),
    # readings of log_var
    "log sigma": (
        lambda m, v: m + torch.exp(v) * eps(m),
        [
            "log_var is read as log sigma: the ½ is missing",
            "the gradient for log_var is twice too large: the ½ is missing",
        ],
    ),
    "sigma": (
        lambda m, v: m + v * eps(m),
        ["log_var is read as sigma", "the gradient for log_var is that of log_var read as sigma"],
    ),
    "Normal(mu, log_var)": (lambda m, v: Normal(m, v).rsample(), ["it raises an error"]),
    "variance": (lambda m, v: m + torch.sqrt(v) * eps(m), ["log_var is read as the variance"]),
    "unit sigma": (
        lambda m, v: m + 0 * v + eps(m),
        ["sigma is 1 whatever log_var is", "log_var gets no gradient"],
    ),
    # noise
    "mean": (lambda m, v: m + 0 * v, ["there is no noise"]),
    "same row": (
        lambda m, v: m + std(v) * torch.randn(m.shape[-1]),
        ["the noise is the same for every row"],
    ),
    "same column": (
        lambda m, v: m + std(v) * torch.randn(len(m), 1),
        ["the noise is the same for every column"],
    ),
    "one number": (
        lambda m, v: m + std(v) * torch.randn(()),
        ["the noise is the same for every row", "the noise is the same for every column"],
    ),
    "reseeded": (reseeded, ["the noise is the same in every call"]),
    "rows correlated": (moving_average, ["the noise of different rows is correlated"]),
    "columns correlated": (mixed_columns, ["the noise of different columns is correlated"]),
    # law
    "uniform noise": (lambda m, v: m + std(v) * torch.rand_like(m), ["the mean is wrong"]),
    "mean off": (lambda m, v: m + std(v) * (eps(m) + 0.1), ["the mean is wrong"]),
    "variance off": (
        lambda m, v: m + math.sqrt(1.15) * std(v) * eps(m),
        ["the variance is wrong"],
    ),
    "one quiet column": (
        lambda m, v: m + std(v) * eps(m) * torch.tensor([0.0, 1.0, 1.0, 1.0]),
        ["the variance is wrong"],
    ),
    "uniform, standardized": (
        lambda m, v: m + std(v) * (torch.rand_like(m) - 0.5) * math.sqrt(12),
        ["the noise is not Gaussian"],
    ),
    # form
    "float": (lambda m, v: (m + std(v) * eps(m)).float(), ["z has the wrong dtype"]),
    "flat": (lambda m, v: (m + std(v) * eps(m)).flatten(), ["z has the wrong shape"]),
    "one more": (lambda m, v: m + std(v) * torch.randn(5, *m.shape), ["z has the wrong shape"]),
    "meta": (lambda m, v: (m + v).to("meta"), ["z has the wrong device"]),
    "pair": (lambda m, v: (m, v), ["z is not a tensor"]),
    "nothing": (lambda m, v: None, ["z is not a tensor"]),
    "not a number in three columns": (
        lambda m, v: m + std(v) * eps(m) * torch.tensor([math.nan, math.nan, 1, math.nan]),
        ["z is not finite"],
    ),
    "infinite": (lambda m, v: (m + std(v) * eps(m)) / 0, ["z is not finite"]),
    "raises": (raises, ["it raises an error"]),
    "one argument": (lambda m: m, ["it raises an error"]),
    # places: right on a CPU, and an error on a GPU
    "noise on the CPU": (
        lambda m, v: m + std(v) * torch.randn(m.shape),
        ["the noise is on the wrong device"],
    ),
    "rand on the CPU": (
        lambda m, v: m + std(v) * torch.special.ndtri(torch.rand(m.shape, dtype=torch.float64)),
        ["z has the wrong dtype"],
    ),
    "normal on the CPU": (
        lambda m, v: m + std(v) * torch.empty(m.shape).normal_(),
        ["the noise is on the wrong device"],
    ),
    # modules
    "sigma detached in a module": (SigmaDetached(), ["log_var gets no gradient"]),
    "float32 in a module": (Narrow(), ["z has the wrong dtype"]),
    "always": (Always(), ["it still samples in evaluation mode"]),
    "never": (Never(), ["it does not sample in training mode"]),
    "swapped": (
        Swapped(),
        ["it does not sample in training mode", "it still samples in evaluation mode"],
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_each_fault_is_named(name):
    sampler, wanted = FAULTY[name]
    for seed in range(5):
        report = check_sampler(sampler, seed=seed)
        assert names(report) == wanted, report
        assert not report.ok and all(f.evidence and f.cure for f in report.findings)


def test_float32_noise_for_float64_is_remarked_on():
    report = check_sampler(lambda m, v: m + std(v) * torch.randn(m.shape).to(m))
    assert report.ok
    assert [r.name for r in report.remarks] == ["the noise is float32 for float64 input"]
    assert "no fault found\n· the noise is float32" in str(report)
    assert not check_sampler(reparameterize_gaussian).remarks


def test_tensors_of_the_sampler_s_own_are_no_noise_on_the_wrong_device():
    """They move with a module; and what a sampler looks at has no value on the meta device."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("one", torch.ones(4))

        def forward(self, mu, log_var):
            if not self.training:
                return mu
            return mu + self.one * std(log_var) * torch.randn(mu.shape).to(mu.device)

    def looking(mu, log_var):
        noise = torch.randn(mu.shape).to(mu)
        return mu + std(log_var) * noise if bool(noise.isfinite().all()) else mu

    one = torch.ones(4)
    for sampler in (Scaled(), looking, lambda m, v: m + one * std(v) * eps(m)):
        assert check_sampler(sampler).ok


def test_a_sampler_with_parameters_of_its_own_is_asked_for_their_dtype_alone():
    class Rotated(nn.Module):
        def __init__(self):
            super().__init__()
            self.rotation = nn.Linear(4, 4, bias=False)
            nn.init.eye_(self.rotation.weight)

        def forward(self, mu, log_var):
            return mu + std(log_var) * self.rotation(torch.randn_like(mu)) if self.training else mu

    assert check_sampler(Rotated()).ok


def test_the_evidence_names_what_is_wrong():
    def evidence(sampler):
        return check_sampler(sampler).findings[0].evidence

    class Shifted(ReparameterizedSampling):
        def forward(self, mu, log_var):
            return super().forward(mu, log_var) if self.training else mu - 0.5

    assert evidence(FAULTY["float"][0]) == "torch.float32 for torch.float64"
    assert "up to 0.5" in evidence(Shifted())
    assert evidence(lambda m, v: 1.05 * m + std(v) * eps(m) - 0.05 * m.detach()) == (
        "dz/dmu has median 1.05 and runs from 1.05 to 1.05"
    )
    for sampler in (moving_average, mixed_columns):  # 0.5 / 1.25 of neighbours
        assert float(evidence(sampler).split()[1]) == pytest.approx(0.4, abs=0.05)
    negative, infinite = FAULTY["variance"][0], FAULTY["infinite"][0]
    assert evidence(negative).endswith("all where log_var is negative")
    assert evidence(infinite) == "40000 of 40000 values are NaN or infinite"
    cures = [check_sampler(sampler).findings[0].cure for sampler in (negative, infinite)]
    assert cures[0].startswith("sigma is torch.exp(log_var / 2)") and "then at" in cures[1]


def test_the_seed_alone_decides_the_noise():
    seen = []

    def watched(mu, log_var):
        seen.append(reparameterize_gaussian(mu, log_var))
        return seen[-1]

    firsts = []
    for seed in (3, 3, 4):
        torch.rand(1)  # moves the global generator
        assert check_sampler(watched, seed=seed).ok
        firsts.append(seen[0])
        seen.clear()
    assert torch.equal(firsts[0], firsts[1]) and not torch.equal(firsts[0], firsts[2])


def test_the_stated_power():
    """A mean off by 0.1 sigma in one column, a variance off by 15 %: found from every seed."""
    shift, stretch = torch.tensor([0, 0.1, 0, 0]), torch.tensor([1, 1, math.sqrt(1.15), 1])
    for seed in range(50):
        mean = check_sampler(lambda m, v: m + std(v) * (eps(m) + shift), seed=seed)
        variance = check_sampler(lambda m, v: m + std(v) * eps(m) * stretch, seed=seed)
        assert names(mean) == ["the mean is wrong"]
        assert "the variance is wrong" in names(variance)


def test_a_check_leaves_mode_and_random_stream_alone():
    for mode in (True, False):
        module = ReparameterizedSampling().train(mode)
        state = torch.get_rng_state()
        assert check_sampler(module).ok
        assert module.training is mode
        assert torch.equal(torch.get_rng_state(), state)
    module.train().layer = nn.Dropout().eval()
    check_sampler(module)
    assert module.training and not module.layer.training


def test_a_slope_that_is_a_little_off_is_found_and_the_worst_one_shown():
    """5 % too large for mu; for log_var wrong where it is smallest only, in either sign."""
    report = check_sampler(lambda m, v: m + std(v) * eps(m) + (m - m.detach()) / 20)
    assert names(report) == ["the gradient for mu is not 1"]
    for sign in (1, -1):
        extra = torch.tensor([0.0, 0.0, 0.0, 9.0 * sign])
        report = check_sampler(
            lambda m, v, extra=extra: m + std(v) * eps(m) + extra * (v - v.detach())
        )
        (finding,) = report.findings
        assert finding.name == "the gradient for log_var is not sigma eps / 2"
        half, slope = (float(part.split()[-1]) for part in finding.evidence.split(", "))
        assert slope - half == pytest.approx(9.0 * sign, abs=0.05)
    extra = torch.tensor([0.05, 0.0, 0.0, 0.0])  # where sigma, too, is smallest
    report = check_sampler(lambda m, v: m + std(v) * eps(m) + extra * (v - v.detach()))
    half, slope = (float(part.split()[-1]) for part in report.findings[0].evidence.split(", "))
    assert slope - half == pytest.approx(0.05, abs=0.01)


@pytest.mark.gpu
def test_on_a_gpu():
    assert check_sampler(reparameterize_gaussian, device="cuda").ok
    assert names(check_sampler(lambda m, v: torch.randn(m.shape) * v + m, device="cuda")) == [
        "the noise is on the wrong device"
    ]


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(off):
    with off():
        assert check_sampler(reparameterize_gaussian).ok
        assert not check_sampler(lambda m, v: m + std(v) * eps(m).detach() + m.detach()).ok


def test_the_report_reads_well():
    report = check_sampler(lambda mu, log_var: mu + torch.exp(log_var) * torch.randn_like(mu))
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("<lambda>: 2 faults found\n✗ log_var is read as log sigma")
    assert "at log_var = 1.7 the samples' standard deviation is 5.4" in text
    assert "where exp(log_var / 2) = 2.34" in " ".join(text.split())
    assert repr(report) == text
    assert str(check_sampler(reparameterize_gaussian)).endswith("no fault found")


def test_ctrl_c_is_not_a_finding():
    def interrupted(mu, log_var):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_sampler(interrupted)


@pytest.mark.parametrize(
    ("sampler", "options", "error"),
    [(3, {}, TypeError), (reparameterize_gaussian, {"seed": -1}, ValueError)],
)
def test_bad_sampler_input(sampler, options, error):
    with pytest.raises(error):
        check_sampler(sampler, **options)


# check_gradients


def test_gradients_of_a_sound_model_pass_and_stay_untouched():
    model = nn.Linear(3, 2)
    loss = model(torch.ones(4, 3)).square().mean()
    assert check_gradients(loss, model).ok
    assert check_gradients(loss, model.named_parameters()).ok
    assert check_gradients(loss, dict(model.named_parameters())).ok
    assert all(weights.grad is None for weights in model.parameters())
    loss.backward()  # the graph is still there


def test_each_gradient_fault_is_named_with_its_parameter():
    good, missing, zero, nan, frozen = (torch.ones(2).requires_grad_() for _ in range(5))
    frozen.requires_grad_(False)
    loss = good.sum() + torch.normal(zero, 1.0).sum() + (nan * 0).sqrt().sum()
    parameters = {"good": good, "missing": missing, "zero": zero, "nan": nan, "frozen": frozen}
    report = check_gradients(loss, parameters)
    assert names(report) == [
        "missing: there is no gradient",
        "zero: the gradient is exactly zero",
        "nan: the gradient is not finite",
        "frozen: there is no gradient",
    ]
    assert "requires_grad is False" in report.findings[3].evidence
    assert "sample()" in report.findings[0].cure
    assert "requires_grad_(True)" in report.findings[3].cure


def test_a_blocked_vae_is_found_out():
    """Without the KL nothing complains but this (correction C13)."""
    from reparam.vae import digits_vae

    vae = digits_vae()
    reconstruction, kl = vae.terms(torch.ones(4, 64), sample=lambda q: q.sample())
    blocked = check_gradients(-reconstruction.mean(), vae)
    assert [f.name.split(":")[0] for f in blocked.findings] == [
        f"encoder.{name}" for name, _ in vae.encoder.named_parameters()
    ]
    assert check_gradients((kl - reconstruction).mean(), vae).ok
    assert check_gradients(-vae.elbo(torch.ones(4, 64)).mean(), vae).ok


def test_a_loss_without_a_graph_or_value_is_a_finding():
    mu = torch.ones(2, requires_grad=True)
    assert names(check_gradients(torch.tensor(1.0), {"mu": mu})) == ["the loss has no graph"]
    report = check_gradients((mu / 0).sum(), {"mu": mu})
    assert names(report) == ["the loss is not finite", "mu: the gradient is not finite"]


@pytest.mark.parametrize(
    ("loss", "parameters", "error", "message"),
    [
        (torch.ones(2), {"a": torch.ones(1)}, ValueError, "scalar"),
        (torch.tensor(1), {"a": torch.ones(1)}, TypeError, "loss must be a floating-point"),
        (1.0, {"a": torch.ones(1)}, TypeError, "loss must be"),
        (torch.tensor(1.0), {}, ValueError, "at least one"),
        (torch.tensor(1.0), {"a": 3}, TypeError, "parameter a"),
        (torch.tensor(1.0), nn.ReLU(), ValueError, "at least one"),
        (torch.tensor(1.0), nn.Linear(2, 2).parameters(), TypeError, "must have names.*generator"),
        (torch.tensor(1.0), torch.ones(3, 2), TypeError, "must have names.*Tensor"),
        (torch.tensor(1.0), torch.ones(()), TypeError, "must have names.*Tensor"),
        (torch.tensor(1.0), None, TypeError, "must have names.*NoneType"),
        (torch.tensor(1.0), [[torch.ones(1), torch.ones(1)]], TypeError, "must have names.*list"),
    ],
)
def test_bad_gradient_input(loss, parameters, error, message):
    with pytest.raises(error, match=message):
        check_gradients(loss, parameters)


def test_check_gradients_where_nothing_wants_one():
    frozen, live = torch.ones(2), torch.ones(2, requires_grad=True)
    report = check_gradients(live.sum(), {"frozen": frozen})
    assert [fault.name for fault in report.findings] == ["frozen: there is no gradient"]


def test_check_gradients_after_backward():
    live = torch.ones(2, requires_grad=True)
    loss = live.square().sum()
    loss.backward()
    report = check_gradients(loss, {"live": live})
    assert [fault.name for fault in report.findings] == ["the loss has no graph any more"]
    assert live.grad.tolist() == [2.0, 2.0]


def test_check_gradients_of_an_embedding():
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    report = check_gradients(embedding(torch.tensor([1])).square().sum(), embedding)
    assert report.ok


def test_check_gradients_hands_other_errors_on():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            raise RuntimeError("of one's own")

    live = torch.ones((), requires_grad=True)
    with pytest.raises(RuntimeError, match="of one's own"):
        check_gradients(Broken.apply(live), {"live": live})
