"""Limits of memory and time, on both sides; the sandbox sees this file beside `worker.py`."""

import contextlib
import resource
import signal


def limit(name, value, for_good=True):
    """Lower a limit, for good or so that a child may have another; a lower one stays."""
    hard = resource.getrlimit(name)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (value, value if for_good else hard))


def limit_memory(more, for_good=True):
    """Allow so many bytes beyond what this process takes now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit(resource.RLIMIT_AS, now + more, for_good)


@contextlib.contextmanager
def alarm(seconds, error):
    """Raise `error` where a block takes longer."""

    def ring(*_):
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
