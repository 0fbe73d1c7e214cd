"""The Sylvester flow: orthonormal columns, triangular equations, and the planar flow inside it."""

import pytest
import torch

from reparam.flows import PlanarFlow, SylvesterFlow
from reparam.flows.sylvester import _orthonormal


def lively(dim, num_vectors=None, context_dim=0, size=1.0):
    flow = SylvesterFlow(dim, num_vectors, context_dim).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += size * torch.randn_like(parameter)
    return flow


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 5), (5, 5), (7, 3, 5)])
def test_columns_are_orthonormal(shape):
    q = _orthonormal(torch.randn(shape).double())
    assert q.shape == (*shape[:-2], shape[-1], shape[-2])
    identity = torch.eye(shape[-2]).double().expand(*shape[:-2], -1, -1)
    torch.testing.assert_close(q.mT @ q, identity, rtol=0, atol=1e-14)


def test_every_orthogonal_direction_is_within_reach():
    """The first column is any unit vector n: that which `e_1 - n` reflects `e_1` to."""
    n = torch.nn.functional.normalize(torch.randn(4).double(), dim=0)
    reflector = torch.eye(4).double()[0] - n
    torch.testing.assert_close(_orthonormal(reflector[None])[:, 0], n)


def test_a_reflector_of_zero_reflects_nothing():
    reflectors = torch.zeros(2, 3, requires_grad=True)
    q = _orthonormal(reflectors)
    assert torch.equal(q, torch.eye(3, 2))
    assert torch.autograd.grad(q.sum(), reflectors)[0].isfinite().all()


def test_one_vector_is_a_planar_flow():
    """Along `q`, with `u = r1 q` and `w = r2 q`."""
    flow, planar = lively(4, 1), PlanarFlow(4).double()
    q = _orthonormal(flow.reflectors)[:, 0]
    with torch.no_grad():
        planar.u.copy_(flow.r1[0, 0] * q)
        planar.w.copy_(flow.r2[0, 0] * q)
        planar.b.copy_(flow.b[0])
    z = torch.randn(6, 4).double()
    for ours, theirs in zip(flow(z) + flow.inverse(z), planar(z) + planar.inverse(z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_the_map_is_that_of_the_paper():
    flow, z = lively(4, 3), torch.randn(6, 4).double()
    q, r1, r2, b, _ = flow._parameters_for(None)
    assert torch.equal(r1, r1.triu()) and torch.equal(r2, flow.r2.triu())
    assert torch.equal(r1.triu(1), flow.r1.triu(1))
    assert ((r1 @ r2).diagonal() > -1).all()
    expected = torch.stack([v + q @ r1 @ torch.tanh(r2 @ q.T @ v + b) for v in z])
    torch.testing.assert_close(flow(z)[0], expected)
    slopes = torch.diag(1 - torch.tanh(r2 @ q.T @ z[0] + b) ** 2)
    jacobian = torch.eye(4) + q @ r1 @ slopes @ r2 @ q.T
    torch.testing.assert_close(flow(z)[1][0], torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("num_vectors", [1, 2, 5])
@pytest.mark.parametrize("context_dim", [0, 3])
def test_what_is_at_right_angles_to_all_vectors_stays(num_vectors, context_dim):
    flow = lively(5, num_vectors, context_dim)
    z = torch.randn(6, 5).double()
    context = torch.randn(6, 3).double() if context_dim else None
    q = flow._parameters_for(context)[0]
    outside = torch.eye(5) - q @ q.mT
    step = flow(z, context)[0] - z
    torch.testing.assert_close((outside @ step[..., None]), torch.zeros(6, 5, 1).double())


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("inverse", [False, True])
def test_second_derivatives(context_dim, inverse):
    flow = lively(2, None, context_dim, size=0.5)
    way = flow.inverse if inverse else flow
    z = torch.randn(2, 2).double().requires_grad_()
    context = torch.randn(2, 2).double().requires_grad_() if context_dim else None
    assert torch.autograd.gradgradcheck(way, (z, context))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [0.0, 30.0, -30.0])
def test_extremes_are_finite_forward_and_backward(dtype, scale):
    """Products `r1 r2` of ±900 and 0, inputs to 1e4."""
    flow = SylvesterFlow(3).to(dtype)
    with torch.no_grad():
        flow.r1.fill_(abs(scale))
        flow.r2.fill_(scale)
    z = torch.cat([torch.zeros(1, 3), torch.randn(20, 3), 1e4 * torch.randn(20, 3)]).to(dtype)
    for way in (flow.forward, flow.inverse):
        given = z.clone().requires_grad_()
        moved, log_det = way(given)
        slopes = torch.autograd.grad(moved.sum() + log_det.sum(), [given, *flow.parameters()])
        assert all(s.isfinite().all() for s in (moved, log_det, *slopes))


@pytest.mark.parametrize("wrong", [0, -1, 5, 2.0, True])
def test_num_vectors_is_a_count_up_to_dim(wrong):
    with pytest.raises((TypeError, ValueError), match="num_vectors must be"):
        SylvesterFlow(4, wrong)
