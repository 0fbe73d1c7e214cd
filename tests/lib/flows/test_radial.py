"""The radial flow: its constraint, a log-determinant that never cancels, its inverse; extremes."""

import math

import mpmath
import pytest
import torch

from reparam.flows import RadialFlow
from reparam.flows.radial import _Radial, radial

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_dim = pytest.mark.parametrize("dim", [1, 2, 64])
mpmath.mp.dps = 60

#: `asinh(b)` is the logarithm of `1 + β/α`: these reach from 5e-7 to 2e6.
RAW = [-1e6, -100, -5, -1, -1e-4, 0, 1e-4, 1, 5, 100, 1e6]
LENGTHS = [0, 1e-20, 1e-6, 1e-3, 0.3, 1, 10, 1e4]


def made(raw: float, dim: int = 2, width: float = 0.0, dtype=torch.float64) -> RadialFlow:
    """A flow around the origin."""
    flow = RadialFlow(dim).to(dtype)
    with torch.no_grad():
        flow.center.zero_()
        flow.a.fill_(width)
        flow.b.fill_(raw)
    return flow


def at_lengths(dim: int = 2, dtype=torch.float64) -> torch.Tensor:
    z = torch.zeros(len(LENGTHS), dim, dtype=dtype)
    z[:, 0] = torch.tensor(LENGTHS, dtype=dtype)
    return z


@each_dim
@each_dtype
@pytest.mark.parametrize("width", [-30.0, 0.0, 3.0])
@pytest.mark.parametrize("raw", RAW)
def test_log_det_against_mpmath_at_every_distance(raw, width, dtype, dim):
    flow, z = made(raw, dim, width, dtype), at_lengths(dim, dtype)
    eps = torch.finfo(dtype).eps
    alpha = mpmath.exp(mpmath.asinh(mpmath.mpf(flow.a.item())))
    beta = alpha * mpmath.expm1(mpmath.asinh(mpmath.mpf(flow.b.item())))
    expected = []
    for r in z[:, 0].tolist():
        h = beta / (alpha + r)
        across = mpmath.log(1 + h)
        expected.append(float((dim - 1) * across + mpmath.log(1 + h * alpha / (alpha + r))))
    for way in (flow(z), flow(z[None])):
        for got, wanted in zip(way[1].flatten().tolist(), expected, strict=True):
            # Where s = r/α is large the argument of log1p has the rounding of α
            assert abs(got - wanted) <= 12 * eps * max(abs(wanted), eps)


@each_dtype
@pytest.mark.parametrize("raw", RAW)
def test_the_map_is_that_of_the_paper(raw, dtype):
    flow = made(raw, 3, 0.5, dtype)
    z = torch.randn(10, 3, dtype=dtype)
    alpha = math.exp(math.asinh(0.5))
    beta = alpha * math.expm1(math.asinh(raw))
    assert beta > -alpha
    r = z.double().norm(dim=-1, keepdim=True)
    expected = (z.double() * (1 + beta / (alpha + r))).to(dtype)
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(flow(z)[0], expected, rtol=rounding, atol=rounding * z.abs().max())


@each_dim
@each_dtype
@pytest.mark.parametrize("raw", RAW)
def test_extremes_are_finite_forward_and_backward(raw, dtype, dim):
    """At the center itself as well, where the derivative of a norm divides by zero."""
    flow = made(raw, dim, dtype=dtype)
    z = torch.cat([at_lengths(dim, dtype), 1e4 * torch.randn(20, dim, dtype=dtype)])
    for way in (flow.forward, flow.inverse):
        for shape in (z, z[None]):
            given = shape.detach().requires_grad_()
            moved, log_det = way(given)
            slopes = torch.autograd.grad(moved.sum() + log_det.sum(), [given, *flow.parameters()])
            assert all(s.isfinite().all() for s in (moved, log_det, *slopes))


