"""The table of distributions says what each one does, and what is not known shows up in it."""

import importlib

import pytest
import torch
from torch import distributions
from torch.distributions import Distribution, Normal, constraints

import reparam.distributions
from reparam.distributions import survey


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


def test_text_and_page(table):
    lines = str(table).splitlines()
    assert max(map(len, lines)) <= 82
    assert lines[0].split() == ["distribution", "values", "path", "from", "gradients", "reach"]
    page = table._repr_html_()
    assert page.count("<tr>") == len(table.rows) + 1
    assert "<td>OneHotCategoricalStraightThrough</td>" in page
    assert repr(table) == str(table)


def test_it_draws_nothing_from_the_readers_generator():
    before = torch.get_rng_state()
    survey()
    assert torch.equal(before, torch.get_rng_state())
