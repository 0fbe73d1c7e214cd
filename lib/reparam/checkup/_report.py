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
    """What a check found. Print it, or look at `.ok` and `.findings`."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def __str__(self) -> str:
        if self.ok:
            return f"{self.subject}: no fault found"
        plural = "s" if len(self.findings) > 1 else ""
        lines = [f"{self.subject}: {len(self.findings)} fault{plural} found"]
        for finding in self.findings:
            lines.append(f"✗ {finding.name}")
            for label, text in (("seen", finding.evidence), ("cure", finding.cure)):
                lines += textwrap.wrap(f"  {label}: {text}", 80, subsequent_indent="        ")
        return "\n".join(lines)

    __repr__ = __str__