def test_at_the_center_the_jacobian_is_a_multiple_of_the_identity():
    """`1 + β/α` times it, whichever the path that torch takes."""
    flow = made(2.0, 3)
    for way in (flow, lambda z: tuple(x[0] for x in flow(z[None]))):
        jacobian = torch.autograd.functional.jacobian(
            lambda z, way=way: way(z)[0].squeeze(0), torch.zeros(1, 3).double()
        )
        expected = math.exp(math.asinh(2.0)) * torch.eye(3).double()
        torch.testing.assert_close(jacobian.squeeze(), expected)


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("raw", [-100, -1, -1e-4, 1e-4, 1, 100])
def test_the_derivative_by_hand_is_that_of_the_plain_formula(raw, by_columns):
    flow = made(raw, 3, 0.7)
    with torch.no_grad():
        flow.center += torch.tensor([0.5, 0.0, -0.25])
    z = torch.cat([torch.randn(20, 3).double(), flow.center.detach()[None]])
    z = (z.mT.contiguous().mT if by_columns else z).requires_grad_()
    given = [z, flow.center, flow.a, flow.b]
    slopes = torch.randn(len(z), 3).double(), torch.randn(len(z)).double()
    for by_hand, plain in zip(_Radial.apply(*given), radial(*given), strict=True):
        torch.testing.assert_close(by_hand, plain)
    for by_hand, plain in zip(
        torch.autograd.grad(_Radial.apply(*given), given, slopes),
        torch.autograd.grad(radial(*given), given, slopes),
        strict=True,
    ):
        torch.testing.assert_close(by_hand, plain)


def test_the_form_by_hand_is_taken_for_a_matrix_that_nothing_transforms():
    flow = made(1.0)
    assert flow(at_lengths())[1].grad_fn.name().startswith("_Radial")
    assert not flow(at_lengths()[None])[1].grad_fn.name().startswith("_Radial")


def test_the_gradient_where_the_flow_is_the_identity():
    """`log_det` in `b` at b = 0 has the slope `(D - 1) α/(α + r) + α²/(α + r)²`, by hand."""
    flow, z = made(0.0, 3), torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    for shape in (z, z[None]):
        (slope,) = torch.autograd.grad(flow(shape)[1].sum(), flow.b)
        assert slope.item() == pytest.approx(2 / 2 + 1 / 4, rel=1e-14)


@pytest.mark.parametrize("wanted", [(0,), (1, 3), (0, 1, 2, 3)])
def test_second_derivatives_of_the_form_by_hand(wanted):
    given = [torch.randn(2, 3), torch.randn(3), torch.randn(()), torch.randn(())]
    given = [t.double().requires_grad_(i in wanted) for i, t in enumerate(given)]
    assert torch.autograd.gradgradcheck(_Radial.call, given)


@each_dim
@each_dtype
@pytest.mark.parametrize("raw", RAW)
def test_inverse_against_mpmath(raw, dtype, dim):
    """The positive root of the quadratic does not cancel."""
    flow = made(raw, dim, dtype=dtype)
    y = at_lengths(dim, dtype)
    z, log_det = flow.inverse(y)
    beta = mpmath.expm1(mpmath.asinh(mpmath.mpf(flow.b.item())))
    eps = torch.finfo(dtype).eps
    for got, length in zip(z[:, 0].tolist(), y[:, 0].tolist(), strict=True):
        length = mpmath.mpf(length)
        p = 1 + beta - length
        root = (mpmath.sqrt(p * p + 4 * length) - p) / 2
        # ∂root/∂p = -root / √(p² + 4 length), and p has the rounding of 1 + β and of the length.
        passed_on = 1 + (1 + beta + length) / mpmath.sqrt(p * p + 4 * length)
        assert abs(got - root) <= 8 * eps * passed_on * root
    torch.testing.assert_close(flow(z)[1], -log_det, rtol=1e-5, atol=1e-5)


def test_first_and_second_derivatives_of_the_inverse():
    class Inverse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = made(-3.0, 3)

        def forward(self, y):
            return self.flow.inverse(y)

    module = Inverse()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def inverse(y, *given):
        return torch.func.functional_call(module, dict(zip(names, given, strict=True)), (y,))

    y = torch.randn(2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(inverse, (y, *parameters))
    assert torch.autograd.gradgradcheck(inverse, (y, *parameters))


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_each_layer_of_a_fresh_flow_leaves_space_nearly_alone(dim):
    """On average `|log det|` is below 0.01 and a step shorter than 1 % of the length of z."""
    log_dets, steps = [], []
    z = torch.randn(50, dim)
    for _ in range(200):
        moved, log_det = RadialFlow(dim)(z)
        log_dets.append(log_det.abs().mean().item())
        steps.append(((moved - z).norm(dim=-1) / z.norm(dim=-1)).mean().item())
    assert sum(log_dets) / 200 < 0.01
    assert sum(steps) / 200 < 0.01


@pytest.mark.parametrize("shape", [(3, 2), (2,)])
def test_a_square_that_overflows_is_refused(shape):
    """The map itself is finite there, and none of its slopes."""
    flow = made(1.0, dtype=torch.float32)
    for way in (flow, flow.inverse):
        with pytest.raises(ValueError, match=r"inputs of size up to 1e\+30"):
            way(torch.full(shape, 1e30))
    assert flow(torch.full(shape, 1e18))[1].isfinite().all()
