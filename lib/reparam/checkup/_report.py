"""What a check found, in a form that reads well and that code can look at."""

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One fault: its name, the numbers that show it, and what to do about it."""

    name: str
    evidence: str
    cure: str


@dataclass(frozen=True, repr=False)
class Report:
    """What a check found. Print it, or look at `.ok` and `.findings`.

    `.remarks` are findings that are no faults by themselves.
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
