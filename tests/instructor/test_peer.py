"""Calls between two processes: values, gradients, objects, and what is refused."""

import json
import math
import time

import numpy as np
import pytest
import torch
from torch import distributions as td

from instructor.grader import peer as peer_module
from instructor.grader import sandbox
from instructor.grader.peer import Broken, RemoteError
from reparam.exercises import expect

CODE = """
import numpy as np
import torch
from torch import nn

def echo(*values): return values[0] if len(values) == 1 else list(values)
def through(mu, f): return f(2 * mu)
def scaled(q, n): return q.rsample((n,))
def edited(mu, f):
    out = f(mu)
    out *= 3
    return out
def blocked(mu): return mu.detach() * 2
def unused(mu, other): return 3 * other
def describe(q): return [type(q).__name__, q.mean, list(q.batch_shape)]
def fails(x): raise ValueError("no " + str(x))
def seeded(): return torch.rand(3)
def drawn(generator): return torch.rand(3, generator=generator)
def each(mu, f): return torch.func.vmap(torch.func.grad(f))(mu)
def inside(mu, f): return torch.func.grad(lambda m: torch.func.vmap(f)(m).sum())(mu)
def rows(mu, f): return torch.func.jacrev(f)(mu)
def twice(mu, f): return torch.func.grad(torch.func.grad(f))(mu)
def forward(mu, f): return torch.func.jvp(f, (mu,), (torch.ones_like(mu),))
def lazily(n): return map(str, range(n)), zip("ab", range(2))
def words(): return np.array(["a", "b"]), np.bool_(True)
def many(mu, f): return sum(f(mu) for _ in range(600))
class Head(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.full((n,), 2.0))
        self.size = n
    def forward(self, x): return x * self.weight
    def twice(self, x): return self(self(x))
"""
NAMES = [
    "echo", "through", "scaled", "blocked", "unused", "describe", "fails", "seeded", "drawn",
    "Head", "edited", "each", "inside", "rows", "twice", "forward", "lazily", "words", "many",
]  # fmt: skip


@pytest.fixture(scope="module")
def peer():
    notebook = json.dumps({"cells": [{"cell_type": "code", "source": CODE}]})
    blanks = {name: f"def {name}(): pass" for name in NAMES}
    with sandbox.process(slot=800) as peer:
        peer.deadline = time.monotonic() + 300
        peer.request({"op": "load", "notebook": notebook, "blanks": blanks, "given": {}})
        yield peer


@pytest.fixture
def call(peer):
    return lambda name, *args: peer.call({"name": name}, args)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, -(2**80), 0.1, math.inf, "σ", [1, [2.5, "x"]], (1, 2), {"a": 1, 2: [None]},
        torch.Size([2, 3]), torch.float64,
    ],
    ids=str,
)  # fmt: skip
def test_values_come_back_as_they_went(call, value):
    found = call("echo", value)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (0, 4)])
def test_tensors_come_back_to_the_bit(call, dtype, shape):
    value = (torch.randn(shape) * 3).to(dtype)
    found = call("echo", value)
    assert found.dtype == dtype and found.shape == value.shape and found.equal(value)


def test_gradients_cross_in_both_directions(call):
    """z = f(2μ) with f here and 2μ there: the chain rule needs both."""
    mu = torch.tensor([0.5, -1.0], requires_grad=True)
    weight = torch.tensor(3.0, requires_grad=True)
    result = call("through", mu, lambda z: weight * z**2)
    result.sum().backward()
    assert result.tolist() == [3.0, 12.0]
    assert mu.grad.tolist() == [12.0, -24.0]  # 3 · 2 · 2μ · 2


def test_a_result_of_ours_may_be_edited_in_place(call):
    mu = torch.tensor([1.0, 2.0], requires_grad=True)
    call("edited", mu, torch.square).sum().backward()
    assert mu.grad.tolist() == [6.0, 12.0]


def test_one_expanded_element_crosses(call):
    """The gradient of a sum over one element has the stride 0."""
    mu = torch.ones(1, requires_grad=True)
    call("through", mu, torch.square).sum().backward()
    assert mu.grad.tolist() == [8.0]


def test_an_array_without_dimensions_stays_one(call):
    assert call("echo", np.array(2.5)).shape == ()


def test_a_gradient_of_a_tensor_that_is_not_used_is_none(call):
    mu, other = (torch.tensor(1.0, requires_grad=True) for _ in range(2))
    result = call("unused", mu, other)
    slopes = torch.autograd.grad(result, [mu, other], allow_unused=True)
    assert slopes[0] is None and slopes[1] == 3


def test_a_blocked_result_has_no_graph(call):
    assert not call("blocked", torch.tensor(1.0, requires_grad=True)).requires_grad


def test_a_second_derivative_is_refused(call):
    mu = torch.tensor(1.0, requires_grad=True)
    result = call("through", mu, lambda z: z**2)
    (slope,) = torch.autograd.grad(result, mu, create_graph=True)
    with pytest.raises(RuntimeError):
        slope.backward()


@pytest.mark.parametrize("name", ["each", "inside", "rows"])
def test_transforms_of_torch_func_cross(call, name):
    mu = torch.tensor([0.5, -1.0, 2.0])
    found = call(name, mu, lambda z: (z**3).sum())
    torch.testing.assert_close(found, 3 * mu**2)
    assert not found.requires_grad


@pytest.mark.parametrize(
    "name, message", [("twice", "second derivative"), ("forward", "reverse mode")]
)
def test_what_does_not_cross_is_told(call, name, message):
    with pytest.raises(RemoteError, match=message):
        call(name, torch.tensor(2.0), lambda z: z**3)


def test_what_is_evaluated_later_is_sent_as_a_list(call):
    assert call("lazily", 2) == (["0", "1"], [("a", 0), ("b", 1)])


