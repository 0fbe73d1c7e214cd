"""Rational-quadratic splines and their flow: against mpmath, at knots and edges, far outside."""

import mpmath
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reparam.flows import FlowSequence, SplineFlow, rational_quadratic_spline
from reparam.flows.spline import _solve

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_dim = pytest.mark.parametrize("dim", [1, 2, 5])
each_order = pytest.mark.parametrize("reverse", [False, True], ids=["first", "last"])
both_ways = pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])


def splines(count, bins=5, scale=1.0, bound=3.0):
    """Random widths, heights and slopes, in float64; a larger scale makes steeper bins."""
    raw = scale * torch.randn(2, count, bins, dtype=torch.float64)
    widths, heights = 2 * bound * (0.001 + (1 - 0.001 * bins) * raw.softmax(-1))
    slopes = (scale * torch.randn(count, bins - 1, dtype=torch.float64)).exp()
    return widths, heights, slopes


def by_paper(z, widths, heights, slopes, inverse=False):
    """Value and log-slope by the paper's equations 4 to 8, with 60 digits."""
    with mpmath.workdps(60):
        w, h = ([mpmath.mpf(x) for x in numbers.tolist()] for numbers in (widths, heights))
        d = [mpmath.mpf(1), *(mpmath.mpf(x) for x in slopes.tolist()), mpmath.mpf(1)]
        x, y = [-sum(w) / 2], [-sum(h) / 2]
        for width, height in zip(w, h, strict=True):
            x.append(x[-1] + width)
            y.append(y[-1] + height)
        z, source = mpmath.mpf(float(z)), y if inverse else x
        if not source[0] <= z < source[-1]:
            return float(z), 0.0
        k = max(i for i in range(len(w)) if source[i] <= z)
        s, D = h[k] / w[k], d[k] + d[k + 1] - 2 * h[k] / w[k]
        if inverse:
            u = z - y[k]
            a, b, c = h[k] * (s - d[k]) + u * D, h[k] * d[k] - u * D, -s * u
            xi = 2 * c / (-b - mpmath.sqrt(b * b - 4 * a * c))
        else:
            xi = (z - x[k]) / w[k]
        below = s + D * xi * (1 - xi)
        value = y[k] + h[k] * (s * xi**2 + d[k] * xi * (1 - xi)) / below
        above = d[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + d[k] * (1 - xi) ** 2
        log_slope = mpmath.log(s * s * above / below**2)
        if inverse:
            return float(x[k] + xi * w[k]), -float(log_slope)
        return float(value), float(log_slope)


def trained(dim, hidden=(32, 32), context_dim=0, reverse=False, scale=0.4, **options):
    """A flow with random weights, in float64: a fresh one is the identity."""
    flow = SplineFlow(
        dim, hidden=hidden, context_dim=context_dim, reverse=reverse, **options
    ).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=scale)
    return flow


def points(*shape):
    return 2 * torch.randn(*shape, dtype=torch.float64)


def jacobians(f, z):
    """`[B, D, D]` of a map of `[B, D]` that takes row by row, by autograd."""
    return torch.autograd.functional.jacobian(lambda z: f(z)[0].sum(0), z).permute(1, 0, 2)


