"""`exact_gradient` beside SciPy's integrators, called as one would by hand.

`cubature` gets the same integrand in torch, vectorized, all slopes at once; `quad` gets plain
numbers and slopes typed from the formula, one integral a parameter. Neither checks anything:
`exact_gradient` integrates each problem four times, on two subdivisions and at two neighboring
parameters, and says how far off it may be.
"""

import math

import pytest
import torch
from scipy.integrate import cubature, dblquad, quad
from torch.distributions import Beta, Independent, Normal

from reparam.measure import exact_gradient
from tests.benchmarks.timing import interleaved, report

TOLERANCE = 1e-9  # of all of them; exact_gradient asks a tenth of its own 1e-8 of each quadrature
NORMAL = {name: torch.tensor(p, dtype=torch.float64) for name, p in (("loc", 0.5), ("scale", 1.2))}
EDGE = 12.0  # standard deviations: where the plane ends for SciPy, whose infinite boxes fail there


def by_cubature(f, make_distribution, parameters, low, high):
    """{name: slope} from `∫ f ∇q dz`, the density's gradient taken by autograd."""
    flat = torch.cat([p.reshape(-1) for p in parameters.values()]).double()
    sizes = [p.numel() for p in parameters.values()]

    def integrand(z):
        z = torch.as_tensor(z)
        copies = flat.expand(len(z), -1).clone().requires_grad_()
        named = {
            name: part.reshape(-1, *p.shape)
            for (name, p), part in zip(parameters.items(), copies.split(sizes, dim=-1), strict=True)
        }
        points = z if z.shape[1] > 1 else z[:, 0]
        density = make_distribution(**named).log_prob(points).exp()
        (slopes,) = torch.autograd.grad((density * f(points)).sum(), copies)
        return slopes.numpy()

    found = cubature(integrand, low, high, rtol=TOLERANCE, atol=TOLERANCE)
    assert found.status == "converged"
    parts = torch.as_tensor(found.estimate).split(sizes)
    return {n: s.reshape(p.shape) for (n, p), s in zip(parameters.items(), parts, strict=True)}


def normal_slopes(f, loc, scale, integrate):
    """The slopes of a normal law's two parameters, of numbers: one integral each."""

    def density(z):
        return math.exp(-(((z - loc) / scale) ** 2) / 2) / (scale * math.sqrt(2 * math.pi))

    def of_loc(z):
        return f(z) * density(z) * (z - loc) / scale**2

    def of_scale(z):
        return f(z) * density(z) * (((z - loc) / scale) ** 2 - 1) / scale

    return {"loc": integrate(of_loc), "scale": integrate(of_scale)}


def quad_on(low, high):
    return lambda g: quad(g, low, high, epsabs=TOLERANCE, epsrel=TOLERANCE)[0]


def smooth():
    line = ([-math.inf], [math.inf])
    return {
        "ours": lambda: exact_gradient(torch.sin, Normal, NORMAL).gradient,
        "cubature": lambda: by_cubature(torch.sin, Normal, NORMAL, *line),
        "quad": lambda: normal_slopes(math.sin, 0.5, 1.2, quad_on(-math.inf, math.inf)),
    }


def step():
    """SciPy gets the half line where the step is 1."""

    def f(z):
        return (z > 0).double()

    def one(z):
        return torch.ones_like(z)

    return {
        "ours": lambda: exact_gradient(f, Normal, NORMAL, break_points=[0]).gradient,
        "cubature": lambda: by_cubature(one, Normal, NORMAL, [0.0], [math.inf]),
        "quad": lambda: normal_slopes(lambda z: 1.0, 0.5, 1.2, quad_on(0, math.inf)),
    }


def many_laws():
    """A batch of 50 betas, whose slopes `cubature` gets one law at a time: it has no batch."""
    rows = torch.linspace(0.6, 3.0, 50, dtype=torch.float64)
    parameters = {"concentration1": rows, "concentration0": rows.flip(0)}

    def one_by_one():
        found = [
            by_cubature(
                torch.square,
                Beta,
                {name: row[i] for name, row in parameters.items()},
                [0.0],
                [1.0],
            )
            for i in range(len(rows))
        ]
        return {name: torch.stack([of[name] for of in found]) for name in parameters}

    return {
        "ours": lambda: exact_gradient(torch.square, Beta, parameters).gradient,
        "cubature": one_by_one,
    }


def plane():
    loc = torch.tensor([0.5, -0.3], dtype=torch.float64)
    scale = torch.tensor([1.2, 0.8], dtype=torch.float64)
    parameters = {"loc": loc, "scale": scale}

    def make(loc, scale):
        return Independent(Normal(loc, scale), 1)

    def f(z):
        return torch.sin(z[..., 0] * z[..., 1])

    low, high = ((loc + side * EDGE * scale).tolist() for side in (-1, 1))

    def by_dblquad():
        def slopes(i):
            (a, b), (s, t) = loc.tolist(), scale.tolist()

            def density(x, y):
                square = ((x - a) / s) ** 2 + ((y - b) / t) ** 2
                return math.exp(-square / 2) / (2 * math.pi * s * t)

            def of_loc(x, y):
                u = (x - a) / s**2 if i == 0 else (y - b) / t**2
                return math.sin(x * y) * density(x, y) * u

            def of_scale(x, y):
                u = (((x - a) / s) ** 2 - 1) / s if i == 0 else (((y - b) / t) ** 2 - 1) / t
                return math.sin(x * y) * density(x, y) * u

            ends = (low[1], high[1], low[0], high[0])
            return [
                dblquad(g, *ends, epsabs=TOLERANCE, epsrel=TOLERANCE)[0] for g in (of_loc, of_scale)
            ]

        of_loc, of_scale = zip(*map(slopes, range(2)), strict=True)
        return {"loc": of_loc, "scale": of_scale}

    return {
        "ours": lambda: exact_gradient(f, make, parameters).gradient,
        "cubature": lambda: by_cubature(f, make, parameters, low, high),
        "dblquad": by_dblquad,
    }


PROBLEMS = {
    "a smooth function of a normal": (smooth, 20),
    "a step of a normal": (step, 20),
    "50 betas": (many_laws, 5),
    "a wave of two normals": (plane, 5),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_gradient_beside_scipy(name):
    problem, rounds = PROBLEMS[name]
    ways = problem()
    ours = ways["ours"]()
    for way in ways.values():
        for parameter, slope in way().items():
            apart = torch.as_tensor(slope, dtype=torch.float64) - ours[parameter]
            assert apart.abs().max() < 1e-8
    report("exact gradients", name, interleaved(ways, rounds))
