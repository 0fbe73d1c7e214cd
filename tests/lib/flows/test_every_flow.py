"""What every flow promises: one suite over all public flows, found by themselves."""

import copy
import math

import pytest
import torch

import reparam.flows
from reparam.flows import (
    AffineCouplingFlow,
    Flow,
    FlowSequence,
    InverseAutoregressiveFlow,
    MaskedAutoregressiveFlow,
    PlanarFlow,
    RadialFlow,
    SplineFlow,
    SylvesterFlow,
)
from reparam.flows._contract import root

NAMES = [
    name
    for name in reparam.flows.__all__
    if isinstance(getattr(reparam.flows, name), type)
    and issubclass(getattr(reparam.flows, name), Flow)
    and name != "Flow"
]


def with_network(kind):
    """Networks of eight hidden units: what a wider one would add is time."""
    return lambda dim, context_dim: kind(dim, hidden=(8,), context_dim=context_dim)


#: `make(dim, context_dim)` for each public flow.
CASES = {
    "AffineCouplingFlow": with_network(AffineCouplingFlow),
    "FlowSequence": lambda dim, context_dim: FlowSequence(
        [PlanarFlow(dim, context_dim), RadialFlow(dim), SylvesterFlow(dim, 1, context_dim)]
    ),
    "InverseAutoregressiveFlow": with_network(InverseAutoregressiveFlow),
    "MaskedAutoregressiveFlow": with_network(MaskedAutoregressiveFlow),
    "PlanarFlow": PlanarFlow,
    "RadialFlow": RadialFlow,
    "SplineFlow": with_network(SplineFlow),
    "SylvesterFlow": lambda dim, context_dim: SylvesterFlow(dim, None, context_dim),
}

each_flow = pytest.mark.parametrize("name", NAMES)
each_context = pytest.mark.parametrize("context_dim", [0, 2], ids=["shared", "amortized"])
each_way = pytest.mark.parametrize("way", ["forward", "inverse"])


def test_every_public_flow_has_a_case():
    missing = set(NAMES) - set(CASES)
    assert not missing, f"give {sorted(missing)} a case in CASES of {__file__}"


def lively(name, dim=3, context_dim=0, size=0.7, dtype=torch.float64):
    """A flow far from the identity, in float64, and a context for each of 5 inputs or None."""
    flow = CASES[name](dim, context_dim).to(dtype)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += size * torch.randn_like(parameter)
    context = torch.randn(5, context_dim, dtype=dtype) if context_dim else None
    return flow, context


def inputs(dim=3, dtype=torch.float64):
    return 1.5 * torch.randn(5, dim, dtype=dtype)


# --- map, log-determinant, inverse ---------------------------------------------------------------


@each_flow
@each_context
@each_way
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_log_det_is_that_of_the_jacobian_by_autograd(name, context_dim, way, dim):
    flow, context = lively(name, dim, context_dim)
    z = inputs(dim)
    _, log_det = getattr(flow, way)(z, context)
    assert log_det.shape == (5,)
    for i in range(5):
        here = None if context is None else context[i]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, here=here: getattr(flow, way)(v, here)[0], z[i]
        )
        sign, expected = torch.linalg.slogdet(jacobian)
        # An inverse solves equations, whose rounding a steep inverse enlarges.
        enlarged = max(1.0, torch.linalg.cond(jacobian).item())
        assert sign == 1 and abs(log_det[i] - expected) < 1e-13 * enlarged


@each_flow
@each_context
def test_inverse_undoes_forward_and_forward_inverse(name, context_dim):
    """Up to rounding, which flat stretches of a spline enlarge (to 6e-9 in 300 draws)."""
    rounding = 1e-7 if name == "SplineFlow" else 1e-10
    flow, context = lively(name, context_dim=context_dim)
    z = inputs()
    for there, back in ((flow.forward, flow.inverse), (flow.inverse, flow.forward)):
        moved, log_det = there(z, context)
        again, log_det_back = back(moved, context)
        assert (moved - z).abs().max() > 1e-3, "the test says nothing of an identity"
        torch.testing.assert_close(again, z, rtol=rounding, atol=rounding)
        torch.testing.assert_close(log_det_back, -log_det, rtol=rounding, atol=rounding)


