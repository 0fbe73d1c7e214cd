"""The explorer of chapter 4: its rounding in Node against torch, operation by operation."""

import math

import pytest
import torch
import torch.nn.functional as F

from reparam.explorers import raw_to_sigma
from reparam.explorers.build import run_javascript
from reparam.gaussian import bound_log_var, gaussian_kl

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RAW = [round(0.05 * i - 20, 2) for i in range(801)]


def from_sigma(sigma):
    return sigma, 2 * sigma.log()


def from_log_var(log_var):
    return (log_var / 2).exp(), log_var


MAPS = {
    "hand": lambda raw: from_sigma((1 + raw.exp()).log()),
    "softplus": lambda raw: from_sigma(F.softplus(raw)),
    "exp": from_log_var,
    "clamp": lambda raw: from_log_var(raw.clamp(-10, 10)),
    "bound": lambda raw: from_log_var(bound_log_var(raw)),
}


def in_torch(name, dtype, raw=RAW):
    """σ, the KL at μ = 0 and its gradient, by torch and its autograd in this dtype: `[3, n]`."""
    raw = torch.tensor(raw, dtype=torch.float64).to(dtype).requires_grad_()
    sigma, log_var = MAPS[name](raw)
    kl = (log_var.exp() - 1 - log_var) / 2
    (slope,) = torch.autograd.grad(kl.sum(), raw)
    return torch.stack([sigma, kl, slope]).detach().double()


def in_page(name, dtype, raw=RAW):
    rows = run_javascript(
        raw_to_sigma(),
        f"""{raw}.map((r) => {{
            const {{ sigma, kl, slope }} = widget.evaluate("{name}", "{dtype}", r);
            return [sigma, kl, slope].map(String);  // JSON knows no infinity
        }})""",
    )
    numbers = [[float(text.replace("Infinity", "inf")) for text in row] for row in rows]
    return torch.tensor(numbers, dtype=torch.float64).T


def view(**changes):
    explorer = raw_to_sigma()
    explorer.state.update(changes)
    return run_javascript(explorer, "widget.spec.model(state)")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", MAPS)
def test_every_number_is_torchs_bit_for_bit(name, dtype):
    torch.testing.assert_close(
        in_page(name, dtype), in_torch(name, DTYPES[dtype]), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("name", MAPS)
def test_float32_is_torchs_but_for_the_last_bits_of_exp(name):
    """torch's float32 exp and log are not correctly rounded; what is 0 or infinite is the same."""
    got, want = in_page(name, "float32"), in_torch(name, torch.float32)
    torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-6, equal_nan=True)
    # σ is never near 0 by absolute error alone: down to 2e-9, its relative error counts.
    torch.testing.assert_close(got[0], want[0], rtol=1e-6, atol=0)
    assert torch.equal(got == 0, want == 0)


@pytest.mark.parametrize("name", MAPS)
def test_dashed_truth_is_float64s(name):
    got = in_page("softplus" if name == "hand" else name, "real")
    torch.testing.assert_close(got, in_torch(name, torch.float64), rtol=1e-6, atol=1e-12)
    _, log_var = MAPS[name](torch.tensor(RAW, dtype=torch.float64))
    kl = gaussian_kl(torch.zeros_like(log_var), log_var, "none")
    torch.testing.assert_close(got[1], kl, rtol=1e-6, atol=1e-12)


def last(dtype, event):
    """Where an event that holds below some r between -20 and 20 ends, by bisection in torch."""
    low, high = -20.0, 20.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if event(torch.tensor(middle).to(dtype).double()) else (low, middle)
        )
    return low


@pytest.mark.parametrize(
    ("dtype", "stated"), [("bfloat16", "5.55"), ("float16", "7.62"), ("float32", "16.64")]
)
def test_the_stated_zeros_of_the_hand_written_softplus(dtype, stated):
    kind = DTYPES[dtype]
    found = last(kind, lambda raw: (1 + raw.to(kind).exp()).log() == 0)
    assert f"{-found:.2f}" == stated
    explorer = raw_to_sigma()
    explorer.state.update(guess="snap", seen="yes")
    words = run_javascript(explorer, "widget.spec.story(widget.spec.model(state))")
    assert f"−{stated}" in words
    # And the picture says so at its bar's end.
    explorer.state.update(dtype=dtype)
    drawn = "widget.spec.draw(view, widget.spec.layout({width: 800, font: 14}, view))"
    picture = run_javascript(explorer, f"((view) => {drawn})(widget.spec.model(state))")
    assert f"up to r = −{stated}" in picture


