"""Masked and inverse autoregressive flows: masks, both directions, gradients, extremes, errors."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reparam.flows import FlowSequence, InverseAutoregressiveFlow, MaskedAutoregressiveFlow
from reparam.flows.autoregressive import LOG_SCALE_BOUND

BOTH = [InverseAutoregressiveFlow, MaskedAutoregressiveFlow]
each_flow = pytest.mark.parametrize("flow_type", BOTH)
each_dim = pytest.mark.parametrize("dim", [1, 2, 5])
each_order = pytest.mark.parametrize("reverse", [False, True], ids=["first", "last"])


def trained(flow_type, dim, hidden=(32, 32), context_dim=0, reverse=False, scale=0.4):
    """A flow with random weights, in float64: a fresh one is the identity."""
    flow = flow_type(dim, hidden, context_dim, reverse).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=scale)
    return flow


def points(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def jacobians(f, z):
    """`[B, D, D]` of a map of `[B, D]` that takes row by row, by autograd."""
    return torch.autograd.functional.jacobian(lambda z: f(z)[0].sum(0), z).permute(1, 0, 2)


def one_pass(flow):
    """The direction that is one pass, and the other."""
    if isinstance(flow, InverseAutoregressiveFlow):
        return flow.forward, flow.inverse
    return flow.inverse, flow.forward


# --- the map and its log-determinant -------------------------------------------------------------


@each_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("context_dim", [0, 3])
def test_a_fresh_flow_is_the_identity_exactly(flow_type, dtype, context_dim, device):
    flow = flow_type(4, context_dim=context_dim).to(device, dtype)
    z = torch.randn(7, 4, dtype=dtype, device=device)
    context = torch.randn(7, 3, dtype=dtype, device=device) if context_dim else None
    for way in (flow, flow.inverse):
        out, log_det = way(z, context)
        assert torch.equal(out, z)
        assert torch.equal(log_det, torch.zeros(7, dtype=dtype, device=device))


@each_flow
@each_dim
@each_order
@pytest.mark.parametrize("hidden", [(), (3,), (32, 16)], ids=str)
def test_log_determinants_are_those_of_autograd(flow_type, dim, reverse, hidden):
    flow = trained(flow_type, dim, hidden, reverse=reverse)
    z = points(6, dim)
    for way in (flow, flow.inverse):
        _, log_det = way(z)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobians(way, z))[1])


@each_flow
@each_dim
@each_order
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("hidden", [(), (3,), (32, 16)], ids=str)
def test_one_direction_undoes_the_other(flow_type, dim, reverse, context_dim, hidden):
    flow = trained(flow_type, dim, hidden, context_dim, reverse)
    z = points(4, 6, dim)
    context = points(6, 2) if context_dim else None  # the same for all 4
    for there, back in ((flow, flow.inverse), (flow.inverse, flow)):
        y, log_det = there(z, context)
        again, log_det_back = back(y, context)
        assert (y - z).abs().max() > 0.1
        torch.testing.assert_close(again, z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(log_det_back, -log_det, rtol=1e-9, atol=1e-9)


@each_flow
def test_linear_networks_by_hand(flow_type):
    """Without hidden layers, two variables: `m_2` and `s_2` are linear in the first, by hand."""
    flow = flow_type(2, hidden=()).double()
    layer = flow.network.layers[-1]
    with torch.no_grad():  # the rows: m_1, m_2, raw_1, raw_2; what is masked must not matter
        layer.weight.copy_(torch.tensor([[9.0, 9.0], [0.5, 9.0], [9.0, 9.0], [0.25, 9.0]]))
        layer.bias.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))

    def log_scale(raw):
        half_pi = torch.pi / 2
        return 5 / half_pi * torch.atan(torch.tensor(raw).double() * half_pi / 5)

    z = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    first = 1 + log_scale(0.5).exp() * 2
    seen = 2.0 if flow_type is InverseAutoregressiveFlow else first.item()
    second = -2 + 0.5 * seen + log_scale(0.25 * seen).exp() * 3
    y, log_det = flow(z)
    torch.testing.assert_close(y, torch.stack([first, second])[None])
    torch.testing.assert_close(log_det, (log_scale(0.5) + log_scale(0.25 * seen))[None])


# --- masks ---------------------------------------------------------------------------------------


@each_flow
@each_order
@pytest.mark.parametrize("hidden", [(), (2,), (5, 40), (64, 64, 64)], ids=str)
def test_jacobians_are_triangular_exactly(flow_type, reverse, hidden):
    flow = trained(flow_type, 6, hidden, reverse=reverse)
    for way in (flow, flow.inverse):
        J = jacobians(way, points(8, 6))
        above = J.tril(-1) if reverse else J.triu(1)
        assert torch.count_nonzero(above) == 0
        assert (J.diagonal(dim1=1, dim2=2) > 0).all()


@each_flow
@each_order
def test_wide_networks_let_each_variable_depend_on_all_before_it(flow_type, reverse):
    flow = trained(flow_type, 6, (64, 64), reverse=reverse)
    way, _ = one_pass(flow)
    seen = jacobians(way, points(50, 6)).abs().amax(0)
    wanted = torch.ones(6, 6).triu() if reverse else torch.ones(6, 6).tril()
    assert torch.equal(seen > 0, wanted > 0)


@each_flow
def test_its_layers_have_the_widths_asked_for_and_no_unit_is_idle(flow_type):
    """Without a context a unit of degree 0 would be a constant."""
    for dim in (2, 3, 6):
        flow = flow_type(dim, (7, 5))
        shapes = [tuple(layer.weight.shape) for layer in flow.network.layers]
        assert shapes == [(7, dim), (5, 7), (2 * dim, 5)]
        assert all(layer.mask.any(1).all() for layer in flow.network.layers[:-1])
        assert set(flow.state_dict()) == {name for name, _ in flow.named_parameters()}


@each_flow
@each_dim
def test_context_reaches_every_variable(flow_type, dim):
    """The first in the order as well: a MADE without units of degree 0 would leave it out."""
    flow = trained(flow_type, dim, (64, 64), context_dim=3)
    z, context = points(20, dim), points(20, 3)
    for way in (flow, flow.inverse):
        J = torch.autograd.functional.jacobian(lambda c, way=way: way(z, c)[0].sum(0), context)
        assert (J.abs().amax((1, 2)) > 0).all()


# --- gradients -----------------------------------------------------------------------------------


@each_flow
@each_dim
@each_order
def test_gradients_of_both_directions(flow_type, dim, reverse):
    flow = trained(flow_type, dim, (8,), context_dim=2, reverse=reverse)
    z, context = points(3, dim).requires_grad_(), points(3, 2).requires_grad_()
    for way in (flow, flow.inverse):
        assert torch.autograd.gradcheck(way, (z, context))
        assert torch.autograd.gradgradcheck(way, (z, context))


@each_flow
@each_dim
def test_gradients_of_the_parameters_in_the_slow_direction(flow_type, dim):
    """By the implicit function theorem, from those of the quick direction at the same points."""
    flow = trained(flow_type, dim, (8, 8))
    quick, slow = one_pass(flow)
    y, weights = points(1, dim), points(1, dim)

    def of_parameters(value):  # masked weights may be left out, which is a gradient of 0
        parameters = list(flow.parameters())
        options = dict(retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.autograd.grad(value, parameters, **options)

    z, log_det = slow(y)
    point = z.detach().requires_grad_()
    again, log_det_quick = quick(point)
    J = jacobians(quick, point.detach())[0]

    def moved(weights):  # y = quick(z) stays where it is, so that dz = -J⁻¹ ∂quick/∂φ dφ
        return -(again * torch.linalg.solve(J.T, weights[0])).sum()

    torch.testing.assert_close(of_parameters((z * weights).sum()), of_parameters(moved(weights)))
    (along,) = torch.autograd.grad(-log_det_quick.sum(), point, retain_graph=True)
    expected = of_parameters(moved(along) - log_det_quick.sum())
    torch.testing.assert_close(of_parameters(log_det.sum()), expected)


def test_the_slow_direction_under_vmap():
    flow = trained(MaskedAutoregressiveFlow, 3, context_dim=2)
    z, context = points(5, 3), points(5, 2)
    for way in (flow, flow.inverse):
        found = torch.func.vmap(torch.func.jacrev(lambda z, c, way=way: way(z, c)[0]))(z, context)
        torch.testing.assert_close(found, jacobians(lambda z, way=way: way(z, context), z))


@pytest.mark.slow
def test_under_torch_compile():
    flow = trained(MaskedAutoregressiveFlow, 2, (4,)).float()
    z = torch.randn(5, 2, requires_grad=True)
    for way in (flow.forward, flow.inverse):
        compiled = torch.compile(way, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(z), way(z))
        gradients = [torch.autograd.grad(f(z)[0].square().sum(), z)[0] for f in (compiled, way)]
        torch.testing.assert_close(*gradients)
    torch.compiler.reset()


def test_a_step_of_training_moves_every_layer_but_what_is_masked():
    flow = InverseAutoregressiveFlow(4, (16, 16))
    optimizer = torch.optim.Adam(flow.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):  # in the first step the last layer is 0 and lets no gradient through
        optimizer.zero_grad()
        z, log_det = flow(torch.randn(32, 4))
        (z.square().sum() - log_det.sum()).backward()
        optimizer.step()
    for layer in flow.network.layers:
        allowed = layer.mask.bool()
        assert torch.count_nonzero(layer.weight.grad[~allowed]) == 0
        assert layer.weight.grad[allowed].abs().max() > 0


def test_the_slow_direction_computes_every_unit_once():
    """Multiplications as counted by torch: those of one pass, not of D."""
    flow = InverseAutoregressiveFlow(16, (64, 64))
    z = torch.randn(8, 16)

    def count(way):
        with FlopCounterMode(display=False) as counter:
            way(z)
        return counter.get_total_flops()

    assert count(flow.inverse) == count(flow.forward)


# --- extremes, sequences -------------------------------------------------------------------------


@each_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_log_scales_are_bounded_and_gradients_finite_for_extreme_weights(flow_type, dtype):
    flow = trained(flow_type, 5, (16,), scale=30.0).to(dtype)
    z = (torch.randn(64, 5) * torch.logspace(-3, 4, 64)[:, None]).to(dtype).requires_grad_()
    way, _ = one_pass(flow)
    y, log_det = way(z)
    assert y.isfinite().all()
    assert log_det.abs().max() <= 5 * LOG_SCALE_BOUND * (1 + 1e-6)
    gradients = torch.autograd.grad(y.sum() + log_det.sum(), [z, *flow.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_bounded_log_scales_keep_a_gradient():
    """Slope 1 in the middle, about raw⁻² far out, where a clamp or a tanh would give 0."""
    flow = InverseAutoregressiveFlow(1, hidden=()).double()
    raw_bias = flow.network.layers[-1].bias
    for raw, slope in ((0.0, 1.0), (1000.0, 1 / (1 + (1000 * torch.pi / 10) ** 2))):
        with torch.no_grad():
            raw_bias[1] = raw
        (gradient,) = torch.autograd.grad(flow(points(1, 1))[1].sum(), raw_bias)
        assert gradient[1].item() == pytest.approx(slope, rel=1e-9)


def test_float32_agrees_with_float64():
    for flow_type in BOTH:
        flow = trained(flow_type, 5)
        z = points(100, 5)
        narrow = copy.deepcopy(flow).float()
        for way in ("forward", "inverse"):
            wide_z, wide_log_det = getattr(flow, way)(z)
            narrow_z, narrow_log_det = getattr(narrow, way)(z.float())
            torch.testing.assert_close(narrow_z.double(), wide_z, rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(narrow_log_det.double(), wide_log_det, rtol=2e-3, atol=2e-3)


@each_flow
def test_sequences_mix_all_variables_and_can_be_undone(flow_type):
    flows = FlowSequence(trained(flow_type, 4, reverse=i % 2 == 1, scale=0.2) for i in range(3))
    z = points(10, 4)
    y, log_det = flows(z)
    again, log_det_back = flows.inverse(y)
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(log_det_back, -log_det)
    J = jacobians(flows, z)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(J)[1])
    assert (J.abs().amax(0) > 0).all()


# --- bad input -----------------------------------------------------------------------------------


@each_flow
@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(dim=2, hidden=128), TypeError, r"hidden must be a sequence of widths .* got int"),
        (dict(dim=2, hidden="12"), TypeError, "hidden must be a sequence of widths"),
        (dict(dim=2, hidden=(8, 2.0)), TypeError, "hidden must be an int"),
        (dict(dim=2, hidden=(8, 0)), ValueError, "hidden must be at least 1"),
        (dict(dim=2, reverse=1), TypeError, "reverse must be True or False"),
    ],
)
def test_what_a_flow_is_made_of(flow_type, arguments, error, message):
    with pytest.raises(error, match=message):
        flow_type(**arguments)
