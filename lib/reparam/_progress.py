"""Whether bars are shown."""

import os


def bars_are_off() -> bool:
    """Whether TQDM_DISABLE is set: tqdm heeds it in a terminal, but not in a notebook."""
    return bool(os.environ.get("TQDM_DISABLE"))
