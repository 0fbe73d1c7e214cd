"""What is known of mutants that no test notices is still about lines of the library."""

import pytest

from tools import mutants

KNOWN = mutants.reasons()


@pytest.mark.parametrize("module", sorted({known["module"] for known in KNOWN}))
def test_reasons_are_for_lines_that_there_are(module):
    lines = set(mutants.plain(module).splitlines())
    gone = [
        line
        for known in KNOWN
        if known["module"] == module
        for line in known["difference"].strip().splitlines()
        if line.startswith("-") and line[1:] not in lines
    ]
    assert gone == [], (
        f"{module}.py has these lines no longer; take their reasons out of {mutants.EXPLAINED.name}"
    )
