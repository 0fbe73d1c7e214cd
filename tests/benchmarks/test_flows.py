"""Flows against normflows 1.7.3, nflows 0.14, zuko 1.6.0 and Pyro 1.9.2: seconds and extremes.

The work is a step of training: a batch through all layers, the log-determinants added up, and the
gradient of their mean. Every library does it with its own layers of the same sizes, in float32, on
one thread. Autoregressive flows are taken in the direction that is one pass of the network.
"""

import math
import warnings

import pytest
import torch
from torch import nn

from reparam.flows import (
    AffineCouplingFlow,
    FlowSequence,
    InverseAutoregressiveFlow,
    PlanarFlow,
    RadialFlow,
    SplineFlow,
)
from tests.benchmarks.timing import interleaved, keep, report

normflows = pytest.importorskip("normflows", reason="make benchmarks installs it")
zuko = pytest.importorskip("zuko", reason="make benchmarks installs it")
from nflows.transforms import (  # noqa: E402
    AffineCouplingTransform,
    PiecewiseRationalQuadraticCouplingTransform,
)
from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform  # noqa: E402
from pyro.distributions import transforms as pyro_transforms  # noqa: E402

ROUNDS = 60
SHALLOW = [(2, 4096), (50, 1024)]
LAYERS, DEEP_DIM, DEEP_BATCH, WIDTH, BINS, BOUND = 4, 32, 1024, 128, 8, 3.0


def through_pyro(layers, z):
    z, total = z.clone(), 0.0  # it remembers what it did to the last tensor
    for layer in layers:
        y = layer(z)
        total = total + layer.log_abs_det_jacobian(z, y)
        z = y
    return z, total


def through_pairs(layers, z):
    """normflows and nflows: a layer returns z and its log-determinant."""
    total = 0.0
    for layer in layers:
        z, log_det = layer(z)
        total = total + log_det
    return z, total


def through_zuko(layers, z):
    total = 0.0
    for layer in layers:
        z, log_det = layer().call_and_ladj(z)
        total = total + log_det
    return z, total


def through_ours(layers, z):
    return FlowSequence(layers)(z)


def step(layers, through, z):
    """One step of training, ready to be called."""
    module = FlowSequence(layers) if through is through_ours else nn.ModuleList(layers)
    weights = list(module.parameters())

    def run():
        image, log_det = module(z) if through is through_ours else through(layers, z)
        return torch.autograd.grad((image.square().sum(-1) - log_det).mean(), weights)

    return run


def race(name, families, dim, batch, layers):
    torch.manual_seed(0)
    z = torch.randn(batch, dim)
    ways = {
        library: step([make(i) for i in range(layers)], through, z)
        for library, (make, through) in families.items()
    }
    summary = interleaved(ways, ROUNDS)
    return report("flows", name, summary, problem=f"{layers} layers, d = {dim}, batch {batch}")


@pytest.mark.parametrize(("dim", "batch"), SHALLOW)
def test_planar(dim, batch):
    families = {
        "ours": (lambda i: PlanarFlow(dim), through_ours),
        "normflows": (lambda i: normflows.flows.Planar((dim,)), through_pairs),
        "pyro": (lambda i: pyro_transforms.Planar(dim), through_pyro),
    }
    ratios = race("planar", families, dim, batch, layers=16)
    assert min(ratios.values()) >= 1.3


@pytest.mark.parametrize(("dim", "batch"), SHALLOW)
def test_radial(dim, batch):
    families = {
        "ours": (lambda i: RadialFlow(dim), through_ours),
        "normflows": (lambda i: normflows.flows.Radial((dim,)), through_pairs),
        "pyro": (lambda i: pyro_transforms.Radial(dim), through_pyro),
    }
    ratios = race("radial", families, dim, batch, layers=16)
    assert min(ratios.values()) >= 1.3


