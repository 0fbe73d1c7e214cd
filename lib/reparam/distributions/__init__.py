"""Samples with a path for the laws that PyTorch leaves without one.

Derived in chapter 5.
"""

from reparam.distributions.implicit import implicit_reparameterization
from reparam.distributions.inverse_cdf import (
    reparameterize_cauchy,
    reparameterize_exponential,
    reparameterize_gumbel,
    reparameterize_kumaraswamy,
    reparameterize_laplace,
    reparameterize_log_normal,
    reparameterize_logistic,
    reparameterize_pareto,
    reparameterize_uniform,
    reparameterize_weibull,
)
from reparam.distributions.logistic import Logistic
from reparam.distributions.mixture import Mixture
from reparam.distributions.survey import survey
from reparam.distributions.truncated_normal import TruncatedNormal
from reparam.distributions.von_mises import VonMises

__all__ = [
    "Logistic",
    "Mixture",
    "TruncatedNormal",
    "VonMises",
    "implicit_reparameterization",
    "reparameterize_cauchy",
    "reparameterize_exponential",
    "reparameterize_gumbel",
    "reparameterize_kumaraswamy",
    "reparameterize_laplace",
    "reparameterize_log_normal",
    "reparameterize_logistic",
    "reparameterize_pareto",
    "reparameterize_uniform",
    "reparameterize_weibull",
    "survey",
]
