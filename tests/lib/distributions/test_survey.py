"""The table of distributions says what each one does, and what is not known shows up in it."""

import dataclasses
import importlib
import warnings

import pytest
import torch
from torch import distributions
from torch.distributions import Distribution, Normal, constraints

import reparam.distributions
from reparam.distributions import survey
from reparam.distributions.survey import _is_monotone


@pytest.fixture(scope="module")
def table():
    return survey()


def public_distributions():
    things = vars(distributions).values()
    kinds = {t for t in things if isinstance(t, type) and issubclass(t, Distribution)}
    return kinds - {distributions.Distribution, distributions.ExponentialFamily}


def test_every_distribution_stands_in_it_once_and_is_known(table):
    theirs = [row.name for row in table.rows if not row.name.endswith("(reparam)")]
    assert sorted(theirs) == sorted(kind.__name__ for kind in public_distributions())
    for row in table.rows:
        assert row.path and row.values, f"{row.name}: {row.problem}"
        assert "construct" not in row.problem
    ours = {row.name.removesuffix(" (reparam)") for row in table.rows} - set(theirs)
    for name in reparam.distributions.__all__:
        thing = getattr(reparam.distributions, name)
        if isinstance(thing, type) and issubclass(thing, Distribution):
            assert table[f"{name} (reparam)"].reached, name
    assert {"TruncatedNormal"} <= ours


def test_it_agrees_with_what_pytorch_says_of_rsample(table):
    for kind in public_distributions():
        claim = kind.has_rsample
        if isinstance(claim, bool):
            assert table[kind.__name__].has_rsample == claim, kind
        assert table[kind.__name__].has_rsample == (table[kind.__name__].path != "none")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Normal", "location-scale"),
        ("MultivariateNormal", "location-scale"),
        ("LowRankMultivariateNormal", "location-scale"),
        ("Cauchy", "location-scale"),
        ("Uniform", "location-scale"),
        ("Laplace", "inverse CDF"),
        ("Gumbel", "inverse CDF"),
        ("Weibull", "inverse CDF"),
        ("Kumaraswamy", "inverse CDF"),
        ("Pareto", "inverse CDF"),
        ("ContinuousBernoulli", "inverse CDF"),
        ("GeneralizedPareto", "inverse CDF"),
        ("LogNormal", "transformation"),
        ("HalfNormal", "transformation"),
        ("LogisticNormal", "transformation"),
        ("Gamma", "implicit"),
        ("Beta", "implicit"),
        ("Dirichlet", "implicit"),
        ("StudentT", "implicit"),
        ("FisherSnedecor", "implicit"),
        ("InverseGamma", "implicit"),
        ("Wishart", "implicit"),
        ("TruncatedNormal (reparam)", "implicit"),
        ("VonMises (reparam)", "implicit"),
        ("Mixture (reparam)", "implicit"),
        ("Logistic (reparam)", "inverse CDF"),
        ("RelaxedBernoulli", "relaxation"),
        ("RelaxedOneHotCategorical", "relaxation"),
        ("OneHotCategoricalStraightThrough", "straight-through"),
        ("Poisson", "none"),
        ("LKJCholesky", "none"),
        ("VonMises", "none"),
        ("MixtureSameFamily", "none"),
    ],
)
def test_how_each_is_reparameterized(table, name, path):
    """By hand, from the source of PyTorch 2.13."""
    if name == "GeneralizedPareto" and not hasattr(distributions, name):
        pytest.skip("this torch has no such distribution")
    assert table[name].path == path


def test_torchs_come_first_by_name_and_ours_after_them(table):
    names = [row.name for row in table.rows]
    first_of_ours = min(at for at, name in enumerate(names) if name.endswith("(reparam)"))
    assert names[:first_of_ours] == sorted(names[:first_of_ours])
    assert all(name.endswith("(reparam)") for name in names[first_of_ours:])


def test_values(table):
    assert table["Poisson"].values == table["OneHotCategoricalStraightThrough"].values == "discrete"
    assert table["Normal"].values == table["LKJCholesky"].values == "continuous"


def test_nobody_can_change_it(table):
    for thing, name in ((table, "rows"), (table["Normal"], "path")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, ())


def test_it_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        survey()


def test_sources_parameters_and_second_derivatives(table):
    assert table["Weibull"].source == "Exponential → Power → Affine"
    assert table["StudentT"].source == "Gaussian, gamma"
    assert table["Cauchy"].source == "Cauchy"
    assert table["Gumbel"].source.startswith("Uniform → inverse Exp")
    assert table["StudentT"].reached == ("df", "loc", "scale")
    assert table["Gamma"].reached == ("concentration", "rate")
    assert table["TruncatedNormal (reparam)"].reached == ("loc", "scale", "low", "high")
    assert table["Mixture (reparam)"].reached == ("logits", "loc", "scale")
    assert table["RelaxedBernoulli"].reached == ("temperature", "logits")
    for name in ("Gamma", "Beta", "Dirichlet", "StudentT", "Chi2"):
        assert table[name].second is False
    for name in ("Normal", "Weibull", "TruncatedNormal (reparam)", "VonMises (reparam)"):
        assert table[name].second is True


