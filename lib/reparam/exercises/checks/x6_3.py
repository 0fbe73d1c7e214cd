"""Self-checks of exercise 6.3. Derived from the exercise's source; do not edit."""

import math

import torch

from reparam.exercises import expect


def on_the_plane(s):
    """Arguments with a = 0 exactly and w·u = s."""
    z = torch.tensor([[0.5, -1.0, 0.25]])
    return z, torch.tensor([s / 2, 0.0, 0.5]), torch.tensor([2.0, 1.0, 0.0]), 0.0


def test_one_nat(answer, rng):
    """At `one_nat` the document is off by one nat."""
    s = expect.number(answer.one_nat, "one_nat")
    expect.that(
        s < 0, "The determinant is small where w·u is negative; one_nat is not."
    )
    off = math.log1p(1e-7 / math.log1p(math.exp(max(s, -600.0))))
    expect.close(
        off, 1.0, "The error at your one_nat, in nats", atol=0.01,
        mistakes={
            "there the determinant is as large as the offset, and the error is log 2":
                math.log(2),
        },
    )  # fmt: skip


def test_plane(answer, rng):
    """On the hyperplane, for small and large determinants."""
    values = (-1.0, -10.0, -40.0, -80.0, 80.0)
    rows = [answer.log_det(*on_the_plane(s)) for s in values]
    rows = [
        expect.tensor(row, (1,), "log_det of one point").detach() for row in rows
    ]
    found = torch.cat(rows)
    expect.that(
        bool(found.isfinite().all()),
        "A log-determinant on the hyperplane is infinite: -1 and +1 have cancelled, and "
        "the log is of 0. `log1p` comes too late, since w·û has lost its digits before; "
        "float64 only moves the place.",
    )
    expect.that(
        not -19 < found[3] < -12,
        "At w·u = -80 the log-determinant stops near log 1e-7: an offset or a clamp has "
        "taken over.",
    )
    wanted = torch.tensor([math.log(math.log1p(math.exp(s))) for s in values])
    library = torch.tensor(
        [math.asinh(s) for s in values]
    )  # its det J is exp(asinh(w·u))
    expect.close(
        found, wanted, "The log-determinant on the hyperplane", atol=1e-3,
        mistakes={"this is the library's constraint; keep the document's": library},
    )  # fmt: skip


def test_off_plane(answer, rng):
    """Off the hyperplane."""
    z = torch.tensor([[0.5, 0.0], [-1.0, 3.0], [20.0, 0.0], [-300.0, 0.0]])
    w, u = torch.tensor([1.0, 0.0]), torch.tensor([-30.0, 1.0])
    found = answer.log_det(z, u, w, 0.0)
    # log(1 + e^-30) is nothing, so w·û is -1 and the determinant 1 - 1/cosh².
    wanted = 2 * torch.log(torch.tanh(z[:, 0].double().abs()))
    expect.close(
        found, wanted, "The log-determinant off the hyperplane", atol=1e-3
    )


def test_gradient(answer, rng):
    """Gradients on the hyperplane, and far from it."""
    z, u, w, _ = on_the_plane(-40.0)
    u.requires_grad_()
    b = torch.tensor(0.0, requires_grad=True)
    slope = expect.gradients(answer.log_det(z, u, w, b), u=u, b=b)
    expect.close(
        slope["u"], w, "The gradient by u on the hyperplane at w·u = -40", rtol=1e-3,
        mistakes={
            "it is 0: where an offset or a clamp takes over, nothing can be learned":
                torch.zeros(3),
        },
    )  # fmt: skip
    far = torch.tensor(100.0, requires_grad=True)
    slope = expect.gradients(answer.log_det(z, u, w, far), u=u, b=far)
    expect.close(slope["b"], 0.0, "The gradient by b far from the hyperplane")

TITLE = 'Sixteen nats and no further'
GIVEN = {}