# --- the function --------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(("scale", "bins"), [(0.3, 5), (1.0, 5), (3.0, 5), (1.0, 2)])
def test_value_and_log_slope_are_those_of_the_paper(inverse, scale, bins):
    """Slopes from e⁻⁹ to e⁹ and bins of a thousandth of the box at scale 3."""
    parameters = splines(300, bins, scale)
    z = points(300)
    found = rational_quadratic_spline(z, *parameters, inverse=inverse)
    rows = zip(z, *parameters, strict=True)
    expected = torch.tensor([by_paper(*row, inverse) for row in rows], dtype=torch.float64).T
    torch.testing.assert_close(found[0], expected[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-9)


def test_the_place_in_a_bin_where_both_forms_of_the_root_meet():
    """Where `slope0 rest = slope1 part`, `θ / (1 - θ)` is the root of `part / rest`."""
    part, s = torch.tensor([0.75, 0.25]), torch.tensor([2.0, 0.5])
    theta, rest = _solve(part, 1 - part, s, 2 * part, 2 * (1 - part))
    torch.testing.assert_close(theta / rest, (part / (1 - part)).sqrt())


def test_slopes_up_to_the_bounds_are_taken():
    most = torch.finfo(torch.float64).max ** 0.3
    slopes = torch.tensor([0.9 * most, 1.1 / most], dtype=torch.float64)
    z, bins = torch.tensor([-0.5, 0.5], dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    knots, log_slopes = rational_quadratic_spline(z, bins, bins, slopes)
    torch.testing.assert_close(knots, z)
    torch.testing.assert_close(log_slopes, slopes.log())


def test_the_inverse_is_a_root_found_by_bisection():
    parameters = splines(50)
    y = 5.9 * torch.rand(50, dtype=torch.float64) - 2.95
    low, high = torch.full_like(y, -3.0), torch.full_like(y, 3.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = rational_quadratic_spline(middle, *parameters)[0] > y
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    z, _ = rational_quadratic_spline(y, *parameters, inverse=True)
    torch.testing.assert_close(z, low, rtol=0, atol=1e-12)


@both_ways
def test_knots_are_met_with_their_slopes(inverse):
    widths, heights, slopes = splines(20)
    x, y = (F.pad(bins.cumsum(-1), (1, 0)) - 3 for bins in (widths, heights))
    source, target = (y, x) if inverse else (x, y)
    ends = F.pad(slopes, (1, 1), value=1.0)
    spread = [part.unsqueeze(1) for part in (widths, heights, slopes)]
    found, log_slopes = rational_quadratic_spline(source, *spread, inverse=inverse)
    torch.testing.assert_close(found, target, rtol=1e-12, atol=1e-12)
    expected = -ends.log() if inverse else ends.log()
    torch.testing.assert_close(log_slopes, expected, rtol=1e-8, atol=1e-8)


@both_ways
def test_value_and_slope_are_continuous_at_knots_and_edges(inverse):
    """One step of 1e-9 to each side: as far apart as the slope says, and no farther."""
    widths, heights, slopes = splines(20, scale=0.5)
    source = F.pad((heights if inverse else widths).cumsum(-1), (1, 0)) - 3
    spread = [part.unsqueeze(1) for part in (widths, heights, slopes)]
    left, right = (
        rational_quadratic_spline(source + step, *spread, inverse=inverse) for step in (-1e-9, 1e-9)
    )
    torch.testing.assert_close(right[0] - left[0], 2e-9 * left[1].exp(), rtol=1e-5, atol=1e-14)
    torch.testing.assert_close(right[1], left[1], rtol=0, atol=1e-6)


@both_ways
def test_it_increases_also_where_bins_are_steep(inverse):
    parameters = [part.unsqueeze(-2) for part in splines(50, bins=8, scale=3.0)]
    z = torch.linspace(-3.5, 3.5, 2001, dtype=torch.float64).expand(50, -1)
    values, log_slopes = rational_quadratic_spline(z, *parameters, inverse=inverse)
    assert (values.diff() > 0).all()
    assert log_slopes.isfinite().all()


@both_ways
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outside_the_box_it_is_the_identity(inverse, dtype, device):
    limits = torch.finfo(dtype)
    numbers = torch.tensor([3.0, 3.0625, 100.0, 1e4, limits.max / 2], dtype=torch.float64)
    z = torch.cat([numbers, -numbers]).to(device, dtype).requires_grad_()
    # Eighths, which every dtype adds without rounding: the sums agree exactly.
    widths, heights = (
        torch.tensor(bins, dtype=dtype, device=device, requires_grad=True)
        for bins in ([0.125, 3.875, 2.0], [3.875, 0.125, 2.0])
    )
    slopes = torch.tensor([100.0, 0.01], dtype=dtype, device=device, requires_grad=True)
    values, log_slopes = rational_quadratic_spline(z, widths, heights, slopes, inverse=inverse)
    close = dict(rtol=limits.eps, atol=0)
    torch.testing.assert_close(values, z, **close)
    assert torch.equal(log_slopes, torch.zeros_like(z))
    gradients = torch.autograd.grad((values + log_slopes).sum(), [z, widths, heights, slopes])
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.testing.assert_close(gradients[0][1:5], torch.ones_like(z[1:5]), **close)
    assert torch.equal(gradients[3], torch.zeros_like(slopes))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_log_slopes_outside_are_zero_however_steep_the_last_bin(dtype):
    """The end of the box is a rounded sum; one step beside it a steep bin's slope is not 1."""
    widths, heights, slopes = (part.to(dtype) for part in splines(2000, bins=8, scale=3.0))
    z = torch.tensor([-4.0, 4.0], dtype=dtype)[:, None].expand(2, 2000)
    for inverse in (False, True):
        values, log_slopes = rational_quadratic_spline(z, widths, heights, slopes, inverse=inverse)
        # Two ends of the box, each a sum of eight bins to 6 and rounded eight times by eps / 2.
        rounding = 2 * 8 * 6 * torch.finfo(dtype).eps / 2
        torch.testing.assert_close(values, z, rtol=0, atol=rounding)
        assert torch.count_nonzero(log_slopes) == 0


@both_ways
def test_equal_bins_and_slopes_of_1_are_the_identity(inverse):
    z = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    bins = torch.full((7,), 6 / 7, dtype=torch.float64)
    ones = torch.ones(6, dtype=torch.float64)
    values, log_slopes = rational_quadratic_spline(z, bins, bins, ones, inverse=inverse)
    torch.testing.assert_close(values, z, rtol=0, atol=1e-15)
    torch.testing.assert_close(log_slopes, torch.zeros_like(z), rtol=0, atol=1e-14)


@both_ways
def test_gradients_of_all_arguments(inverse):
    arguments = [part.requires_grad_() for part in splines(6, bins=3)]
    z = torch.linspace(-3.4, 3.4, 6, dtype=torch.float64).requires_grad_()

    def f(z, raw_widths, raw_heights, slopes):
        widths, heights = 6 * raw_widths.softmax(-1), 6 * raw_heights.softmax(-1)
        return rational_quadratic_spline(z, widths, heights, slopes, inverse=inverse)

    assert torch.autograd.gradcheck(f, (z, *arguments))
    assert torch.autograd.gradgradcheck(f, (z, *arguments))


@both_ways
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_agree_with_float64(inverse, dtype):
    """16-bit numbers are computed with in float32, so that the result is off by one rounding."""
    widths = torch.tensor([0.5, 1.5, 2.0], dtype=dtype)
    heights = torch.tensor([1.5, 0.5, 2.0], dtype=dtype)
    slopes = torch.tensor([2.0, 0.5], dtype=dtype)
    z = torch.linspace(-3, 3, 64).to(dtype)
    found = rational_quadratic_spline(z, widths, heights, slopes, inverse=inverse)
    wide = [part.double() for part in (z, widths, heights, slopes)]
    expected = rational_quadratic_spline(*wide, inverse=inverse)
    eps = max(torch.finfo(dtype).eps, 1e-15)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=4 * eps, atol=8 * 1.2e-7)


def test_parameters_broadcast_and_vmap():
    widths, heights, slopes = (part[0] for part in splines(1))
    z = points(4, 3)
    values, log_slopes = rational_quadratic_spline(z, widths, heights, slopes)
    spread = [part.expand(4, 3, -1) for part in (widths, heights, slopes)]
    torch.testing.assert_close(rational_quadratic_spline(z, *spread), (values, log_slopes))

    def derivative(z):
        return torch.func.grad(lambda z: rational_quadratic_spline(z, widths, heights, slopes)[0])(
            z
        )

    found = torch.func.vmap(derivative)(z.flatten())
    torch.testing.assert_close(found, log_slopes.exp().flatten())


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(z=[0.0]), TypeError, "z must be a tensor, got list"),
        (dict(z=torch.zeros(2, dtype=int)), TypeError, "z must hold floating-point numbers"),
        (dict(z=torch.tensor([torch.nan])), ValueError, "z holds NaN"),
        (dict(z=torch.tensor([torch.inf])), ValueError, "z holds infinite values"),
        (dict(widths=torch.ones(2, 3).double()), ValueError, "must share dtype"),
        (dict(heights=torch.ones(4)), ValueError, r"got \(3,\), \(4,\) and \(2,\)"),
        (dict(slopes=torch.ones(4)), ValueError, r"slopes of shape \[..., K - 1\]"),
        (
            dict(widths=torch.ones(1), heights=torch.ones(1), slopes=torch.ones(1)),
            ValueError,
            "K bins, 2 or more",
        ),
        (dict(widths=torch.tensor([1.0, -1.0, 3.0])), ValueError, "widths must be positive"),
        (dict(heights=torch.tensor([1.0, 0.0, 2.0])), ValueError, "heights must be positive"),
        (dict(heights=torch.tensor([1.5, 1e-9, 1.5])), ValueError, "no narrower than rounding"),
        (  # in a box as large as this one
            dict(widths=torch.tensor([1e3, 1e-5, 1e3]), heights=torch.tensor([1e3, 1.0, 999.0])),
            ValueError,
            "widths must be positive, and bins no narrower than rounding, got 1e-05",
        ),
        (dict(slopes=torch.tensor([0.0, 1.0])), ValueError, "slopes must be positive"),
        (dict(slopes=torch.tensor([1e30, 1.0])), ValueError, "slopes must lie .* got 1 to 1e.30"),
        (dict(slopes=torch.tensor([1e-30, 1.0])), ValueError, "slopes must lie between 3e-12 and"),
        (dict(heights=torch.ones(3) * 2), ValueError, "the same sum, .* got 3 and 6"),
        (dict(inverse=1), TypeError, "inverse must be True or False"),
        (
            dict(widths=torch.ones(5, 3), heights=torch.ones(5, 3), slopes=torch.ones(5, 2)),
            ValueError,
            "do not broadcast",
        ),
    ],
)
def test_what_the_function_is_given(change, error, message):
    given = dict(
        z=torch.zeros(2), widths=torch.ones(3), heights=torch.ones(3), slopes=torch.ones(2)
    )
    with pytest.raises(error, match=message):
        rational_quadratic_spline(**(given | change))


