# %% about
"""
title = "Sixteen nats and no further"
kind = "bug"
difficulty = 3
minutes = 25
points = 7
objective = "Find where a log-determinant stops being right, and compute it without cancellation"
after = "Planar layers"
"""

# %% imports
import torch
import torch.nn.functional as F

# %% text
r"""
Below is the document's log-determinant of a planar layer, taken out of its class. The constraint turns $u$ into $\hat u$ with $w\cdot\hat u = -1+\log(1+e^{w\cdot u})$, so that on the hyperplane $w\cdot z+b = 0$ the determinant is $\log(1+e^{w\cdot u})$.

1. *Show the fault.* On the hyperplane, even without any rounding, the added `1e-7` makes the log-determinant too large. Find `one_nat`, the value of $w\cdot u$ at which it is too large by exactly one nat (three digits are enough).

> **Predict first.** A layer has learned $w\cdot u = -40$, and its sample lies on the hyperplane. What is the gradient of the document's log-determinant by $u$, and what should it be?

2. *Mend it.* Write `log_det` for the same layer (the same $\hat u$, not the library's). In float32 it is to be right to $10^{-3}$ for every $z$ and all $w\cdot u$ from $-80$ to $80$, and its gradients finite and right, on the hyperplane too.
"""


# %% code
def log_det_of_the_document(z, u, w, b):
    wu = w @ u
    u_hat = u + (F.softplus(wu) - 1 - wu) * w / (w @ w)
    h = torch.tanh(z @ w + b)
    psi = (1 - h**2)[:, None] * w
    return torch.log(torch.abs(1 + psi @ u_hat) + 1e-7)


on_plane = torch.zeros(1, 2)
for wu in (-1.0, -10.0, -40.0):
    u, w = torch.tensor([wu, 0.5]), torch.tensor([1.0, 0.0])
    print(wu, f"{log_det_of_the_document(on_plane, u, w, 0.0).item():.3f}")

# %% answer
### BEGIN SOLUTION
one_nat = -16.659
### END SOLUTION


# %% answer
def log_det(z, u, w, b):
    """[n]: log|det J| of the document's layer at z [n, D]; u, w: [D]; b: number."""
    ### BEGIN SOLUTION
    a = z @ w + b
    sech2 = 4 * torch.sigmoid(2 * a) * torch.sigmoid(-2 * a)
    return torch.log(torch.tanh(a) ** 2 + sech2 * F.softplus(w @ u))
    ### END SOLUTION


# %% hint
r"""
For part 1, call the determinant $d$ and solve $\log(d+10^{-7}) - \log d = 1$. Then find the $w\cdot u$ that gives this $d$; where $d$ is tiny, $\log(1+e^x)\approx e^x$.
"""

# %% hint
r"""
Where are the digits lost? `F.softplus(wu)` is right to the last bit even at $-80$. The next operation adds it to $-1$.
"""

# %% hint
r"""
(6.6) of the chapter splits the 1 into $\tanh^2a+\mathrm{sech}^2a$. Do the same with the document's $w\cdot\hat u$; $\hat u$ itself need not be computed.
"""

# %% hint
r"""
Check the gradient at $a = 0$, too. There $\log\tanh^2a$ is $-\infty$ with an infinite slope, so that it must not be computed on its own. And $\mathrm{sech}^2a$ as $1/\cosh^2a$ overflows for large $a$.
"""

# %% visible
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


# %% hidden
import mpmath

from reparam.exercises import points


def exact(a, s):
    """log|det J| at w·z + b = a and w·u = s, with 80 digits."""
    with mpmath.workdps(80):
        a, s = mpmath.mpf(float(a)), mpmath.mpf(float(s))
        constrained = mpmath.log1p(mpmath.exp(s)) - 1
        return float(mpmath.log(1 + constrained / mpmath.cosh(a) ** 2))


@points(1)
def test_shown(answer, rng):
    """`one_nat` is where it should be."""
    test_one_nat(answer, rng)


@points(2)
def test_values(answer, rng):
    """The log-determinant for points near and far, and constraints near and far."""
    for s in (-80.0, -3.0, 0.0, 80.0):
        w = torch.randn(4, generator=rng)
        w = w / w.norm() * (0.5 + torch.rand((), generator=rng))
        aside = torch.randn(4, generator=rng)
        u = s * w / (w @ w) + aside - (aside @ w) * w / (w @ w)
        a = torch.tensor([-50.0, -6.0, -0.7, 0.4, 1.5, 8.0, 100.0])
        z = a[:, None] * w / (w @ w)
        found = answer.log_det(z, u, w, torch.tensor(0.0))
        sizes = (z.double() @ w.double()), (u.double() @ w.double())
        wanted = torch.tensor([exact(x, sizes[1]) for x in sizes[0]])
        expect.close(found, wanted, "The log-determinant", atol=1e-3, rtol=1e-4)


@points(2)
def test_small(answer, rng):
    """Tiny determinants, on the hyperplane and close to it."""
    for s in (-5.0, -17.0, -37.0, -70.0):
        z, u, w, b = on_the_plane(s)
        found = [
            answer.log_det(z, u, w, shift)[0].detach() for shift in (b, 2.0**-9)
        ]
        wanted = torch.tensor([exact(0, s), exact(2.0**-9, s)])
        expect.close(
            torch.stack(found), wanted, "A tiny log-determinant", atol=1e-3
        )


