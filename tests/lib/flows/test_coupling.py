"""Affine coupling flows: by hand, halves, both directions, gradients, extremes, errors."""

import pytest
import torch
from torch import nn

from reparam.flows import AffineCouplingFlow, FlowSequence
from reparam.flows.autoregressive import LOG_SCALE_BOUND

each_dim = pytest.mark.parametrize("dim", [2, 3, 6])
each_order = pytest.mark.parametrize("reverse", [False, True], ids=["first", "last"])


def trained(dim, hidden=(32, 32), context_dim=0, reverse=False, scale=0.4):
    """A flow with random weights, in float64: a fresh one is the identity."""
    flow = AffineCouplingFlow(dim, hidden, context_dim, reverse).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=scale)
    return flow


def points(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def jacobians(f, z):
    """`[B, D, D]` of a map of `[B, D]` that takes row by row, by autograd."""
    return torch.autograd.functional.jacobian(lambda z: f(z)[0].sum(0), z).permute(1, 0, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("context_dim", [0, 3])
def test_a_fresh_flow_is_the_identity_exactly(dtype, context_dim, device):
    flow = AffineCouplingFlow(4, context_dim=context_dim).to(device, dtype)
    z = torch.randn(7, 4, dtype=dtype, device=device)
    context = torch.randn(7, 3, dtype=dtype, device=device) if context_dim else None
    for way in (flow, flow.inverse):
        out, log_det = way(z, context)
        assert torch.equal(out, z)
        assert torch.equal(log_det, torch.zeros(7, dtype=dtype, device=device))


def test_a_linear_network_by_hand():
    """Two variables, `m = 1 + 0.5 z_1` and a raw log-scale of `-1 + 0.25 z_1`."""
    flow = AffineCouplingFlow(2, hidden=()).double()
    with torch.no_grad():
        flow.network[0].weight.copy_(torch.tensor([[0.5], [0.25]]))
        flow.network[0].bias.copy_(torch.tensor([1.0, -1.0]))
    half_pi = torch.pi / 2
    s = 5 / half_pi * torch.atan(torch.tensor(-0.5).double() * half_pi / 5)
    y, log_det = flow(torch.tensor([[2.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(y, torch.stack([torch.tensor(2.0).double(), 2 + s.exp() * 3])[None])
    torch.testing.assert_close(log_det, s[None])


@each_dim
@each_order
@pytest.mark.parametrize("hidden", [(), (16,), (32, 16)], ids=str)
def test_log_determinants_are_those_of_autograd(dim, reverse, hidden):
    flow = trained(dim, hidden, reverse=reverse)
    z = points(6, dim)
    for way in (flow, flow.inverse):
        _, log_det = way(z)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobians(way, z))[1])


@each_dim
@each_order
@pytest.mark.parametrize("context_dim", [0, 2])
def test_one_direction_undoes_the_other(dim, reverse, context_dim):
    flow = trained(dim, context_dim=context_dim, reverse=reverse)
    z = points(4, 6, dim)
    context = points(6, 2) if context_dim else None  # the same for all 4
    for there, back in ((flow, flow.inverse), (flow.inverse, flow)):
        y, log_det = there(z, context)
        again, log_det_back = back(y, context)
        assert (y - z).abs().max() > 0.1
        torch.testing.assert_close(again, z, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(log_det_back, -log_det, rtol=1e-10, atol=1e-10)


@each_dim
@each_order
def test_which_variables_are_kept_and_which_they_tell(dim, reverse):
    flow = trained(dim, (64,), reverse=reverse)
    J = jacobians(flow, points(50, dim))
    if reverse:
        J = J.flip(1, 2)
    kept = dim // 2
    identity = torch.eye(kept, dtype=torch.float64).expand(50, -1, -1)
    torch.testing.assert_close(J[:, :kept, :kept], identity, rtol=0, atol=0)
    assert torch.count_nonzero(J[:, :kept, kept:]) == 0
    changed = J[:, kept:, kept:]
    assert torch.count_nonzero(changed - torch.diag_embed(changed.diagonal(dim1=1, dim2=2))) == 0
    assert (J[:, kept:, :kept].abs().amax(0) > 0).all()


@each_order
def test_context_reaches_every_changed_variable(reverse):
    flow = trained(4, (64,), context_dim=3, reverse=reverse)
    z, context = points(20, 4), points(20, 3)
    for way in (flow, flow.inverse):
        J = torch.autograd.functional.jacobian(lambda c, way=way: way(z, c)[0].sum(0), context)
        reached = J.abs().amax((1, 2)) > 0
        assert reached.tolist() == (
            [True, True, False, False] if reverse else [False] * 2 + [True] * 2
        )


@each_order
def test_gradients_of_both_directions(reverse):
    flow = trained(3, (8,), context_dim=2, reverse=reverse)
    z, context = points(3, 3).requires_grad_(), points(3, 2).requires_grad_()
    for way in (flow, flow.inverse):
        assert torch.autograd.gradcheck(way, (z, context))
        assert torch.autograd.gradgradcheck(way, (z, context))


def test_under_torch_func():
    flow = trained(4, context_dim=2)
    z, context = points(5, 4), points(5, 2)
    for way in (flow, flow.inverse):
        found = torch.func.vmap(torch.func.jacrev(lambda z, c, way=way: way(z, c)[0]))(z, context)
        torch.testing.assert_close(found, jacobians(lambda z, way=way: way(z, context), z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_finite_for_extreme_weights_and_inputs(dtype):
    flow = trained(4, (16,), scale=30.0).to(dtype)
    z = (torch.randn(64, 4) * torch.logspace(-3, 10, 64)[:, None]).to(dtype).requires_grad_()
    for way in (flow, flow.inverse):
        y, log_det = way(z)
        assert y.isfinite().all()
        assert log_det.abs().max() <= 2 * LOG_SCALE_BOUND * (1 + 1e-6)
        gradients = torch.autograd.grad(y.sum() + log_det.sum(), [z, *flow.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_two_of_them_change_all_variables_and_can_be_undone():
    flows = FlowSequence([trained(5), trained(5, reverse=True)])
    z = points(10, 5)
    y, log_det = flows(z)
    again, log_det_back = flows.inverse(y)
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(log_det_back, -log_det)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobians(flows, z))[1])
    assert (y != z).any(0).all()


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(dim=1), ValueError, "needs dim of at least 2, .* got 1: use InverseAutoregressive"),
        (dict(dim=2, hidden=128), TypeError, r"hidden must be a sequence of widths .* got int"),
        (dict(dim=2, hidden=(8, 2.0)), TypeError, "hidden must be an int"),
        (dict(dim=2, hidden=(8, 0)), ValueError, "hidden must be at least 1"),
        (dict(dim=2, reverse="yes"), TypeError, "reverse must be True or False"),
    ],
)
def test_what_a_flow_is_made_of(arguments, error, message):
    with pytest.raises(error, match=message):
        AffineCouplingFlow(**arguments)