def test_affine_autoregressive():
    """Stated, win or lose."""
    dim, hidden = DEEP_DIM, [WIDTH, WIDTH]
    options = {"num_blocks": 2, "use_residual_blocks": False}
    families = {
        "ours": (
            lambda i: InverseAutoregressiveFlow(dim, hidden, reverse=bool(i % 2)),
            through_ours,
        ),
        "pyro": (lambda i: pyro_transforms.affine_autoregressive(dim, hidden), through_pyro),
        "zuko": (
            lambda i: zuko.flows.MaskedAutoregressiveTransform(dim, hidden_features=hidden),
            through_zuko,
        ),
        "nflows": (
            lambda i: MaskedAffineAutoregressiveTransform(dim, WIDTH, **options),
            through_pairs,
        ),
        "normflows": (
            lambda i: normflows.flows.MaskedAffineAutoregressive(dim, WIDTH, **options),
            through_pairs,
        ),
    }
    race("affine autoregressive", families, dim, DEEP_BATCH, LAYERS)


def half(i):
    """One half of the variables, in alternation: the mask of a coupling layer."""
    first = torch.arange(DEEP_DIM) < DEEP_DIM // 2
    return first if i % 2 else ~first


class Conditioner(nn.Sequential):
    """The network of a coupling layer of nflows, with the sizes of the others."""

    def __init__(self, inputs, outputs):
        super().__init__(
            nn.Linear(inputs, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, outputs),
        )

    def forward(self, z, context=None):
        return super().forward(z)