@points(2)
def test_gradients(answer, rng):
    """The gradients by u and b are finite and right."""
    for s in (-60.0, 2.0, 60.0):
        for shift in (0.0, 2.0, 100.0):
            z, u, w, _ = on_the_plane(s)
            b = torch.tensor(shift, requires_grad=True)
            found = expect.gradients(
                torch.ones(1) * answer.log_det(z, u.requires_grad_(), w, b),
                u=u,
                b=b,
            )
            with mpmath.workdps(80):
                h = mpmath.mpf(10) ** -30

                def at(a, s):
                    bent = (mpmath.log1p(mpmath.exp(s)) - 1) / mpmath.cosh(a) ** 2
                    return mpmath.log(1 + bent)

                x, y = mpmath.mpf(shift), mpmath.mpf(s)
                by_a = float((at(x + h, y) - at(x - h, y)) / (2 * h))
                by_s = float((at(x, y + h) - at(x, y - h)) / (2 * h))
            expect.close(
                found["u"], by_s * w, "The gradient by u", atol=1e-3, rtol=1e-3
            )
            expect.close(
                found["b"], by_a, "The gradient by b", atol=1e-3, rtol=1e-3
            )


# %% right: in log space, kept away from -inf
one_nat = float(torch.log(torch.expm1(torch.tensor(1e-7 / 1.7182818284590453))))


def log_det(z, u, w, b):
    a = (z * w).sum(-1) + b
    size = a.abs()
    log_sech2 = 2 * (math_log_2() - size - F.softplus(-2 * size))
    log_tanh2 = 2 * torch.log(torch.tanh(size) + 1e-30)
    return torch.logaddexp(
        log_tanh2, log_sech2 + torch.log(F.softplus((w * u).sum()))
    )


def math_log_2():
    return 0.6931471805599453


# %% right: sech² as 1 - tanh²
def log_det(z, u, w, b):
    t2 = torch.tanh(z @ w + b).square()
    return torch.log(t2 + (1 - t2) * F.softplus(w @ u))


# %% wrong: leaves the document's
def log_det(z, u, w, b):
    return log_det_of_the_document(z, u, w, b)


# %% wrong: no offset, and that is all
def log_det(z, u, w, b):
    w_u_hat = F.softplus(w @ u) - 1
    h = torch.tanh(z @ w + b)
    return torch.log(1 + (1 - h**2) * w_u_hat)


# %% wrong: log1p of what has lost its digits
def log_det(z, u, w, b):
    w_u_hat = F.softplus(w @ u) - 1
    h = torch.tanh(z @ w + b)
    return torch.log1p((1 - h**2) * w_u_hat)


# %% wrong: the same in float64
def log_det(z, u, w, b):
    w_u_hat = F.softplus((w @ u).double()) - 1
    h = torch.tanh((z @ w + b).double())
    return torch.log(1 + (1 - h**2) * w_u_hat).float()


# %% wrong: a clamp in place of the offset
def log_det(z, u, w, b):
    w_u_hat = F.softplus(w @ u) - 1
    h = torch.tanh(z @ w + b)
    return torch.log((1 + (1 - h**2) * w_u_hat).clamp(min=1e-7))


# %% wrong: the library's constraint
def log_det(z, u, w, b):
    a = z @ w + b
    sech2 = 4 * torch.sigmoid(2 * a) * torch.sigmoid(-2 * a)
    return torch.log(torch.tanh(a) ** 2 + sech2 * torch.exp(torch.asinh(w @ u)))


# %% wrong: log space with a gradient of NaN on the hyperplane
def log_det(z, u, w, b):
    a = z @ w + b
    log_tanh2 = 2 * torch.log(torch.tanh(a).abs())
    log_sech2 = torch.log(4 * torch.sigmoid(2 * a) * torch.sigmoid(-2 * a))
    return torch.logaddexp(log_tanh2, log_sech2 + torch.log(F.softplus(w @ u)))


# %% wrong: sech² through cosh, which overflows
def log_det(z, u, w, b):
    a = z @ w + b
    sech2 = 1 / torch.cosh(a) ** 2
    return torch.log(torch.tanh(a) ** 2 + sech2 * F.softplus(w @ u))


# %% wrong: takes the offset for the answer of part 1
one_nat = -16.118

# %% solution
r"""
With $d = \log(1+e^{w\cdot u})$ the offset adds $\log(1+10^{-7}/d)$, which is 1 at $d = 10^{-7}/(e-1) = 5.8\cdot10^{-8}$, that is at $w\cdot u = -16.66$. At $\log 10^{-7} = -16.12$ the error is $\log 2$.

The repair is one line, $\det J = \tanh^2a+\mathrm{sech}^2a\,\log(1+e^{w\cdot u})$, in which every term is positive and known to the last bit. $\hat u$ and the division by $\lVert w\rVert^2$ are not needed for the determinant. The gradient is the better half of the repair: at $w\cdot u = -40$ on the hyperplane it is $w$ (to rounding), while the document's is 0. Its training cannot get a layer out of there.

A computation in log space is also right, if $\log\tanh^2a$ is kept finite at $a = 0$: `logaddexp` ignores the $-\infty$, its backward pass multiplies an infinite slope by 0. Float64 moves the problem from $-17$ to $-37$.
"""

# %% rubric
r"""
One point for `one_nat`, two for values anywhere, two for tiny determinants, two for gradients. Partial credit within the gradients: one point if only the hyperplane or only far points fail.
"""
