"""What a check found, in a form that reads well and that code can look at."""

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One fault: its name, the numbers that show it, and what to do about it.

    Attributes:
        name: what is wrong, and where.
        evidence: the numbers that show it.
        cure: what to do.

    Used in chapters 1, 2 and 4 through `check_sampler`.

    >>> import torch
    >>> from reparam.checkup import check_gradients
    >>> mu = torch.zeros(3, requires_grad=True)
    >>> [finding] = check_gradients(torch.normal(mu, 1.0).sum(), {"mu": mu}).findings
    >>> finding.name, finding.evidence
    ('mu: the gradient is exactly zero', 'all 3 entries are 0')
    """

    name: str
    evidence: str
    cure: str


@dataclass(frozen=True, repr=False)
class Report:
    """What a check found. Print it, or look at `.ok` and `.findings`.

    Attributes:
        subject: the name of what was checked.
        findings: the faults, each a `Finding`.
        remarks: findings that are no faults by themselves.

    Used in chapters 1, 2 and 4 through `check_sampler`.

    >>> import torch
    >>> from reparam.checkup import check_gradients
    >>> mu = torch.ones(3, requires_grad=True)
    >>> report = check_gradients(mu.square().sum(), {"mu": mu})
    >>> report
    check_gradients: no fault found
    >>> report.ok
    True
    """

    subject: str
    findings: tuple[Finding, ...]
    remarks: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def __str__(self) -> str:
        plural = "s" if len(self.findings) > 1 else ""
        found = "no fault" if self.ok else f"{len(self.findings)} fault{plural}"
        lines = [f"{self.subject}: {found} found"]
        for mark, findings in (("✗", self.findings), ("·", self.remarks)):
            for finding in findings:
                lines.append(f"{mark} {finding.name}")
                for label, text in (("seen", finding.evidence), ("cure", finding.cure)):
                    lines += textwrap.wrap(f"  {label}: {text}", 80, subsequent_indent="        ")
        return "\n".join(lines)

    __repr__ = __str__


def subject_of(checked: object) -> str:
    """The name under which a function or a module is reported."""
    return getattr(checked, "__name__", type(checked).__name__)
