"""What estimators do themselves because torch does it slowly: the same samples and derivatives."""

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

from reparam._functions import Function, above_zero, below
from reparam.estimators._contract import draw, draw_together, log_ratio
from tests.lib.statistical import check_count

F64 = torch.float64


class Doubled(Function):
    @staticmethod
    def forward(x, factor):
        return factor * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, slope):
        return ctx.factor * slope, None


def test_a_function_by_either_of_its_forms():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert torch.autograd.grad(Doubled.call(x, 2.0).sum(), x)[0].tolist() == [2, 2]
    slope = torch.func.grad(lambda x: Doubled.call(x, 2.0))
    assert torch.func.vmap(slope)(x.detach()).tolist() == [2, 2]


def test_comparisons():
    u, p = torch.tensor([0.0, 0.3, 0.7]), torch.tensor([0.0, 0.5, 0.7], requires_grad=True)
    kept = u.clone()
    assert below(u, p.detach()).tolist() == [0, 1, 0] and torch.equal(u, kept)
    assert torch.func.vmap(below)(u, p.detach()).tolist() == [0, 1, 0]
    z = torch.tensor([-1.0, 0.0, 1e-45], requires_grad=True)
    assert above_zero(z).tolist() == torch.func.vmap(above_zero)(z).tolist() == [0, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
def test_bits_have_their_probabilities(dtype):
    """In bfloat16 as well, whose own uniform numbers have 2**8 values."""
    theta = torch.tensor([0.001, 0.3, 0.5, 1.0, 0.0], dtype=dtype)
    count = 2**20
    z = draw(Independent(Bernoulli(theta), 1), count)
    assert z.dtype == dtype and set(z.unique().tolist()) == {0.0, 1.0}
    for k, p in enumerate(theta.tolist()[:3]):
        check_count(z[:, k].double().sum(), count, p)
    assert (z[:, 3] == 1).all() and (z[:, 4] == 0).all()


def test_what_others_wrote_is_asked():
    """A class of bits with a `sample` or a `log_prob` of its own, or a layer around it."""

    class Ones(Bernoulli):
        def sample(self, shape=()):
            return torch.ones(*shape, *self.batch_shape)

        def log_prob(self, z):
            return 3 * super().log_prob(z)

    logits = torch.zeros(2, requires_grad=True)
    q = Independent(Ones(logits=logits), 1)
    z = draw(q, 5)
    assert (z == 1).all() and (draw_together([q, q], (4,))[1] == 1).all()
    (slope,) = torch.autograd.grad(log_ratio(q, z).sum(), logits)
    assert slope.tolist() == [7.5, 7.5]


def test_probabilities_that_are_no_numbers_are_refused():
    q = Bernoulli(logits=torch.tensor([0.0, torch.nan]), validate_args=False)
    with pytest.raises(RuntimeError, match="p_in"):
        draw(q, 3)


@pytest.mark.parametrize("by", ["logits", "probs"])
def test_every_derivative_of_the_density_of_bits(by):
    p = torch.tensor([[0.2, 0.6, 0.7], [0.9, 0.5, 0.1]], dtype=F64, requires_grad=True)
    q = Independent(Bernoulli(**{by: p}), 1)
    z, weight = draw(q, 4), torch.randn(4, 2, dtype=F64)
    log_prob = q.log_prob(z)
    ours, theirs = log_ratio(q, z), log_prob - log_prob.detach()
    assert torch.equal(ours, theirs)
    for _ in range(3):
        ours, theirs = (
            torch.autograd.grad((weight * (x + x**2)).sum(), p, create_graph=True)[0]
            for x in (ours, theirs)
        )
        torch.testing.assert_close(ours, theirs)
        weight = torch.randn(2, 3, dtype=F64)


def test_draws_together_share_their_noise():
    """Also where torch draws them, and the generator is left where one draw leaves it."""
    for kind, first, second in (
        (Normal, (torch.zeros(1000), torch.ones(1000)), (torch.ones(1000), torch.ones(1000))),
        (torch.distributions.Laplace, (torch.zeros(9), torch.ones(9)), (torch.ones(9),) * 2),
    ):
        for layers in (0, 1):
            a, b = (Independent(kind(*args), layers) for args in (first, second))
            x, y = draw_together([a, b])
            torch.testing.assert_close(y - x, torch.ones_like(x))
            assert not torch.equal(draw_together([a, b])[0], x)
