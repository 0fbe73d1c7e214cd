"""Distributions taken apart and put together again, for every family of torch.distributions."""

import inspect

import pytest
import torch
import torch.distributions as D
from torch.distributions import Independent

from reparam.estimators._contract import parameters_of, rebuilt

F64 = torch.float64
POSITIVE = torch.tensor([0.5, 1.5, 2.5], dtype=F64)
REAL = torch.tensor([-0.5, 0.3, 1.1], dtype=F64)
SIMPLEX = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=F64)
UNIT = torch.tensor([0.2, 0.5, 0.7], dtype=F64)
CHOLESKY = torch.tensor([[1.0, 0.0], [0.4, 0.8]], dtype=F64)
LOC2 = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=F64)

#: Arguments of every family: the tensors that `parameters_of` must find again, and the others.
FAMILIES = {
    "Bernoulli": ({"probs": UNIT}, {}),
    "Beta": ({"concentration1": POSITIVE, "concentration0": POSITIVE + 1}, {}),
    "Binomial": ({"probs": UNIT}, {"total_count": 4}),
    "Categorical": ({"probs": SIMPLEX}, {}),
    "Cauchy": ({"loc": REAL, "scale": POSITIVE}, {}),
    "Chi2": ({"df": POSITIVE}, {}),
    "ContinuousBernoulli": ({"probs": UNIT}, {"lims": (0.49, 0.51)}),
    "Dirichlet": ({"concentration": LOC2}, {}),
    "Exponential": ({"rate": POSITIVE}, {}),
    "FisherSnedecor": ({"df1": POSITIVE, "df2": POSITIVE + 1}, {}),
    "Gamma": ({"concentration": POSITIVE, "rate": POSITIVE + 1}, {}),
    "GeneralizedPareto": (  # torch's log_prob takes no float64
        {"loc": REAL.float(), "scale": POSITIVE.float(), "concentration": UNIT.float()},
        {},
    ),
    "Geometric": ({"probs": UNIT}, {}),
    "Gumbel": ({"loc": REAL, "scale": POSITIVE}, {}),
    "HalfCauchy": ({"scale": POSITIVE}, {}),
    "HalfNormal": ({"scale": POSITIVE}, {}),
    "InverseGamma": ({"concentration": POSITIVE, "rate": POSITIVE + 1}, {}),
    "Kumaraswamy": ({"concentration1": POSITIVE, "concentration0": POSITIVE + 1}, {}),
    "LKJCholesky": ({"concentration": POSITIVE}, {"dim": 3}),
    "Laplace": ({"loc": REAL, "scale": POSITIVE}, {}),
    "LogNormal": ({"loc": REAL, "scale": POSITIVE}, {}),
    "LogisticNormal": ({"loc": LOC2, "scale": LOC2 + 1}, {}),
    "LowRankMultivariateNormal": (
        {"loc": LOC2, "cov_factor": LOC2[:2, :1], "cov_diag": LOC2 + 1},
        {},
    ),
    "Multinomial": ({"probs": SIMPLEX}, {"total_count": 4}),
    "MultivariateNormal": ({"loc": LOC2, "scale_tril": CHOLESKY}, {}),
    "NegativeBinomial": ({"total_count": POSITIVE, "probs": UNIT}, {}),
    "Normal": ({"loc": REAL, "scale": POSITIVE}, {}),
    "OneHotCategorical": ({"probs": SIMPLEX}, {}),
    "OneHotCategoricalStraightThrough": ({"probs": SIMPLEX}, {}),
    "Pareto": ({"scale": POSITIVE, "alpha": POSITIVE + 1}, {}),
    "Poisson": ({"rate": POSITIVE}, {}),
    "RelaxedBernoulli": ({"probs": UNIT}, {"temperature": torch.tensor(0.5, dtype=F64)}),
    "RelaxedOneHotCategorical": (
        {"probs": SIMPLEX},
        {"temperature": torch.tensor(0.5, dtype=F64)},
    ),
    "StudentT": ({"df": POSITIVE, "loc": REAL, "scale": POSITIVE}, {}),
    "Uniform": ({"low": REAL, "high": REAL + POSITIVE}, {}),
    "VonMises": ({"loc": REAL, "concentration": POSITIVE}, {}),
    "Weibull": ({"scale": POSITIVE, "concentration": POSITIVE + 1}, {}),
    "Wishart": ({"df": POSITIVE + 9, "scale_tril": CHOLESKY}, {}),
}
#: What has no parameters of its own.
OTHERS = {
    "Distribution",
    "ExponentialFamily",
    "Independent",
    "MixtureSameFamily",
    "TransformedDistribution",
}


def named(name):
    return getattr(D, name)


