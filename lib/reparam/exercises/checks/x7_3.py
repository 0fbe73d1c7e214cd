"""Self-checks of exercise 7.3. Derived from the exercise's source; do not edit."""

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

TITLE = 'A baseline with a memory'
GIVEN = {}