def test_affine_coupling():
    """Stated, win or lose."""
    dim, hidden = DEEP_DIM, [WIDTH, WIDTH]
    families = {
        "ours": (lambda i: AffineCouplingFlow(dim, hidden, reverse=bool(i % 2)), through_ours),
        "nflows": (
            lambda i: AffineCouplingTransform(half(i).long(), Conditioner),
            through_pairs,
        ),
        "zuko": (
            lambda i: zuko.flows.GeneralCouplingTransform(
                dim, mask=half(i), hidden_features=hidden
            ),
            through_zuko,
        ),
        "normflows": (
            lambda i: normflows.flows.AffineCouplingBlock(
                normflows.nets.MLP([dim // 2, *hidden, dim])
            ),
            through_pairs,
        ),
        "pyro": (
            lambda i: pyro_transforms.affine_coupling(dim, hidden_dims=hidden),
            through_pyro,
        ),
    }
    race("affine coupling", families, dim, DEEP_BATCH, LAYERS)


def test_spline_coupling():
    """Stated, win or lose. normflows' network is a residual one, with as many layers."""
    dim, hidden = DEEP_DIM, [WIDTH, WIDTH]
    families = {
        "ours": (
            lambda i: SplineFlow(dim, BINS, BOUND, hidden, reverse=bool(i % 2)),
            through_ours,
        ),
        "nflows": (
            lambda i: PiecewiseRationalQuadraticCouplingTransform(
                half(i).long(),
                Conditioner,
                num_bins=BINS,
                tails="linear",
                tail_bound=BOUND,
            ),
            through_pairs,
        ),
        "zuko": (
            lambda i: zuko.flows.NSF(
                dim, transforms=1, bins=BINS, hidden_features=hidden, passes=2
            ).transform.transforms[0],
            through_zuko,
        ),
        "normflows": (
            lambda i: normflows.flows.CoupledRationalQuadraticSpline(
                dim, 1, WIDTH, num_bins=BINS, tail_bound=BOUND
            ),
            through_pairs,
        ),
        "pyro": (
            lambda i: pyro_transforms.spline_coupling(
                dim, hidden_dims=hidden, count_bins=BINS, bound=BOUND
            ),
            through_pyro,
        ),
    }
    race("spline coupling", families, dim, DEEP_BATCH, LAYERS)


# --- extremes --------------------------------------------------------------------------------


def planar_of(library, w, u):
    """A planar layer with these parameters before any constraint, and how to send z through it."""
    if library == "ours":
        flow, through = PlanarFlow(2), through_ours
        parameters = {"w": flow.w, "u": flow.u, "b": flow.b}
    elif library == "normflows":
        flow, through = normflows.flows.Planar((2,)), through_pairs
        parameters = {"w": flow.w, "u": flow.u, "b": flow.b}
    else:
        flow, through = pyro_transforms.Planar(2), through_pyro
        parameters = {"w": flow.w, "u": flow.u, "b": flow.bias}
    with torch.no_grad():
        parameters["w"].copy_(torch.tensor(w).reshape(parameters["w"].shape))
        parameters["u"].copy_(torch.tensor(u).reshape(parameters["u"].shape))
        parameters["b"].zero_()
    return flow, through


def survives(layers, through, z):
    """Whether values and gradients are finite."""
    z = z.requires_grad_()
    weights = [p for layer in layers for p in layer.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image, log_det = through(layers, z)
            slopes = torch.autograd.grad(image.sum() + log_det.sum(), [z, *weights])
        except (ValueError, RuntimeError, AssertionError):
            return False
    return all(bool(x.isfinite().all()) for x in (image, log_det, *slopes))


PLANAR_CASES = {
    **{
        f"w·u = {x:g}, on the hyperplane": ([1.0, 0.0], [float(x), 0.5], 0.0)
        for x in (-100, -40, -20, -10, 0, 20, 60, 120)
    },
    "w = 0": ([0.0, 0.0], [1.0, 1.0], 1.0),
    "inputs of 1e4": ([1.0, 0.0], [0.5, 0.5], 1e4),
}


def test_extremes_of_planar():
    """Values, log-determinants and gradients finite in float32; ours must be, all of them."""
    for library in ("ours", "normflows", "pyro"):
        lost = []
        for name, (w, u, size) in PLANAR_CASES.items():
            flow, through = planar_of(library, w, u)
            if not survives([flow], through, size * torch.ones(3, 2)):
                lost.append(name)
        keep("extremes: planar", {"name": library, "cases": len(PLANAR_CASES), "lost": lost})
        print(f"\nplanar, {library}: {len(lost)} of {len(PLANAR_CASES)} lost: {lost}", end="")
        assert library != "ours" or not lost


def test_extremes_of_splines():
    """Far outside the box, after a kick to all weights, value, log-determinant and gradients."""
    dim = 2
    halves = torch.tensor([1, 0])
    makers = {
        "ours": (lambda: SplineFlow(dim, BINS, BOUND, [WIDTH, WIDTH]), through_ours),
        "nflows": (
            lambda: PiecewiseRationalQuadraticCouplingTransform(
                halves, Conditioner, num_bins=BINS, tails="linear", tail_bound=BOUND
            ),
            through_pairs,
        ),
        "zuko": (
            lambda: zuko.flows.NSF(
                dim, transforms=1, bins=BINS, hidden_features=[WIDTH, WIDTH], passes=2
            ).transform.transforms[0],
            through_zuko,
        ),
        "normflows": (
            lambda: normflows.flows.CoupledRationalQuadraticSpline(
                dim, 1, WIDTH, num_bins=BINS, tail_bound=BOUND
            ),
            through_pairs,
        ),
        "pyro": (
            lambda: pyro_transforms.spline_coupling(
                dim, hidden_dims=[WIDTH, WIDTH], count_bins=BINS, bound=BOUND
            ),
            through_pyro,
        ),
    }
    for library, (make, through) in makers.items():
        lost = []
        for size in (0.0, BOUND, 1e2, 1e4, 1e8, 1e30):
            torch.manual_seed(0)
            layer = make()
            with torch.no_grad():
                for weight in layer.parameters():
                    weight.add_(0.2 * torch.randn_like(weight))
            signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
            z = signs * torch.tensor([0.5, size]) if size else torch.zeros(1, 2)
            if not survives([layer], through, z):
                lost.append(size)
        keep("extremes: splines", {"name": library, "cases": 6, "lost": lost})
        print(f"\nspline, {library}: {len(lost)} of 6 lost: {lost}", end="")
        assert library != "ours" or not lost


def test_log_determinants_on_the_hyperplane():
    """Error of the log-determinant in float32, each against the exact one of its own constraint."""
    for library in ("ours", "normflows", "pyro"):
        errors = {}
        for x in (-10.0, -20.0, -40.0, -100.0):
            flow, through = planar_of(library, [1.0, 0.0], [x, 0.5])
            with torch.no_grad():
                found = through([flow], torch.zeros(1, 2))[1].item()
            exact = math.asinh(x) if library == "ours" else math.log(math.log1p(math.exp(x)))
            errors[f"{x:g}"] = "-inf" if math.isinf(found) else found - exact
        keep("extremes: log-determinant", {"name": library, "error at w·u": errors})
        print(f"\nlog-det, {library}: {errors}", end="")
        if library == "ours":
            assert all(abs(error) < 1e-5 for error in errors.values())
