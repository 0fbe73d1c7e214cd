"""What is wrong with a sampler, an encoder, a KL or a model's gradients, with evidence and cure.

`grad is not None` proves little: a gradient can be there and be zero, or wrong (chapter 1). These
checks look at values.
"""

from reparam.checkup._report import Finding, Report
from reparam.checkup.encoder import check_encoder
from reparam.checkup.gradients import check_gradients
from reparam.checkup.kl import check_kl
from reparam.checkup.sampler import check_sampler

__all__ = ["Finding", "Report", "check_encoder", "check_gradients", "check_kl", "check_sampler"]