@each_flow
def test_the_density_behind_it_integrates_to_one(name):
    """By the midpoint rule on [-12, 12]², of a standard Gaussian sent through the flow.

    The flow is the first of ever livelier ones that changes some volume by more than a tenth: one
    that squeezes much into little would escape the rule, which misses up to 8e-5 (of 80 draws).
    """
    step = 0.06
    axis = torch.arange(-12 + step / 2, 12, step, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    size, log_det = 0.05, torch.zeros(1)
    while log_det.abs().max() < 0.1:
        flow, _ = lively(name, dim=2, size=size)
        with torch.no_grad():
            z, log_det = flow.inverse(points)
        size *= 1.5
    log_q = -z.square().sum(-1) / 2 - math.log(math.tau) + log_det
    assert abs(log_q.exp().sum().item() * step**2 - 1) < 3e-4


@each_flow
@each_context
@each_way
def test_gradients_in_input_parameters_and_context(name, context_dim, way):
    flow, context = lively(name, context_dim=context_dim)
    names, parameters = zip(*flow.named_parameters(), strict=True)

    class Way(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = flow

        def forward(self, z, context):
            return getattr(self.flow, way)(z, context)

    def call(z, context, *parameters):
        given = {f"flow.{n}": p for n, p in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Way(), given, (z, context))

    z = inputs()[:2].requires_grad_()
    context = None if context is None else context[:2].requires_grad_()
    assert torch.autograd.gradcheck(call, (z, context, *parameters), fast_mode=True)


@each_flow
@pytest.mark.parametrize("dim", [2, 16, 64])
def test_a_fresh_flow_is_near_the_identity(name, dim):
    """For standard Gaussian inputs: log-determinants below 0.03, moves below 1 % of the length.

    The constraint that C2 is about gives each planar layer -0.366 and moves z by 13.6 at D = 2.
    """
    log_dets, moves = [], []
    for _ in range(20):
        z = torch.randn(100, dim)
        moved, log_det = CASES[name](dim, 0)(z)
        log_dets.append(log_det.abs().mean().item())
        moves.append(((moved - z).norm(dim=-1) / z.norm(dim=-1)).mean().item())
    layers = 3 if name == "FlowSequence" else 1
    assert sum(log_dets) / 20 < 0.03 * layers * max(1, dim / 16)
    assert sum(moves) / 20 < 0.01 * layers * math.sqrt(dim)


# --- shapes, types, places -----------------------------------------------------------------------


@each_flow
def test_a_fresh_flow_hardly_heeds_its_context(name):
    """What an encoder says at first must not spoil the start at the identity."""
    flow, z = CASES[name](3, 50).double(), inputs()
    one, other = (flow(z, torch.randn(5, 50, dtype=torch.float64))[0] for _ in range(2))
    assert (one - other).abs().max() < 0.3


@each_flow
@each_context
@each_way
def test_leading_dimensions_of_input_and_context(name, context_dim, way):
    flow, _ = lively(name, context_dim=context_dim)
    call = getattr(flow, way)
    z = torch.randn(4, 5, 3, dtype=torch.float64)
    shapes = [(5, 2), (4, 1, 2), (2,), (4, 5, 2)] if context_dim else [None]
    for shape in shapes:
        context = None if shape is None else torch.randn(shape, dtype=torch.float64)
        full = None if shape is None else context.expand(4, 5, 2)
        moved, log_det = call(z, context)
        assert moved.shape == z.shape and log_det.shape == z.shape[:-1]
        for i, j in ((0, 0), (3, 2)):
            alone, alone_log_det = call(z[i, j], None if full is None else full[i, j])
            torch.testing.assert_close(moved[i, j], alone, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(log_det[i, j], alone_log_det, rtol=1e-9, atol=1e-9)


@each_flow
@each_context
def test_examples_do_not_touch_each_other(name, context_dim):
    flow, context = lively(name, context_dim=context_dim)
    z = inputs()
    jacobian = torch.autograd.functional.jacobian(
        lambda v: torch.cat([flow(v, context)[0], flow(v, context)[1][:, None]], -1), z
    )
    blocks = jacobian.abs().sum((1, 3))
    assert torch.equal(blocks, blocks.diagonal().diag())


EPS = torch.finfo(torch.float32).eps


def rounded_at_random(flow):
    """A copy of a flow whose every weight is off by about a rounding of float32."""
    copied = copy.deepcopy(flow)
    for parameter in copied.parameters():
        parameter.mul_(1 + EPS * torch.randn_like(parameter))
    return copied


@each_flow
@each_context
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_type_gives_what_float64_rounds_to(name, context_dim, dtype, device):
    """In 16-bit types everything but the result is computed in float32.

    So the result is rounded once, and beforehand it is about as far off as if the weights had been
    rounded to float32: of 300 draws no flow was off by more than 3 times what this moves, but for
    the spline (38 times), which adds up its knots and then looks at what lies between two.
    """
    flow, context = lively(name, context_dim=context_dim, dtype=torch.float32)
    flow = flow.to(device, dtype)
    z = inputs(dtype=dtype).to(device)
    context = None if context is None else context.to(device, dtype)
    moved, log_det = flow(z, context)
    assert moved.dtype == log_det.dtype == dtype and moved.device == z.device
    exact = copy.deepcopy(flow).double()
    given = z.double(), None if context is None else context.double()
    times = 100 if name == "SplineFlow" else 12
    with torch.no_grad():
        right = exact(*given)
        near = [rounded_at_random(exact)(*given) for _ in range(3)]
    for i, got in enumerate((moved, log_det)):
        shift = max((other[i] - right[i]).abs().max() for other in near) + EPS
        allowed = torch.finfo(dtype).eps * right[i].abs() + times * shift
        assert ((got.double() - right[i]).abs() <= allowed).all()
    (moved.sum() + log_det.sum()).backward()
    assert all(p.grad.dtype == dtype for p in flow.parameters() if p.grad is not None)


@each_flow
@each_context
def test_saved_and_loaded_it_is_the_same_flow(name, context_dim):
    flow, context = lively(name, context_dim=context_dim)
    other = CASES[name](3, context_dim).double()
    other.load_state_dict(flow.state_dict())
    z = inputs()
    for flow_out, other_out in zip(flow(z, context), other(z, context), strict=True):
        assert torch.equal(flow_out, other_out)


@each_flow
@each_context
def test_under_torch_func(name, context_dim):
    flow, context = lively(name, context_dim=context_dim)
    z = inputs()
    given = (z,) if context is None else (z, context)
    moved, log_det = flow(*given)
    one_by_one = torch.func.vmap(flow)(*given)
    torch.testing.assert_close(one_by_one, (moved, log_det))
    jacobians = torch.func.vmap(torch.func.jacrev(lambda *a: flow(*a)[0]))(*given)
    torch.testing.assert_close(torch.linalg.slogdet(jacobians)[1], log_det, rtol=1e-9, atol=1e-9)
    one_by_one = torch.func.vmap(flow.inverse)(moved, *given[1:])
    torch.testing.assert_close(one_by_one[0], z, rtol=1e-9, atol=1e-9)

    def total(z):
        return flow(z, context)[1].sum()

    slope = torch.autograd.functional.jacobian(total, z)
    torch.testing.assert_close(torch.func.grad(total)(z), slope)


@pytest.mark.slow
def test_under_torch_compile():
    flow = FlowSequence([PlanarFlow(3), RadialFlow(3)]).double()
    compiled = torch.compile(flow, backend="aot_eager", fullgraph=True)
    z = inputs()
    torch.testing.assert_close(compiled(z), flow(z))
    torch.compiler.reset()


# --- bad input -----------------------------------------------------------------------------------


@each_flow
@each_context
@each_way
def test_bad_input_gets_one_clear_error(name, context_dim, way):
    flow = CASES[name](3, context_dim)
    call = getattr(flow, way)
    context = torch.zeros(5, 2) if context_dim else None
    z = torch.zeros(5, 3)
    for wrong, error, message in (
        ([0.0, 0.0, 0.0], TypeError, "z must be a tensor"),
        (torch.zeros(5, 3, dtype=torch.long), TypeError, "z must hold floating-point"),
        (torch.zeros(5, 4), ValueError, r"wants z of shape \[\.\.\., 3\], got \[5, 4\]"),
        (torch.tensor(0.0), ValueError, r"wants z of shape"),
        (torch.zeros(0, 3), ValueError, "z is empty"),
        (torch.full((5, 3), math.nan), ValueError, "z holds NaN"),
        (torch.full((5, 3), -math.inf), ValueError, "z holds infinite"),
        (z.double(), ValueError, "weights and z must share dtype"),
    ):
        with pytest.raises(error, match=message):
            call(wrong, context)
    if context_dim:
        for wrong, error, message in (
            (None, ValueError, r"wants a context of shape \[\.\.\., 2\], got none"),
            (torch.zeros(5, 3), ValueError, r"wants context of shape \[\.\.\., 2\]"),
            (torch.zeros(4, 2), ValueError, "does not broadcast to the leading"),
            (torch.zeros(6, 5, 2), ValueError, "does not broadcast to the leading"),
            (torch.full((5, 2), math.nan), ValueError, "context holds NaN"),
            (torch.full((5, 2), math.inf), ValueError, "context holds infinite"),
        ):
            with pytest.raises(error, match=message):
                call(z, wrong)
    else:
        with pytest.raises(ValueError, match="was made without a context"):
            call(z, torch.zeros(5, 2))


@each_flow
@each_way
def test_broken_weights_are_named(name, way):
    flow = CASES[name](3, 0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match="gave NaN or infinity for inputs of size up to 1"):
        getattr(flow, way)(torch.ones(5, 3))


@each_flow
@pytest.mark.parametrize("dim", [0, -1, 2.0])
def test_sizes_are_counts(name, dim):
    with pytest.raises((TypeError, ValueError), match="dim must be"):
        CASES[name](dim, 0)
    with pytest.raises((TypeError, ValueError), match="context_dim must be"):
        CASES[name](3, -1)


# --- sequences -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PlanarFlow, RadialFlow, SylvesterFlow])
def test_what_a_context_says_is_added_to_the_parameters_of_the_flow(kind):
    amortized, plain = kind(3, context_dim=2).double(), kind(3).double()
    own = [p for name, p in amortized.named_parameters() if not name.startswith("amortize.")]
    context = torch.randn(2, dtype=torch.float64)
    with torch.no_grad():
        amortized.amortize.weight.normal_()
        said = amortized.amortize(context).split([p.numel() for p in own])
        for parameter, mine, part in zip(plain.parameters(), own, said, strict=True):
            parameter.copy_(mine + part.view_as(mine))
    z = inputs()
    torch.testing.assert_close(amortized(z, context), plain(z))


@pytest.mark.parametrize("kind", [PlanarFlow, RadialFlow, SylvesterFlow])
def test_a_context_of_zeros_says_nothing(kind):
    amortized, plain = kind(3, context_dim=2), kind(3)
    plain.load_state_dict(amortized.state_dict(), strict=False)
    z = inputs(dtype=torch.float32)
    torch.testing.assert_close(amortized(z, torch.zeros(5, 2)), plain(z))


@pytest.mark.parametrize(
    "kind",
    [AffineCouplingFlow, InverseAutoregressiveFlow, MaskedAutoregressiveFlow, SplineFlow],
)
def test_a_network_has_two_layers_of_128_unless_told(kind):
    said, unsaid = (
        [p.shape for p in f.parameters()] for f in (kind(3, hidden=(128, 128)), kind(3))
    )
    assert unsaid == said


def test_a_sequence_applies_the_first_flow_first():
    flows = [lively(name)[0] for name in ("PlanarFlow", "SplineFlow", "RadialFlow")]
    z = inputs()
    expected, total = z, 0.0
    for flow in flows:
        expected, log_det = flow(expected)
        total = total + log_det
    moved, log_det = FlowSequence(flows)(z)
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(log_det, total)


def test_a_sequence_in_rows_or_columns_has_the_same_derivatives():
    """It lays its matrix out by columns; first and second derivatives do not notice."""
    sequence = lively("FlowSequence")[0]
    z = inputs()

    def total(z):
        return (sequence(z)[0].square().sum(-1) + sequence(z)[1]).sum()

    def one_by_one(z):
        log_dets = 0.0
        for flow in sequence.flows:
            z, log_det = flow(z)
            log_dets = log_dets + log_det
        return (z.square().sum(-1) + log_dets).sum()

    for of in (torch.autograd.functional.jacobian, torch.autograd.functional.hessian):
        torch.testing.assert_close(of(total, z), of(one_by_one, z))


def test_results_of_a_sequence_are_laid_out_as_any_other_tensor():
    moved, _ = lively("FlowSequence")[0](inputs())
    assert moved.is_contiguous()


def test_flows_with_and_without_a_context_mix():
    sequence = FlowSequence([PlanarFlow(3), RadialFlow(3, 2), PlanarFlow(3)])
    assert sequence.context_dim == 2
    z, context = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(sequence.inverse(*[sequence(z, context)[0], context])[0], z)


@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_the_layer_that_breaks_is_named(way):
    flows = [PlanarFlow(2), RadialFlow(2), PlanarFlow(2)]
    with torch.no_grad():
        flows[1].center[0] = math.nan
    with pytest.raises(ValueError, match=r"layer 2 of 3 \(RadialFlow\) gave NaN or infinity"):
        getattr(FlowSequence(flows), way)(torch.ones(5, 2))


def test_the_layer_that_breaks_is_named_among_those_with_a_context():
    flows = [PlanarFlow(2, 3), RadialFlow(2), PlanarFlow(2, 3)]
    with torch.no_grad():
        flows[2].b.fill_(math.nan)
    with pytest.raises(ValueError, match=r"layer 3 of 3 \(PlanarFlow\) gave NaN or infinity"):
        FlowSequence(flows)(torch.ones(5, 2), torch.ones(5, 3))


class Says(Flow):
    """Leaves points alone, and says the log-determinant that it is told."""

    def __init__(self, log_det):
        super().__init__(2)
        self.log_det = log_det

    def _map(self, z, context):
        return z, z.new_full(z.shape[:-1], self.log_det)


def test_a_flow_of_ones_own_has_no_context_unless_it_says_so():
    z = torch.ones(5, 2)
    moved, log_det = FlowSequence([Says(0.25), Says(0.5)])(z)
    assert torch.equal(moved, z) and torch.equal(log_det, torch.full((5,), 0.75))


def test_a_log_determinant_that_overflows_is_named():
    """Even where the points stay finite, and where only the sum over the layers overflows."""
    z = torch.ones(5, 2)
    with pytest.raises(ValueError, match=r"layer 2 of 2 \(Says\) gave NaN or infinity"):
        FlowSequence([Says(0.0), Says(math.inf)])(z)
    with pytest.raises(ValueError, match="FlowSequence gave NaN or infinity"):
        FlowSequence([Says(3e38), Says(3e38)])(z)


def test_an_overflow_is_refused():
    flow = PlanarFlow(2)
    with torch.no_grad():
        flow.w.fill_(1.0)
        flow.u.fill_(3e38)
    with pytest.raises(ValueError, match="PlanarFlow gave NaN or infinity"):
        flow(torch.full((5, 2), 3e38))


def test_sequences_of_what_does_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got dims \[2, 3\]"):
        FlowSequence([PlanarFlow(2), PlanarFlow(3)])
    with pytest.raises(ValueError, match=r"context_dims \[1, 2\]"):
        FlowSequence([PlanarFlow(2, 1), PlanarFlow(2, 2)])
    with pytest.raises(ValueError, match="in 0 flows"):
        FlowSequence([])
    with pytest.raises(TypeError, match=r"must be reparam\.flows, got Linear"):
        FlowSequence([torch.nn.Linear(2, 2)])
    for alone in (PlanarFlow(2), None):
        with pytest.raises(TypeError, match=r"must be a list of reparam\.flows, got"):
            FlowSequence(alone)


# --- roots ---------------------------------------------------------------------------------------


def test_a_root_far_below_its_start_is_found():
    """Steps that still shrink by a third of a tiny number are not the end of it."""

    def step(a):  # of Newton's method for a**3 = 1e-30
        return a - (a**3 - 1e-30) / (3 * a**2)

    found = root(step, torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(found.item(), 1e-10, rtol=1e-12, atol=0)