def test_the_stated_overflow_of_float16():
    found = last(torch.float16, lambda raw: raw.half().exp().isfinite())
    assert f"{found:.2f}" == "11.09"
    explorer = raw_to_sigma()
    explorer.state.update(guess="snap", seen="yes", dtype="float16")
    drawn = "widget.spec.draw(view, widget.spec.layout({width: 800, font: 14}, view))"
    picture = run_javascript(explorer, f"((view) => {drawn})(widget.spec.model(state))")
    assert "from r = 11.09" in picture and ">NaN<" in picture
    assert "overflows float16 at 11.09" in run_javascript(
        explorer, "widget.spec.story(widget.spec.model(state))"
    )


def test_beyond_a_clamp_the_gradient_is_zero_and_the_bounds_is_not():
    raw = [-20.0, -10.05, 10.05, 20.0]
    for dtype in DTYPES:
        assert (in_page("clamp", dtype, [-20.0, -10.5, 10.5, 20.0])[2] == 0).all()
        assert (in_page("bound", dtype, raw)[2] != 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("raw", [-13.8, -12.0, -6.0, 0.0, 8.0, 12.0])
def test_stored_samples_are_torchs(dtype, raw):
    kind = DTYPES[dtype]
    eps = raw_to_sigma().noise.to(kind)
    shown = view(dtype=dtype, r=raw)["all"]
    for name in MAPS:
        got = shown[name]
        if got["sigma"] is None:  # JSON knows no infinity
            continue
        z = 2 + torch.tensor(got["sigma"], dtype=torch.float64).to(kind) * eps
        assert got["z"] == z.double().tolist()
        assert got["distinct"] == z.unique().numel()


def test_a_small_sigma_is_lost_in_bfloat16():
    raw = 2 * math.log(0.001)
    got = view(dtype="bfloat16", r=round(raw, 1))["all"]["exp"]
    assert got["sigma"] == pytest.approx(0.001, rel=0.01) and got["distinct"] == 1
    assert view(dtype="float32", r=round(raw, 1))["all"]["exp"]["distinct"] == 24


def test_nothing_gives_the_zeros_away_before_they_are_seen():
    explorer = raw_to_sigma()
    shown = """((view) => [widget.spec.draw(view, widget.spec.layout({width: 800, font: 14}, view)),
        widget.spec.story(view), widget.spec.status(view), Boolean(widget.spec.goal(view)),
        widget.spec.ask.verdict({...view, state: {...state, guess: "snap"}}),
        widget.spec.table(view).rows.length])(widget.spec.model(state))"""
    picture, story, status, goal, verdict, rows = run_javascript(explorer, shown)
    assert "exactly 0" not in picture and "5.55" not in picture + story + status + verdict
    assert not goal and rows == 1
    explorer.state.update(guess="under", r=-5.5)
    moved = "(() => { widget.spec.moved(state, 'r'); return state.seen; })()"
    assert run_javascript(explorer, moved) == "no"
    explorer.state.update(r=-5.6)
    assert run_javascript(explorer, moved) == "yes"
    explorer.state.update(seen="yes")
    picture, story, status, goal, verdict, rows = run_javascript(explorer, shown)
    assert "exactly 0" in picture and "5.55" in verdict and explorer.claim in story
    assert "σ = 0, KL = ∞, gradient −∞; the 24 draws are stored as 1 number." in status
    assert goal and rows == 5


def test_only_the_bound_in_float16_reaches_the_goal():
    explorer = raw_to_sigma()
    explorer.state.update(guess="snap", seen="yes", r=-12.0)
    reached = []
    for name in MAPS:
        for dtype in DTYPES:
            explorer.state.update(map=name, dtype=dtype)
            if run_javascript(explorer, "widget.spec.goal(widget.spec.model(state))")["done"]:
                reached.append((name, dtype))
    assert reached == [("bound", "float16")]
    sigma, _, _ = in_torch("bound", torch.float64, [-1e9, -12.0])
    assert sigma[0] == pytest.approx(0.0067, abs=5e-5)  # what the words say of it
