"""The planar flow: its constraint, a log-determinant that never cancels, its inverse; extremes."""

import math

import mpmath
import pytest
import torch

from reparam.flows import FlowSequence, PlanarFlow
from reparam.flows.planar import _Planar, constrained, planar, slope, solved

DTYPES = [torch.float32, torch.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
mpmath.mp.dps = 60

#: `w·u`, of which the last three are beyond anything that training reaches.
INNER = [-1e6, -100, -40, -20, -5, -1, -1e-3, 0, 1e-3, 1, 5, 20, 120, 1e6]
HEIGHTS = [0, 1e-8, 1e-3, 0.1, 0.5, 1, 3, 8, 20, 100, 1e4]


def made(inner: float, dim: int = 2, dtype=torch.float64) -> PlanarFlow:
    """A flow whose `w` is a unit vector and whose `w·u` is `inner`, both exactly."""
    flow = PlanarFlow(dim).to(dtype)
    with torch.no_grad():
        flow.w.zero_()[0] = 1
        flow.u[0] = inner
        flow.u[1:] = 0.5
    return flow


def at_heights(dim: int = 2, dtype=torch.float64) -> torch.Tensor:
    """Inputs with `w·z` from -1e4 to 1e4, 0 among them."""
    z = torch.full((2 * len(HEIGHTS), dim), 0.25, dtype=dtype)
    z[:, 0] = torch.tensor([*HEIGHTS, *(-a for a in HEIGHTS)], dtype=dtype)
    return z


def exact_log_det(a, inner):
    x = mpmath.asinh(mpmath.mpf(inner))
    squared = mpmath.tanh(mpmath.mpf(a)) ** 2
    return mpmath.log(squared + (1 - squared) * mpmath.exp(x))


# --- the constraint ------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("inner", INNER)
def test_the_constraint_holds_and_its_logarithm_is_exact(inner, dtype):
    flow = made(inner, dtype=dtype)
    u, x = constrained(flow.u, flow.w)
    k = mpmath.mpf(flow.u[0].item())
    expected = mpmath.asinh(k)
    eps = torch.finfo(dtype).eps
    assert abs(x.item() - float(expected)) <= 2 * eps * abs(float(expected))
    # w·û = exp(x) - 1 lies above -1, and is what û has along w
    assert abs(u[0].item() - float(mpmath.expm1(expected))) <= 4 * eps * (1 + abs(inner))
    torch.testing.assert_close(u[1].item(), 0.5 * u[0].item() / inner if inner else 0.5)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4, 1e-8])
def test_a_small_u_is_left_alone(scale):
    """To second order in `w·u`; the constraint of C2 moves it by 0.307 along w at any scale."""
    u = scale * torch.tensor([0.8, -0.3, 0.5]).double()
    w = torch.tensor([0.2, 0.9, -1.1]).double()
    moved = (constrained(u, w)[0] - u).norm()
    assert moved <= 0.51 * (w @ u).abs() * u.norm()


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_each_layer_of_a_fresh_flow_leaves_space_nearly_alone(dim):
    """On average `|log det|` is below 0.01 and a step shorter than 0.01 √D."""
    flow = FlowSequence([PlanarFlow(dim) for _ in range(200)])
    z = torch.randn(50, dim)
    log_dets, steps = [], []
    for layer in flow.flows:
        moved, log_det = layer(z)
        log_dets.append(log_det.abs().mean().item())
        steps.append((moved - z).norm(dim=-1).mean().item())
    assert sum(log_dets) / 200 < 0.01
    assert sum(steps) / 200 < 0.01 * math.sqrt(dim)


# --- the log-determinant -------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("as_matrix", [True, False])
def test_log_det_against_mpmath_on_the_hyperplane_and_off_it(inner, dtype, as_matrix):
    flow, z = made(inner, dtype=dtype), at_heights(dtype=dtype)
    _, log_det = flow(z if as_matrix else z[None])
    eps = torch.finfo(dtype).eps
    for a, got in zip(z[:, 0].tolist(), log_det.flatten().tolist(), strict=True):
        expected = float(exact_log_det(a, flow.u[0].item()))
        assert abs(got - expected) <= 4 * eps * (1 + abs(expected)), (a, inner)


@each_dtype
@pytest.mark.parametrize("inner", [-100, -20, 0, 20, 120])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_extremes_are_finite_forward_and_backward(inner, dtype, size):
    """Beside the hyperplane and on it, for parameters and inputs far outside of what is wise."""
    flow = made(inner, dtype=dtype)
    z = torch.cat([size * torch.randn(50, 2, dtype=dtype), at_heights(dtype=dtype)])
    for way in (flow.forward, flow.inverse):
        z = z.detach().requires_grad_()
        moved, log_det = way(z)
        slopes = torch.autograd.grad(moved.sum() + log_det.sum(), [z, *flow.parameters()])
        assert all(s.isfinite().all() for s in (moved, log_det, *slopes))


