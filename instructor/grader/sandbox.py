"""Start a process that sees nothing and can do nothing but compute.

Linux with bubblewrap (`apt-get install bubblewrap`): no network, an unprivileged user, a read-only
system without this repository, a small /tmp of its own, no process but itself (a seccomp filter
refuses to make another), limits on memory, processor time and files. Where that cannot be had,
nothing is run.
"""

import contextlib
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import reparam
from instructor.grader.peer import Broken, Peer

HERE = Path(__file__).parent
START_SECONDS = 120  # to the first answer: importing torch on a busy machine
CPU_SECONDS = 120  # of one worker, in all
MEMORY = 2 * 2**30  # bytes beyond what torch takes
DISK = 64 * 2**20  # bytes of /tmp
USER = 61000  # as root: this user and those after it, one a slot


class NoSandbox(BaseException):
    """Answers cannot be run apart here; the message says what to do.

    No fault of an answer: it must not be taken for an error that a test found.
    """


# ---------------------------------------------------------------- system calls

# Refused by number: making processes and namespaces, looking into others, memory that limits do
# not count. Numbers of Linux's own tables (arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h).
_ARCHES = {
    "x86_64": (0xC000003E, {
        "fork": 57, "vfork": 58, "ptrace": 101, "mount": 165, "add_key": 248, "request_key": 249,
        "keyctl": 250, "unshare": 272, "perf_event_open": 298, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319, "bpf": 321,
        "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
        "memfd_secret": 447,
    }, 56),
    "aarch64": (0xC00000B7, {
        "ptrace": 117, "mount": 40, "add_key": 217, "request_key": 218, "keyctl": 219,
        "unshare": 97, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270,
        "process_vm_writev": 271, "memfd_create": 279, "bpf": 280, "userfaultfd": 282,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
        "memfd_secret": 447,
    }, 220),
}  # fmt: skip
_CLONE3 = 435
_CLONE_THREAD = 0x10000
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38


def seccomp_filter(machine=None):
    """The filter as bubblewrap takes it: classic BPF, in the machine's byte order."""
    machine = machine or platform.machine()
    if machine not in _ARCHES:
        raise NoSandbox(f"no seccomp filter is written for {machine}: see {__file__}")
    arch, refused, clone = _ARCHES[machine]
    program = []

    def add(code, k, yes=0, no=0):
        program.append(struct.pack("=HBBI", code, yes, no, k))

    load, equal, at_least, has, give = 0x20, 0x15, 0x35, 0x45, 0x06
    add(load, 4)  # the architecture
    add(equal, arch, 1, 0)
    add(give, _KILL)
    add(load, 0)  # the number
    if machine == "x86_64":
        add(at_least, 0x40000000, 0, 1)  # the x32 table
        add(give, _ERRNO | _EPERM)
    for number in refused.values():
        add(equal, number, 0, 1)
        add(give, _ERRNO | _EPERM)
    add(equal, _CLONE3, 0, 1)  # its flags lie in memory; libc falls back to clone
    add(give, _ERRNO | _ENOSYS)
    add(equal, clone, 0, 3)
    add(load, 16)  # the first argument: flags
    add(has, _CLONE_THREAD, 1, 0)  # a thread is not a process
    add(give, _ERRNO | _EPERM)
    add(give, _ALLOW)
    return b"".join(program)


# ---------------------------------------------------------------- the process


def command(slot=0, cpu=CPU_SECONDS, memory=MEMORY, seccomp=None):
    """The command line that runs a worker."""
    bwrap = shutil.which("bwrap")
    if platform.system() != "Linux" or not bwrap:
        raise NoSandbox(
            "answers run apart from the tests, in a sandbox, and there is none here: it needs "
            "Linux with bubblewrap (Debian, Ubuntu: sudo apt-get install bubblewrap)"
        )
    words = [bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv"]
    for path in ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin"):
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    words += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    words += ["--proc", "/proc", "--dev", "/dev", "--size", str(DISK), "--tmpfs", "/dev/shm"]
    words += ["--remount-ro", "/dev", "--size", str(DISK), "--perms", "1777", "--tmpfs", "/tmp"]
    python = Path(sys.executable)
    for path in {sys.prefix, sys.base_prefix, str(python.resolve().parents[1])}:
        if not path.startswith("/usr"):
            words += visible(path, path)
    words += visible(Path(reparam.__file__).parent, "/library/reparam")
    # Self-checks know truths, and no answer needs them.
    words += ["--perms", "0755", "--tmpfs", "/library/reparam/exercises/checks"]
    words += ["--remount-ro", "/library/reparam/exercises/checks"]
    for name in ("limits.py", "peer.py", "worker.py"):
        words += visible(HERE / name, f"/worker/{name}")
    variables = {
        "PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONPATH": "/library",
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg",
        "MPLCONFIGDIR": "/tmp", "TQDM_DISABLE": "1",
    }  # fmt: skip
    variables |= {k: v for k, v in os.environ.items() if k.startswith("OPENBLAS_")}
    for name, value in variables.items():
        words += ["--setenv", name, value]
    words += ["--chdir", "/tmp"]
    if seccomp is not None:
        words += ["--seccomp", str(seccomp)]
    if os.geteuid() == 0:
        # A real user of its own: limits on processes do not bind root, under whatever name.
        words += as_user(USER + slot)
    else:
        words += ["--unshare-user", "--uid", "65534", "--gid", "65534", "--"]
    return [*words, str(python), "-s", "/worker/worker.py", str(cpu), str(memory)]


def as_user(number):
    """Words that end bubblewrap's own, and run what follows as a real user without any rights."""
    words = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    words += ["--", shutil.which("setpriv") or "setpriv", "--reuid", str(number)]
    words += ["--regid", str(number), "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    return words


def visible(path, where):
    """Words that show a path at a place, whose folders anybody may pass (by default, only root)."""
    folders = [str(folder) for folder in reversed(Path(where).parents[:-1])]
    words = [word for folder in folders for word in ("--perms", "0755", "--dir", folder)]
    return [*words, "--ro-bind", str(path), str(where)]


@contextlib.contextmanager
def process(slot=0, **limits):
    """A worker in its sandbox, as a `Peer`; it and all that it did is gone at the end."""
    with tempfile.TemporaryFile() as filter_file, tempfile.TemporaryFile() as said:
        filter_file.write(seccomp_filter())
        filter_file.seek(0)
        words = command(slot, seccomp=filter_file.fileno(), **limits)
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
            pass_fds=[filter_file.fileno()], start_new_session=True, bufsize=0,
        )  # fmt: skip
        try:
            peer = Peer(child.stdout.fileno(), child.stdin.fileno())
            peer.deadline = time.monotonic() + START_SECONDS
            try:
                peer.request({"op": "seed", "seed": 0})
            except Broken as broken:
                said.seek(0)
                words = said.read(2000).decode(errors="replace").strip() or str(broken)
                raise NoSandbox(f"the sandbox does not start here: {words}") from None
            yield peer
        finally:
            child.kill()  # the namespace's first process dies with it, and all that is in it
            child.wait()
            child.stdin.close()
            child.stdout.close()