def test_no_family_is_forgotten():
    families = {n for n in D.__all__ if inspect.isclass(named(n))}
    families = {n for n in families if issubclass(named(n), D.Distribution)}
    assert families <= FAMILIES.keys() | OTHERS, "give the new family of torch an entry above"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_apart_and_together(name):
    if not hasattr(D, name):
        pytest.skip(f"this torch has no {name}")
    given, others = FAMILIES[name]
    given = {k: v.clone().requires_grad_() for k, v in given.items()}
    q = named(name)(**given, **others)
    found = parameters_of(q)
    assert list(found) == list(given)
    for key, value in found.items():
        assert value.shape[: len(q.batch_shape)] == q.batch_shape
        torch.testing.assert_close(value, given[key].expand_as(value))
        (slope,) = torch.autograd.grad(value.sum(), given[key], retain_graph=True)
        assert slope.shape == given[key].shape
    torch.manual_seed(0)
    z = q.sample((5,))
    z = z.clamp(1e-6, 1 - 1e-6) if name.startswith("Relaxed") else z
    # further dimensions in front, under layers of Independent, one entry changed
    layers = Independent(q, 1)
    front = {k: v.detach().expand(2, *v.shape).clone() for k, v in found.items()}
    again = rebuilt(layers, front)
    assert type(again) is Independent and type(again.base_dist) is named(name)
    assert again.batch_shape == (2,) and again.event_shape == layers.event_shape
    expected = layers.log_prob(z).detach()
    got = again.log_prob(z.unsqueeze(1).expand(5, 2, *z.shape[1:]))
    torch.testing.assert_close(got, expected.unsqueeze(1).expand(5, 2))
    for key in others:
        kept = getattr(again.base_dist, key if hasattr(q, key) else f"_{key}")
        if isinstance(kept, torch.Tensor):
            kept = kept.unique().item()
        assert kept == others[key]


@pytest.mark.parametrize("name", [n for n, (given, _) in FAMILIES.items() if "probs" in given])
def test_of_probs_and_logits_the_one_that_was_given(name):
    given, others = FAMILIES[name]
    for key in ("probs", "logits"):
        value = given["probs"].clone() if key == "probs" else given["probs"].log()
        rest = {k: v for k, v in given.items() if k != "probs"}
        q = named(name)(**{key: value.requires_grad_()}, **rest, **others)
        assert set(parameters_of(q)) == {key, *rest}
        for cached in ("probs", "logits"):  # torch stores the other now
            getattr(q, cached)
        for one in (q, Independent(q, 1)):
            found = parameters_of(one)
            assert set(found) == {key, *rest}
            assert torch.autograd.grad(found[key].sum(), value, retain_graph=True)


def test_a_multivariate_normal_is_its_cholesky_factor():
    covariance = (CHOLESKY @ CHOLESKY.mT).requires_grad_()
    for q in (
        D.MultivariateNormal(LOC2, covariance),
        D.MultivariateNormal(LOC2, precision_matrix=covariance.inverse()),
    ):
        found = parameters_of(q)
        torch.testing.assert_close(found["scale_tril"], CHOLESKY.expand(3, 2, 2))
        assert torch.autograd.grad(found["scale_tril"].sum(), covariance)


def test_numbers_become_tensors_of_the_full_shape():
    q = Independent(D.Normal(torch.zeros(4, 3), 2.0), 1)
    assert {k: v.shape for k, v in parameters_of(q).items()} == {"loc": (4, 3), "scale": (4, 3)}
    assert parameters_of(D.NegativeBinomial(3.0, UNIT))["total_count"].shape == (3,)


def test_what_cannot_be_taken_apart():
    normal = D.Normal(REAL, POSITIVE)
    mixture = D.MixtureSameFamily(D.Categorical(UNIT), normal)
    moved = D.TransformedDistribution(normal, D.AffineTransform(0.0, 2.0))
    for q, name in (
        (mixture, "MixtureSameFamily"),
        (Independent(moved, 1), "TransformedDistribution"),
    ):
        with pytest.raises(ValueError, match=rf"parameters of {name} cannot be told .* Pathwise"):
            parameters_of(q)

    class Bent(D.Normal):
        def __init__(self, loc, scale, bend):
            super().__init__(loc, scale)

    with pytest.raises(ValueError, match="parameters of Bent cannot be told"):
        rebuilt(Bent(REAL, POSITIVE, 1.0), {"loc": REAL, "scale": POSITIVE})


def test_under_func_and_compile():
    def slope(loc):
        q = Independent(D.Normal(loc, torch.ones(3, dtype=F64), validate_args=False), 1)
        found = parameters_of(q)
        return rebuilt(q, {**found, "loc": found["loc"] * 2}).log_prob(REAL)

    expected = -2 * (2 * POSITIVE - REAL)
    torch.testing.assert_close(torch.func.grad(slope)(POSITIVE), expected)
    several = torch.func.vmap(torch.func.grad(slope))(torch.stack([POSITIVE, REAL]))
    torch.testing.assert_close(several[0], expected)
    compiled = torch.compile(slope, backend="aot_eager")
    torch.testing.assert_close(compiled(POSITIVE), slope(POSITIVE))
