# %% about
"""
title = "A baseline with a memory"
kind = "implementation"
difficulty = 3
minutes = 20
points = 6
objective = "Implement a running baseline that is unbiased, starts well and can be frozen"
after = "A baseline from the past, and one that knows the input"
"""

# %% imports
import torch
from torch import Tensor, nn

# %% text
r"""
With one sample a step there are no other samples, but there is a past. Write a module that centers each batch of values by a running mean of the batches *before* it:

$$m_t = d\,m_{t-1} + (1-d)\,\bar f_t,\qquad m_0 = 0,\qquad \text{baseline after } t \text{ batches} = \frac{m_t}{1-d^t},$$

where $\bar f_t$ is the mean of batch $t$ and $d$ the decay. The division makes up for the start at 0; before the first batch the baseline is 0.

`forward(values)` takes values `[n]` and returns `values - baseline`, with the baseline of earlier batches. After that it remembers the batch, in training mode only. The memory belongs to the `state_dict` and is no parameter. Gradients pass through `values` and never into the memory.
"""


# %% answer
class RunningBaseline(nn.Module):
    """Center values by a running mean of the batches before."""

    def __init__(self, decay: float):
        super().__init__()
        ### BEGIN SOLUTION
        self.decay = decay
        self.register_buffer("memory", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))
        ### END SOLUTION

    def forward(self, values: Tensor) -> Tensor:
        """values minus the baseline of earlier batches; in training, remember the batch."""
        ### BEGIN SOLUTION
        weight = 1 - self.decay**self.steps
        centered = values - (self.memory / weight if self.steps > 0 else 0.0)
        if self.training:
            with torch.no_grad():
                self.memory.mul_(self.decay).add_(
                    (1 - self.decay) * values.mean()
                )
                self.steps.add_(1)
        return centered
        ### END SOLUTION


# %% hint
r"""
Two buffers are enough: the memory $m_t$ and the number of batches $t$. `self.register_buffer(name, tensor)` puts a tensor into the state without making it a parameter.
"""

# %% hint
r"""
The order is the point: subtract first, remember afterwards. A baseline that has seen its own sample is biased.
"""

# %% hint
r"""
`values.mean()` carries the graph of `values` into the memory, and from there into the next step, unless it is detached.
"""

# %% visible
import torch

from reparam.exercises import expect


def baselines(module, batches):
    """The baseline that each batch met."""
    return torch.stack(
        [batch[0] - module(batch)[0] for batch in batches]
    ).detach()


def expected(means, decay):
    found, memory = [], 0.0
    for step, mean in enumerate(means):
        found.append(memory / (1 - decay**step) if step else 0.0)
        memory = decay * memory + (1 - decay) * float(mean)
    return torch.tensor(found)


def test_first(answer, rng):
    """The first batch meets no baseline."""
    module = answer.RunningBaseline(0.9)
    found = module(torch.tensor([4.0, 6.0]))
    expect.that(
        not bool(found.isnan().any()),
        "Before the first batch 1 - d^0 is 0, and 0/0 is no baseline: it should be 0.",
    )
    expect.close(
        found, torch.tensor([4.0, 6.0]), "The first batch, centered",
        mistakes={
            "its own mean was taken away: the baseline has seen its own batch":
                torch.tensor([-1.0, 1.0]),
            "a tenth of its own mean was taken away: remember a batch after it is centered":
                torch.tensor([3.5, 5.5]),
        },
    )  # fmt: skip


def test_second(answer, rng):
    """The second batch meets the mean of the first."""
    module = answer.RunningBaseline(0.9)
    module(torch.tensor([4.0, 6.0]))
    found = module(torch.tensor([10.0]))
    expect.close(
        found, torch.tensor([5.0]), "The second batch, centered",
        mistakes={
            "the memory still leans on its start at 0: divide by 1 - d^t": torch.tensor([9.5]),
        },
    )  # fmt: skip


def test_frozen(answer, rng):
    """In evaluation nothing is remembered."""
    module = answer.RunningBaseline(0.9)
    module(torch.tensor([5.0]))
    module.eval()
    module(torch.tensor([100.0]))
    expect.close(
        module(torch.tensor([5.0])), torch.tensor([0.0]),
        "A batch in evaluation, after another one",
        mistakes={"the batch of 100 was remembered in evaluation": torch.tensor([-50.0])},
    )  # fmt: skip


# %% hidden
from reparam.exercises import points


@points(2)
def test_many(answer, rng):
    """Many batches, several decays."""
    for decay in (0.5, 0.9, 0.99):
        batches = list(3 + torch.randn(12, 4, generator=rng))
        found = baselines(answer.RunningBaseline(decay), batches)
        wanted = expected([b.mean() for b in batches], decay)
        expect.close(
            found, wanted, "The baselines of a row of batches", atol=1e-4
        )


@points(1)
def test_state(answer, rng):
    """The memory is in the state, and there are no parameters."""
    module, other = answer.RunningBaseline(0.8), answer.RunningBaseline(0.8)
    batches = 2 + torch.randn(5, 3, generator=rng)
    for batch in batches:
        module(batch)
    other.load_state_dict(module.state_dict())
    probe = torch.randn(3, generator=rng)
    wanted = probe - expected([*batches.mean(1), 0.0], 0.8)[-1]
    expect.close(other(probe), wanted, "What a loaded module gives", atol=1e-4)
    expect.that(
        not answer.parameters(module),
        "The module has parameters; it should have none.",
    )


