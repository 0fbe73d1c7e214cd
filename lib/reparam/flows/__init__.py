"""Invertible maps with their log-determinants, and the posteriors that they make of a simple one.

Derived in chapter 6.
"""

from reparam.flows._contract import Flow, FlowSequence
from reparam.flows.autoregressive import InverseAutoregressiveFlow, MaskedAutoregressiveFlow
from reparam.flows.coupling import AffineCouplingFlow
from reparam.flows.planar import PlanarFlow
from reparam.flows.posterior import NormalizingFlowPosterior
from reparam.flows.radial import RadialFlow
from reparam.flows.spline import SplineFlow, rational_quadratic_spline
from reparam.flows.sylvester import SylvesterFlow

__all__ = [
    "AffineCouplingFlow",
    "Flow",
    "FlowSequence",
    "InverseAutoregressiveFlow",
    "MaskedAutoregressiveFlow",
    "NormalizingFlowPosterior",
    "PlanarFlow",
    "RadialFlow",
    "SplineFlow",
    "SylvesterFlow",
    "rational_quadratic_spline",
]
