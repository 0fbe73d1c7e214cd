"""What truncated and circular laws share: rules, blocks, steps, log-odds."""

import mpmath
import pytest
import torch

from reparam.distributions._quadrature import COARSE, EXACT, halley, in_blocks, log_odds_of


@pytest.mark.parametrize("rule", [*COARSE.values(), EXACT[torch.float64]])
def test_a_rule_integrates_polynomials(rule):
    """To a degree of twice its nodes less one; column k has k powers more already."""
    assert rule.weights.shape == (*rule.nodes.shape, 3)
    assert rule.nodes.dtype == rule.weights.dtype
    for power in range(0, 2 * len(rule.nodes) - 2, 7):
        integrals = (rule.nodes**power) @ rule.weights
        exact = [1 / (power + k + 1) for k in range(3)]
        torch.testing.assert_close(integrals, integrals.new_tensor(exact))


@pytest.mark.parametrize("count", [1, 1024, 3000])
def test_blocks_are_put_together_in_their_order(count):
    x = torch.arange(2.0 * count).view(2, count)
    (double,) = in_blocks(lambda x: (2 * x,), x)
    assert torch.equal(double, 2 * x)
    y = torch.tensor([[1.0], [3.0]])
    total, product = in_blocks(lambda x, y: (x + y, x * y), x, y)
    assert torch.equal(total, x + y)
    assert torch.equal(product, x * y)


def test_halleys_step_is_exact_where_log_odds_are_straight():
    """Those of a logistic point are the point itself, so that one step arrives."""
    x, target = torch.linspace(-4, 4, 9, dtype=torch.float64), torch.tensor(0.7).double()
    below, above = torch.sigmoid(x), torch.sigmoid(-x)  # whose product is the density
    drift = -(1 - 2 * below)  # minus the slope of the logarithm of the density
    step = halley(x - target, above, below, drift)
    torch.testing.assert_close(x + step, target.expand_as(x))


def test_halleys_step_of_a_curved_error():
    """Of an exponential variable's: log(e^x - 1). The error of the step is of third order."""
    x = torch.tensor(1.0, dtype=torch.float64)
    errors = []
    for distance in (0.1, 0.05):
        root = x + distance
        error = torch.log(torch.expm1(x)) - torch.log(torch.expm1(root))
        below, above = -torch.expm1(-x), torch.exp(-x)
        step = halley(error, above / below, torch.ones_like(x), torch.ones_like(x))
        errors.append((x + step - root).abs())
    assert 6.5 < errors[0] / errors[1] < 9.5, "halved, a distance leaves an eighth of the error"


def test_halleys_step_is_twice_newtons_at_most():
    error, left, right = torch.tensor(2.0), torch.tensor(0.5), torch.tensor(1.5)
    newton = -error / (left + right)
    assert halley(error, left, right, torch.tensor(-5.0)) == 2 * newton
    assert halley(error, left, right, torch.tensor(1.0)) == newton  # no curvature


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("u", [1e-30, 0.2, 0.25, 0.3, 0.49999, 0.5, 0.500001, 0.75, 0.999])
def test_log_odds_to_all_digits(u, dtype):
    u = torch.tensor(u, dtype=dtype, requires_grad=True)
    value = log_odds_of(u)
    with mpmath.workdps(40):
        p = mpmath.mpf(u.item())
        exact = float(mpmath.log(p) - mpmath.log1p(-p))
    rtol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(value.detach(), torch.tensor(exact, dtype=dtype), rtol=rtol, atol=0)
    (slope,) = torch.autograd.grad(value, u)
    torch.testing.assert_close(slope.item(), 1 / (u.item() * (1 - u.item())))


def test_log_odds_of_all_and_nothing():
    u = torch.tensor([0.0, 1.0], requires_grad=True)
    assert log_odds_of(u).tolist() == [-torch.inf, torch.inf]