@points(2)
def test_gradients(answer, rng):
    """Gradients pass through the values and never into the memory."""
    module = answer.RunningBaseline(0.7)
    first = torch.randn(4, generator=rng, requires_grad=True)
    second = torch.randn(4, generator=rng, requires_grad=True)
    module(first)
    result = module(second)
    wanted = (second - first.mean()).detach()
    expect.close(result, wanted, "The second batch, centered", atol=1e-4)
    (back,) = torch.autograd.grad(
        result.sum(), first, allow_unused=True, retain_graph=True
    )
    expect.that(
        back is None or not bool(back.any()),
        "A gradient runs through the memory into an earlier batch: detach the mean before it is "
        "remembered.",
    )
    slope = expect.gradients(result, values=second)["values"]
    expect.close(slope, torch.ones(4), "The gradient through the values")


@points(1)
def test_eval(answer, rng):
    """Evaluation uses the memory and leaves it alone."""
    module = answer.RunningBaseline(0.6)
    batches = 1 + torch.randn(3, 5, generator=rng)
    for batch in batches:
        module(batch)
    module.eval()
    probe = torch.randn(5, generator=rng)
    first, second = module(probe), module(probe)
    expect.close(second, first, "The same batch twice in evaluation")
    wanted = expected([*batches.mean(1), 0.0], 0.6)[-1]
    expect.close(first, probe - wanted, "A batch in evaluation", atol=1e-4)


# %% right: one buffer, and the weights summed
class RunningBaseline(nn.Module):
    def __init__(self, decay):
        super().__init__()
        self.decay = decay
        self.register_buffer(
            "state", torch.zeros(2)
        )  # weighted sum, sum of weights

    def forward(self, values):
        total, weight = self.state.tolist()
        centered = values - (total / weight if weight else 0.0)
        if self.training:
            batch = torch.tensor([values.mean().item(), 1.0])
            self.state = self.decay * self.state + (1 - self.decay) * batch
        return centered


# %% wrong: remembers before it centers
class RunningBaseline(RunningBaseline):
    def forward(self, values):
        if self.training:
            self.memory.mul_(self.decay).add_(
                (1 - self.decay) * values.mean().detach()
            )
            self.steps.add_(1)
        return values - self.memory / (1 - self.decay**self.steps)


# %% wrong: no correction of the start
class RunningBaseline(nn.Module):
    def __init__(self, decay):
        super().__init__()
        self.decay = decay
        self.register_buffer("memory", torch.zeros(()))

    def forward(self, values):
        centered = values - self.memory
        if self.training:
            with torch.no_grad():
                self.memory.mul_(self.decay).add_(
                    (1 - self.decay) * values.mean()
                )
        return centered


# %% wrong: remembers in evaluation
class RunningBaseline(RunningBaseline):
    def forward(self, values):
        weight = 1 - self.decay**self.steps
        centered = values - (self.memory / weight if self.steps > 0 else 0.0)
        with torch.no_grad():
            self.memory.mul_(self.decay).add_((1 - self.decay) * values.mean())
            self.steps.add_(1)
        return centered


# %% wrong: the memory is not in the state
class RunningBaseline(nn.Module):
    def __init__(self, decay):
        super().__init__()
        self.decay, self.memory, self.steps = decay, 0.0, 0

    def forward(self, values):
        weight = 1 - self.decay**self.steps
        centered = values - (self.memory / weight if self.steps else 0.0)
        if self.training:
            self.memory = (
                self.decay * self.memory + (1 - self.decay) * values.mean().item()
            )
            self.steps += 1
        return centered


# %% wrong: the memory keeps the graph
class RunningBaseline(RunningBaseline):
    def forward(self, values):
        weight = 1 - self.decay**self.steps
        centered = values - (self.memory / weight if self.steps > 0 else 0.0)
        if self.training:
            self.memory = (
                self.decay * self.memory + (1 - self.decay) * values.mean()
            )
            self.steps = self.steps + 1
        return centered


# %% wrong: detaches what it returns
class RunningBaseline(RunningBaseline):
    @torch.no_grad()
    def forward(self, values):
        weight = 1 - self.decay**self.steps
        centered = values - (self.memory / weight if self.steps > 0 else 0.0)
        if self.training:
            self.memory.mul_(self.decay).add_((1 - self.decay) * values.mean())
            self.steps.add_(1)
        return centered


# %% idle: hands on what it gets
class RunningBaseline(nn.Module):
    def __init__(self, decay):
        super().__init__()

    def forward(self, values):
        return values * 1


# %% idle: centers each batch by its own mean
class RunningBaseline(nn.Module):
    def __init__(self, decay):
        super().__init__()
        self.register_buffer("memory", torch.zeros(()))

    def forward(self, values):
        return values - values.mean().detach()


# %% solution
r"""
The baseline must not depend on the sample that it is taken from, so the batch is centered before it is remembered. The correction $1 - d^t$ is Adam's: without it the first baselines are close to 0 and do nothing for the first $1/(1-d)$ steps, which is when the values are largest. As a buffer the memory moves with `.to(device)` and is saved with the model; as a plain attribute it is lost at the first checkpoint.
"""

# %% rubric
r"""
Two points for the sequence, one for the state, two for gradients, one for evaluation.
"""