def test_words_and_truth_values_of_numpy(call):
    assert call("words") == (["a", "b"], True)


def test_many_calls_have_one_backward(call):
    mu = torch.tensor(1.0, requires_grad=True)
    call("many", mu, torch.square).backward()
    assert mu.grad == 1200


def test_an_exception_of_ours_comes_back_as_it_was(call):
    """A test's own sentence, said in a function that an answer called."""
    fault = expect.NotYet("Only the sample may be asked for.", "three numbers")

    def refuse(z):
        raise fault

    with pytest.raises(expect.NotYet) as caught:
        call("through", torch.ones(2), refuse)
    assert caught.value is fault


def test_a_distribution_too_large_to_broadcast_is_refused():
    wide = {"loc": torch.zeros(4096, 1), "scale": torch.ones(1, 4096)}
    with pytest.raises(ValueError, match="too large"):
        peer_module._make("Normal", wide)
    assert peer_module._make("Normal", {k: v[:1] for k, v in wide.items()})


@pytest.mark.parametrize(
    "q",
    [
        td.Normal(torch.zeros(2), torch.ones(2)), td.Bernoulli(logits=torch.tensor([0.3, 1.0])),
        td.Bernoulli(0.3), td.Categorical(probs=torch.tensor([0.2, 0.8])), td.Poisson(2.0),
        td.Independent(td.Normal(torch.zeros(2), 1.0), 1), td.Gamma(2.0, 3.0),
        td.MultivariateNormal(torch.zeros(2), scale_tril=torch.tensor([[1.0, 0], [0.5, 2]])),
        td.OneHotCategorical(logits=torch.zeros(3)), td.Binomial(5, probs=torch.tensor(0.2)),
    ],
    ids=lambda q: type(q).__name__,
)  # fmt: skip
def test_distributions_cross_by_their_parameters(call, q):
    name, mean, shape = call("describe", q)
    assert name == type(q).__name__ and tuple(shape) == q.batch_shape
    torch.testing.assert_close(mean, q.mean, equal_nan=True)


def test_gradients_reach_the_parameters_of_a_distribution(call):
    mu, sigma = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    z = call("scaled", td.Normal(mu, sigma), 4)
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.tensor(4.0))
    torch.testing.assert_close(sigma.grad, ((z - mu) / sigma).sum().detach())


def test_a_module_stays_where_it_is(peer, call):
    head = call("Head", 2)
    assert head.size == 2 and head.training is True
    head.eval()
    assert head.training is False
    result = head.twice(torch.tensor([1.0, 3.0]))
    result.sum().backward()
    target = {"op": "parameters", "target": {"ref": head._number}}
    assert peer.request({**target, "gradients": True})["weight"].tolist() == [4.0, 12.0]
    assert peer.request({**target, "gradients": False})["weight"].tolist() == [2.0, 2.0]
    assert sorted(head.state_dict()) == ["weight"]


def test_errors_come_in_words(call):
    with pytest.raises(RemoteError, match="no 3") as caught:
        call("fails", 3)
    assert caught.value.kind == "ValueError" and caught.value.where.startswith("cell 1, line")


def test_noise_follows_the_seed_and_the_generator(peer, call):
    def seeded(seed):
        peer.request({"op": "seed", "seed": seed})
        return call("seeded").tolist()

    assert seeded(1) == seeded(1) != seeded(2)
    generator = torch.Generator().manual_seed(7)
    wanted = torch.rand(3, generator=torch.Generator().manual_seed(7))
    assert call("drawn", generator).equal(wanted)


def test_what_is_too_long_is_refused(call):
    with pytest.raises(ValueError, match="too long"):
        call("echo", torch.zeros(2**25))


def test_a_deadline_ends_the_waiting(call, peer):
    peer.deadline = time.monotonic() - 1
    with pytest.raises(Broken, match="too long"):
        call("echo", 1)
    peer.deadline = time.monotonic() + 300


# ---------------------------------------------------------------- the sandbox


def test_the_filter_is_a_program_of_whole_instructions():
    for machine in ("x86_64", "aarch64"):
        assert len(sandbox.seccomp_filter(machine)) % 8 == 0
    with pytest.raises(sandbox.NoSandbox, match="riscv"):
        sandbox.seccomp_filter("riscv64")


def test_without_bubblewrap_nothing_runs(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(sandbox.NoSandbox, match="apt-get install bubblewrap"):
        sandbox.command()


LOOK = """
import os
def seen():
    found = {}
    for folder, folders, files in os.walk("/"):
        folders[:] = [f for f in folders if folder + f not in ("/proc", "/usr", "/dev")]
        if "site-packages" in folder or "/.pyenv/" in folder or "/lib/python" in folder:
            folders[:] = []
            continue
        for name in files: found[os.path.join(folder, name)] = os.access(folder, os.W_OK)
    return {"uid": os.getuid(), "files": sorted(found), "writable": [f for f in found if found[f]]}
"""


def test_what_an_answer_can_see():
    """Its own machinery and the library, nothing of ours, and nothing that it could change."""
    notebook = json.dumps({"cells": [{"cell_type": "code", "source": LOOK}]})
    with sandbox.process(slot=801) as peer:
        peer.deadline = time.monotonic() + 60
        blanks = {"seen": "def seen(): pass"}
        peer.request({"op": "load", "notebook": notebook, "blanks": blanks, "given": {}})
        found = peer.call({"name": "seen"})
    assert found["uid"] not in (0, None)
    assert not found["writable"]
    assert not [f for f in found["files"] if "instructor" in f or f.endswith("expect.toml")]
    ours = [f for f in found["files"] if str(sandbox.HERE.parents[1]) in f and "/.venv/" not in f]
    assert not ours
