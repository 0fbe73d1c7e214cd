"""Samples with a path for the laws that PyTorch leaves without one.

Derived in chapter 5.
"""

__all__: list[str] = []
