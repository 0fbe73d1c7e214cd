"""What several modules share: comparisons as numbers, shapes, graphs, modes."""

import warnings

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from reparam._functions import (
    Function,
    above_zero,
    below,
    graph_of,
    is_plain,
    joint_shape,
    keeping_modes,
    wide_dtype,
)

VALUES = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])


def over_rows(function):
    """`function` under vmap, where a fallback that is slow is an error."""

    def over(*inputs):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return torch.func.vmap(function)(*inputs)

    return over


class Cube(Function):
    @staticmethod
    def forward(z):
        return z**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        (z,) = ctx.saved_tensors
        return 3 * z**2 * slope


def test_plain_is_what_neither_torch_func_nor_the_compiler_sees():
    seen = []

    def look(z):
        seen.append(is_plain())
        return z.sum()

    look(VALUES)
    torch.func.grad(look)(VALUES)
    torch.func.vmap(look)(VALUES[None])
    assert seen == [True, False, False]


def test_a_function_has_its_slope_plainly_and_under_torch_func():
    z = VALUES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Cube.call(z).sum(), z)
    assert torch.equal(slope, 3 * VALUES**2)
    assert torch.equal(torch.func.vmap(torch.func.grad(Cube.call))(VALUES), 3 * VALUES**2)


@pytest.mark.parametrize("way", ["plain", "vmap"])
def test_a_comparison_is_strict_has_the_dtype_of_the_noise_and_leaves_it_alone(way):
    compare = below if way == "plain" else over_rows(below)
    noise = torch.tensor([[0.2, 0.5, 0.7]], dtype=torch.float64)
    kept = noise.clone()
    found = compare(noise, torch.full((1, 3), 0.5))
    assert found.dtype == noise.dtype and found.tolist() == [[1.0, 0.0, 0.0]]
    assert torch.equal(noise, kept)


def test_one_noise_is_held_against_many_bounds():
    bounds = torch.tensor([[0.1], [0.9]])
    found = over_rows(lambda bound: below(torch.tensor([0.5]), bound))(bounds)
    assert found.tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("way", ["plain", "vmap"])
def test_what_is_above_zero_is_one_without_a_slope(way):
    z = VALUES.clone().requires_grad_()
    above = above_zero if way == "plain" else over_rows(above_zero)
    found = above(z)
    assert found.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert not found.requires_grad and torch.equal(z, VALUES)


def test_comparisons_of_what_has_a_tangent():
    with forward_ad.dual_level():
        z = forward_ad.make_dual(VALUES.clone(), torch.ones_like(VALUES))
        assert above_zero(z).tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
        assert below(torch.zeros(5), z.detach()).tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("shapes", "joint"),
    [
        ([(2,)], (2,)),
        ([(2, 3), (2, 3)], (2, 3)),
        ([(2, 1), (3,), ()], (2, 3)),
        ([(2,), (3,)], None),
    ],
)
def test_what_shapes_broadcast_to(shapes, joint):
    assert joint_shape(*map(torch.Size, shapes)) == joint


def test_sixteen_bits_are_computed_in_thirty_two():
    wide = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        assert wide_dtype(dtype) == wide.get(dtype, dtype)


def test_each_node_of_a_graph_is_seen_once():
    z = torch.ones(1, requires_grad=True)
    y = z.exp()
    nodes = list(graph_of(y * y + y.sin()))
    assert sorted(type(node).__name__ for node in nodes) == [
        "AccumulateGrad",
        "AddBackward0",
        "ExpBackward0",
        "MulBackward0",
        "SinBackward0",
    ]
    assert list(graph_of(torch.ones(1))) == []


def test_each_part_gets_its_own_mode_back_even_after_an_error():
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    module[1].eval()
    with pytest.raises(RuntimeError), keeping_modes(module):
        module.eval()
        module[1].train()
        raise RuntimeError
    assert (module.training, module[0].training, module[1].training) == (True, True, False)
    with keeping_modes(torch.tanh):
        pass  # what has no modes is let be