@each_dtype
def test_w_of_zero_has_the_right_value_and_gradient(dtype):
    """Then f shifts by `u tanh(b)`. At w = 0: `∂ log det/∂w = sech²(b) u`, by hand."""
    flow = PlanarFlow(3).to(dtype)
    with torch.no_grad():
        flow.w.zero_()
        flow.b.fill_(0.3)
    z = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    moved, log_det = flow(z)
    torch.testing.assert_close(moved, z + flow.u * math.tanh(0.3))
    torch.testing.assert_close(log_det, torch.zeros(4, dtype=dtype))
    slopes = torch.autograd.grad(log_det[0], [flow.w, flow.u, flow.b, z])
    torch.testing.assert_close(slopes[0], flow.u.detach() / math.cosh(0.3) ** 2)
    assert all((slope == 0).all() for slope in slopes[1:])
    torch.testing.assert_close(flow.inverse(moved)[0], z)


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("inner", [-100, -3, 0, 0.5, 120])
def test_the_derivative_by_hand_is_that_of_the_plain_formula(inner, by_columns):
    flow = made(inner, dim=3)
    z = torch.cat([at_heights(3), torch.randn(20, 3).double()])
    z = (z.mT.contiguous().mT if by_columns else z).requires_grad_()
    given = [z, flow.u, flow.w, flow.b]
    slopes = torch.randn(len(z), 3).double(), torch.randn(len(z)).double()
    for by_hand, plain in zip(_Planar.apply(*given), planar(*given), strict=True):
        torch.testing.assert_close(by_hand, plain)
    for by_hand, plain in zip(
        torch.autograd.grad(_Planar.apply(*given), given, slopes),
        torch.autograd.grad(planar(*given), given, slopes),
        strict=True,
    ):
        torch.testing.assert_close(by_hand, plain)


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (0, 1, 2, 3)])
def test_second_derivatives_of_the_form_by_hand(wanted):
    """Also where only some inputs want a gradient."""
    given = [torch.randn(2, 3), torch.randn(3), torch.randn(3), torch.randn(())]
    given = [t.double().requires_grad_(i in wanted) for i, t in enumerate(given)]
    assert torch.autograd.gradgradcheck(_Planar.call, given)


# --- the inverse ---------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("inner", INNER)
def test_the_root_against_bisection_in_many_digits(inner, dtype):
    """As near as rounding `a + m tanh(a)` lets any method come."""
    x = torch.asinh(torch.tensor(inner, dtype=dtype))
    sizes = torch.logspace(-8, 4, 25, dtype=dtype)
    c = torch.cat([-sizes, torch.zeros(1, dtype=dtype), sizes])
    got = solved(c, x)
    eps, m = torch.finfo(dtype).eps, mpmath.expm1(mpmath.mpf(x.item()))
    for target, a in zip(c.tolist(), got.tolist(), strict=True):
        low, high = sorted([target - float(m) - 1, target + float(m) + 1])
        root = mpmath.findroot(
            lambda v, target=target: v + m * mpmath.tanh(v) - target,
            (min(low, high), max(low, high)),
            solver="illinois",
            tol=1e-60,
            maxsteps=2000,
            verify=False,
        )
        steep = mpmath.tanh(root) ** 2 + (1 - mpmath.tanh(root) ** 2) * (1 + m)
        rounding = eps * (abs(root) + abs(m * mpmath.tanh(root)) + abs(target)) / steep
        assert abs(a - root) <= 4 * rounding + eps * abs(root), (target, inner)


@each_dtype
@pytest.mark.parametrize("inner", INNER)
def test_inverse_comes_back_within_the_rounding_of_what_it_was_given(inner, dtype):
    """The point it is given is rounded; along w the inverse enlarges that by 1 / slope."""
    flow = made(inner, dtype=dtype)
    z = torch.cat([at_heights(dtype=dtype), torch.randn(50, 2, dtype=dtype)])
    moved, log_det = flow(z)
    again, log_det_back = flow.inverse(moved)
    u, _ = constrained(flow.u, flow.w)
    eps = torch.finfo(dtype).eps
    size = moved.abs().amax(-1) + z.abs().amax(-1) + u.abs().max()
    enlarged = (1 + u.abs().max()) * (1 + torch.exp(-log_det))
    assert ((again - z).abs().amax(-1) <= 8 * eps * size * enlarged).all()
    if abs(inner) <= 120 and dtype == torch.float64:
        torch.testing.assert_close(again, z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(log_det_back, -log_det, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("inner", [-20.0, -0.5, 0.0, 3.0])
def test_first_and_second_derivatives_of_the_inverse(inner):
    flow = made(inner)
    given = [p.detach().clone().requires_grad_() for p in (flow.u, flow.w, flow.b)]

    def inverse(y, u, w, b):
        return torch.func.functional_call(
            _Inverse(flow), {"flow.u": u, "flow.w": w, "flow.b": b}, (y,)
        )

    y = torch.tensor([[0.3, -0.2], [1.4, 0.7]]).double().requires_grad_()
    assert torch.autograd.gradcheck(inverse, (y, *given))
    assert torch.autograd.gradgradcheck(inverse, (y, *given))


class _Inverse(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, y):
        return self.flow.inverse(y)


def test_the_root_has_the_sign_of_what_it_is_the_root_for():
    x = torch.asinh(torch.tensor(INNER, dtype=torch.float64)).repeat_interleave(len(HEIGHTS))
    c = torch.tensor(HEIGHTS, dtype=torch.float64).repeat(len(INNER))
    assert torch.equal(solved(-c, x), -solved(c, x))


def test_slope_is_the_derivative_of_what_is_solved():
    a = torch.linspace(-4, 4, 41).double().requires_grad_()
    x = torch.tensor(1.7).double()
    (expected,) = torch.autograd.grad((a + torch.expm1(x) * torch.tanh(a)).sum(), a)
    torch.testing.assert_close(slope(a, torch.tanh(a), x), expected)


def test_w_starts_near_the_unit_sphere_in_any_dimension():
    assert PlanarFlow(10_000).w.norm().item() == pytest.approx(1, abs=0.05)  # seven deviations
