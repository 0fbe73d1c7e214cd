"""Samples with a path for the laws that PyTorch leaves without one.

Derived in chapter 5.
"""

from reparam.distributions.truncated_normal import TruncatedNormal

__all__ = [
    "TruncatedNormal",
]