# --- the flow ------------------------------------------------------------------------------------


@each_dim
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("context_dim", [0, 3])
@pytest.mark.parametrize("bins", [2, 7, 8])
def test_a_fresh_flow_is_the_identity_to_rounding(dim, dtype, context_dim, bins, device):
    flow = SplineFlow(dim, bins, context_dim=context_dim, hidden=(16,)).to(device, dtype)
    z = (3 * torch.randn(50, dim)).to(device, dtype)
    context = torch.randn(50, 3).to(device, dtype) if context_dim else None
    for way in (flow, flow.inverse):
        out, log_det = way(z, context)
        eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
        torch.testing.assert_close(out, z, rtol=torch.finfo(dtype).eps, atol=8 * eps)
        assert log_det.abs().max() <= 8 * eps * dim


@each_dim
@each_order
@pytest.mark.parametrize("context_dim", [0, 2])
def test_log_determinants_are_those_of_autograd_and_one_way_undoes_the_other(
    dim, reverse, context_dim
):
    flow = trained(dim, (16,), context_dim, reverse)
    z, context = points(20, dim), points(20, 2) if context_dim else None
    for there, back in ((flow, flow.inverse), (flow.inverse, flow)):
        y, log_det = there(z, context)
        J = jacobians(lambda z, there=there: there(z, context), z)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(J)[1])
        again, log_det_back = back(y, context)
        assert (y - z).abs().max() > 0.1
        torch.testing.assert_close(again, z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(log_det_back, -log_det, rtol=1e-7, atol=1e-7)


@each_order
@pytest.mark.parametrize("dim", [2, 5])
def test_which_variables_are_kept_and_which_they_tell(dim, reverse):
    J = jacobians(trained(dim, (64,), reverse=reverse), points(50, dim))
    if reverse:
        J = J.flip(1, 2)
    kept = dim // 2
    identity = torch.eye(kept, dtype=torch.float64).expand(50, -1, -1)
    torch.testing.assert_close(J[:, :kept, :kept], identity, rtol=0, atol=0)
    assert torch.count_nonzero(J[:, :kept, kept:]) == 0
    changed = J[:, kept:, kept:]
    assert torch.count_nonzero(changed - torch.diag_embed(changed.diagonal(dim1=1, dim2=2))) == 0
    assert (J[:, kept:, :kept].abs().amax(0) > 0).all()


def test_the_flow_is_the_function_of_its_network():
    """Shares of a box of side 8, each at least a hundredth of an even one; slopes `exp(raw)`."""
    flow = trained(1, bins=6)
    raw = flow.network.value.detach()
    widths, heights = 8 * (0.99 * raw[:12].reshape(2, 6).softmax(-1) + 0.01 / 6)
    half_pi, bound = torch.pi / 2, np.log(1000)
    slopes = (bound / half_pi * torch.atan(raw[12:] * half_pi / bound)).exp()
    z = points(100, 1)
    for inverse in (False, True):
        values, log_det = flow.inverse(z) if inverse else flow(z)
        expected = rational_quadratic_spline(z, widths, heights, slopes, inverse=inverse)
        torch.testing.assert_close(values, expected[0])
        torch.testing.assert_close(log_det, expected[1].squeeze(-1))


def test_a_box_may_be_small():
    """Wherever it ends, the identity begins."""
    flow, z = trained(1, bound=0.5), torch.tensor([[-0.6], [0.2], [0.6]]).double()
    moved, log_det = flow(z)
    torch.testing.assert_close(moved[[0, 2]], z[[0, 2]])
    torch.testing.assert_close(log_det[[0, 2]], torch.zeros(2).double(), rtol=0, atol=1e-12)
    assert (moved[1] - z[1]).abs() > 1e-3 and log_det[1].abs() > 1e-3


def test_what_a_flow_is_unless_told():
    """Eight bins to 4 on either side, behind the first half; its constants are no state."""
    flow = SplineFlow(5)
    assert (flow.bins, flow.bound) == (8, 4.0)
    assert set(flow.state_dict()) == set(dict(flow.named_parameters()))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    z = points(20, 5).float()
    moved = flow(z)[0]
    assert torch.equal(moved[:, :2], z[:, :2]) and (moved[:, 2:] != z[:, 2:]).any(0).all()


def test_context_reaches_every_changed_variable():
    for dim, changed in ((1, [True]), (4, [False, False, True, True])):
        flow = trained(dim, (64,), context_dim=3)
        z, context = points(20, dim), points(20, 3)
        J = torch.autograd.functional.jacobian(lambda c: flow(z, c)[0].sum(0), context)  # noqa: B023
        assert (J.abs().amax((1, 2)) > 0).tolist() == changed


@each_dim
def test_gradients_of_both_directions(dim):
    flow = trained(dim, (8,), context_dim=2)
    z, context = points(3, dim).requires_grad_(), points(3, 2).requires_grad_()
    for way in (flow, flow.inverse):
        assert torch.autograd.gradcheck(way, (z, context))


@each_dim
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_finite_for_extreme_weights_and_inputs(dim, dtype):
    flow = trained(dim, (16,), scale=10.0).to(dtype)
    sizes = torch.tensor([0.0, 1e-30, 1e-6, 1.0, 4.0, 1e4, 1e30])
    z = torch.cat([sizes, -sizes])[:, None].expand(-1, dim).to(dtype).requires_grad_()
    for way in (flow, flow.inverse):
        y, log_det = way(z)
        assert y.isfinite().all()
        assert log_det.isfinite().all()
        beyond = z.abs() > 5
        torch.testing.assert_close(y[beyond], z[beyond])
        gradients = torch.autograd.grad(y.sum() + log_det.sum(), [z, *flow.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_under_vmap():
    flow = trained(4, context_dim=2)
    z, context = points(5, 4), points(5, 2)
    for way in (flow, flow.inverse):
        found = torch.func.vmap(torch.func.jacrev(lambda z, c, way=way: way(z, c)[0]))(z, context)
        torch.testing.assert_close(found, jacobians(lambda z, way=way: way(z, context), z))


@pytest.mark.slow
def test_under_torch_compile():
    flow = trained(2, (4,), context_dim=1)

    def both_ways(z, context):
        y, log_det = flow(z, context)
        return (log_det + flow.inverse(y - 0.1, context)[0].sum(-1)).sum()

    compiled = torch.compile(both_ways, backend="aot_eager", fullgraph=True)
    z, context = points(5, 2).requires_grad_(), points(5, 1)
    torch.testing.assert_close(compiled(z, context), both_ways(z, context))
    gradients = [torch.autograd.grad(f(z, context), z)[0] for f in (compiled, both_ways)]
    torch.testing.assert_close(*gradients)
    torch.compiler.reset()


def test_two_of_them_change_all_variables_and_can_be_undone():
    flows = FlowSequence([trained(5, scale=0.2), trained(5, reverse=True, scale=0.2)])
    z = points(10, 5)
    y, log_det = flows(z)
    again, log_det_back = flows.inverse(y)
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(log_det_back, -log_det)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobians(flows, z))[1])
    assert (y != z).any(0).all()


def test_the_density_of_one_variable_integrates_to_1_and_is_learned():
    """A fit of a two-humped density by its log-likelihood, whose minimum is the entropy."""
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    humps = torch.distributions.Normal(torch.tensor([-1.5, 1.5]).double(), 0.5)
    target = humps.log_prob(grid).logsumexp(-1) - np.log(2)
    flow = SplineFlow(1, bins=12, bound=5.0).double()
    optimizer = torch.optim.Adam(flow.parameters(), 0.1)

    def log_density():
        z, log_det = flow.inverse(grid)
        return -z.squeeze(-1).square() / 2 - np.log(2 * np.pi) / 2 + log_det

    def divergence():
        return ((target - log_density()) * target.exp()).sum() * 0.004

    assert divergence() > 0.3
    for _ in range(150):
        optimizer.zero_grad()
        divergence().backward()
        optimizer.step()
    assert 0 <= divergence() < 0.02
    assert log_density().exp().sum().item() * 0.004 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(dim=2, bins=1), ValueError, "bins must be at least 2"),
        (dict(dim=2, bins=8.0), TypeError, "bins must be an int"),
        (dict(dim=2, bound=0), ValueError, "bound must be positive and finite, got 0"),
        (dict(dim=2, bound=float("inf")), ValueError, "bound must be positive and finite"),
        (dict(dim=2, bound="4"), TypeError, "bound must be a number, got str"),
        (dict(dim=2, hidden=128), TypeError, r"hidden must be a sequence of widths .* got int"),
        (dict(dim=2, hidden=(8, 2.0)), TypeError, "hidden must be an int"),
        (dict(dim=2, reverse="yes"), TypeError, "reverse must be True or False"),
    ],
)
def test_what_a_flow_is_made_of(arguments, error, message):
    with pytest.raises(error, match=message):
        SplineFlow(**arguments)
