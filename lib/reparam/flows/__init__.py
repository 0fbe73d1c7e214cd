"""Invertible maps with their log-determinants, and the posteriors that they make of a simple one.

Derived in chapter 6.
"""

from reparam.flows._contract import Flow, FlowSequence

__all__ = ["Flow", "FlowSequence"]