def test_wishart_cannot_be_differentiated_for_several_samples(table):
    """PyTorch 2.13 takes regular samples for singular ones and overwrites what backward needs."""
    assert "backward()" in table["Wishart"].problem
    q = distributions.Wishart(torch.tensor(5.0), scale_tril=torch.eye(2).requires_grad_())
    with pytest.warns(UserWarning, match="Singular"):
        z = q.rsample((3,))
    with pytest.raises(RuntimeError, match="inplace"):
        z.sum().backward()


def test_what_reparam_has_instead_exists(table):
    assert table["VonMises"].instead == ("reparam.distributions.VonMises",)
    assert table["MixtureSameFamily"].instead == ("reparam.distributions.Mixture",)
    assert table["Poisson"].instead == ("reparam.estimators.MeasureValued",)
    for name in ("Bernoulli", "Categorical", "OneHotCategorical", "Binomial"):
        assert table[name].instead == ("reparam.relaxed", "reparam.estimators")
    for name in ("Geometric", "Multinomial", "LKJCholesky"):
        assert table[name].instead == ("reparam.estimators.ScoreFunction",)
    for row in table.rows:
        assert bool(row.instead) == (row.path == "none")
        for name in row.instead:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                module, _, attribute = name.rpartition(".")
                assert hasattr(importlib.import_module(module), attribute)


class Shifted(Normal):
    """New in PyTorch: a parameter without a gradient, a known path."""

    def __init__(self, loc, scale, validate_args=None):
        super().__init__(loc, scale, validate_args=validate_args)

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape) - (self.loc - self.loc.detach())


class Forgetful(Normal):
    """A parameter that the samples have nothing of."""

    def rsample(self, sample_shape=()):
        return self.scale * torch.randn(sample_shape, dtype=self.scale.dtype)


class Cubed(Normal):
    """A monotone function of one uniform draw, which is overwritten afterwards."""

    def rsample(self, sample_shape=()):
        u = torch.rand(sample_shape, dtype=self.scale.dtype)
        z = self.loc + self.scale * u**3
        u.zero_()
        return z


class OfTwo(Normal):
    """Monotone in the first of two uniform draws, as good as, and so no inverse CDF."""

    def rsample(self, sample_shape=()):
        u = torch.rand(sample_shape, dtype=self.scale.dtype)
        v = torch.rand_like(u)
        return self.loc + self.scale * (u**3 + 1e-12 * v**2)


class Twins(Normal):
    """Two numbers of one uniform draw."""

    def rsample(self, sample_shape=()):
        u = torch.rand(sample_shape, dtype=self.scale.dtype)
        return torch.stack([self.loc + self.scale * u**3, u**2], -1)


class Odd(Distribution):
    """New in PyTorch, and cannot be built from constraints."""

    support = constraints.real
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, recipe, validate_args=None):
        raise TypeError("a recipe")

    def log_prob(self, value):
        return value


def test_a_new_distribution_shows_up(monkeypatch):
    monkeypatch.setattr(distributions, "Shifted", Shifted, raising=False)
    monkeypatch.setattr(distributions, "Odd", Odd, raising=False)
    table = survey()
    assert table["Shifted"].path == "location-scale"
    assert (table["Shifted"].reached, table["Shifted"].missed) == (("scale",), ("loc",))
    assert table["Odd"].problem == "not known how to construct"
    assert "not known how to" in str(table) and "scale; not loc" in str(table)


@pytest.mark.parametrize(
    ("kind", "path", "reached", "missed"),
    [
        (Forgetful, "location-scale", ("scale",), ("loc",)),
        (Cubed, "inverse CDF", ("loc", "scale"), ()),
        (OfTwo, "transformation", ("loc", "scale"), ()),
        (Twins, "transformation", ("loc", "scale"), ()),
    ],
)
def test_what_tells_the_paths_of_new_ones_apart(monkeypatch, kind, path, reached, missed):
    monkeypatch.setattr(distributions, kind.__name__, kind, raising=False)
    row = survey()[kind.__name__]
    assert (row.path, row.reached, row.missed) == (path, reached, missed)


def test_monotone_up_or_down_in_each_column():
    noise = torch.tensor([[0.3, 0.9], [0.1, 0.2], [0.2, 0.5], [0.4, 0.1]])
    up, down = noise**2, 1 / noise
    for z in (
        up,
        down,
        torch.stack([up[:, 0], down[:, 1]], 1),
        up.mul(5).round(),
        -up.mul(5).round(),
    ):
        assert _is_monotone(z, noise)
    for column in (0, 1):
        bent = up.clone()
        bent[:, column] = (noise[:, column] - 0.25).abs()
        assert not _is_monotone(bent, noise)


def test_text_and_page(table):
    lines = str(table).splitlines()
    assert max(map(len, lines)) <= 82
    assert lines[0].split() == ["distribution", "values", "path", "from", "gradients", "reach"]
    words = " ".join(str(table).split())
    assert "LowRankMultivariate continuous location-scale Gaussian loc, cov_factor, Normal" in words
    assert "TransformedDistribution continuous" in words, "it fits its column just so"
    assert "RelaxedOneHot continuous" in words and "gamma df (once)" in words
    page = table._repr_html_()
    assert page.count("<tr>") == len(table.rows) + 1
    assert "<td>OneHotCategoricalStraightThrough</td>" in page
    assert repr(table) == str(table)


def test_it_draws_nothing_from_the_readers_generator():
    before = torch.get_rng_state()
    survey()
    assert torch.equal(before, torch.get_rng_state())
