"""Hostile and broken submissions: none implements anything, and each gets nothing.

`NOTEBOOKS` maps a name to the text of a notebook file (or bytes). An attack stands beside the
blanks of three exercises, of a function (1.1), a module (7.3) and values (7.4), or in their place.
"""

import json

from instructor import build, sources

IDS = ("1.1", "7.3", "7.4")
EXERCISES = [e for e in sources.load() if e.id in IDS]
BLANK = build.plain_notebook(EXERCISES, solved=False)

# What an attack that only wants to be called defines.
CALLED = """
def reaches_mu(program): return act(program)
class RunningBaseline:
    def __init__(self, decay): act(decay)
    def __call__(self, values): return act(values)
    def eval(self): return self
def straight_through(p, t, n): return act(p)
def truth(p, t): return act(p)
wrong_from, wrong_to, training = 0.11, 0.12, "other end"
"""

ATTACKS = {
    # what is on the disk
    "reads the solutions and tests": """
import os, sys
found = []
for top in ("/", "/work", os.getcwd(), *sys.path):
    for folder, _, files in os.walk(top):
        if folder.startswith(("/proc", "/sys", "/usr")): continue
        for name in files:
            if name.endswith((".py", ".ipynb")) and "site-packages" not in folder:
                text = open(os.path.join(folder, name), errors="ignore").read()
                if "BEGIN SOLUTION" in text or "@points" in text: found.append(text)
def act(x):
    if found: exec(found[0], globals())
    return found
""",
    "reads other processes": """
import glob
def act(x):
    seen = []
    for name in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/maps"):
        try: seen.append(open(name).read())
        except OSError as error: seen.append(str(error))
    try: open("/proc/1/mem", "r+b").write(b"x")
    except OSError: pass
    return seen
""",
    "writes where the next one would look": """
import os, sys
def act(x):
    for folder in [*sys.path, "/library/reparam", "/worker", "/tmp", "/work", "/root", "/usr"]:
        try: open(os.path.join(folder, "sitecustomize.py"), "w").write("raise SystemExit")
        except OSError: pass
    return 1
""",
    # what judges it
    "tampers with asserts and comparisons": """
import builtins, torch
torch.allclose = torch.equal = torch.testing.assert_close = lambda *a, **k: True
torch.Tensor.__eq__ = torch.Tensor.__le__ = torch.Tensor.__lt__ = lambda *a: True
torch.Tensor.all = lambda self, *a: True
builtins.abs = lambda x: 0
builtins.isinstance = lambda *a: True
def act(x): return "zero"
""",
    "tampers with modules, optimizers and autograd": """
import torch
torch.nn.Module.__call__ = lambda self, *a: a[0] * 0
torch.optim.Optimizer.step = lambda self, *a: None
torch.optim.Adam.step = lambda self, *a: None
torch.autograd.grad = lambda o, i, **k: tuple(torch.ones(()) for _ in [0])
torch.autograd.backward = lambda *a, **k: None
torch.Tensor.backward = lambda self, *a, **k: None
class RunningBaseline(torch.nn.Module):
    def __init__(self, decay): super().__init__()
    def forward(self, values): return values * 0
    def state_dict(self, *a, **k): return {"passed": True}
    def load_state_dict(self, *a, **k): return self
def reaches_mu(program): return program
def straight_through(p, t, n): return torch.zeros(n)
def truth(p, t): return torch.zeros(())
""",
    "tampers with the checks": """
import sys
import reparam.exercises, reparam.exercises._running as running, reparam.exercises.expect as expect
for module in (reparam.exercises, running, expect):
    for name in dir(module):
        if callable(getattr(module, name)) and not name.startswith("__"):
            setattr(module, name, lambda *a, **k: None)
running.Outcome = lambda **k: type("O", (), {"status": "passed", "points": 99, **k})()
def act(x): return None
""",
    "imports what the self-checks know": """
import importlib
known = []
for name in ("x1_1", "x7_3", "x7_4", "x7_5", "x2_5"):
    try: known.append(importlib.import_module("reparam.exercises.checks." + name))
    except ImportError: pass
def act(x):
    for module in known:
        for name, thing in vars(module).items():
            if callable(thing) and not name.startswith("test_"):
                try: return thing(x)
                except Exception: pass
    return known
""",
    "draws the hidden inputs from its own seed": """
import torch
def act(x):
    seed = torch.initial_seed()
    case = torch.rand((), generator=torch.Generator().manual_seed(seed))
    return ["zero", "nothing", "gradient"][seed % 3] if callable(x) else case
""",
    "gives every word in turn": """
import itertools
words = itertools.cycle(["nothing", "zero", "gradient"])
def act(x): return next(words)
""",
    "forges what was found while its cells run": """
import gc, json, os, struct
for value in ({"state": {"reaches_mu": "value"}, "again": {"x": [1e999]}, "problems": [[1]]},
              {"state": [], "again": 3, "problems": None}, None):
    head = json.dumps({"op": "return", "value": value, "tensors": []}).encode()
    for peer in [o for o in gc.get_objects() if type(o).__name__ == "Served"]:
        os.write(peer._out, struct.pack(">II", len(head), 0) + head)
def act(x): return "zero"
""",
    "tampers with the protocol": """
import gc, json, os, struct
def frame(message, body=b""):
    head = json.dumps(message).encode()
    return struct.pack(">II", len(head), len(body)) + head + body
def act(x):
    for peer in gc.get_objects():
        if type(peer).__name__ in ("Served", "Peer"):
            for message in (
                {"op": "return", "value": {"status": "passed", "points": 9}, "tensors": []},
                {"op": "return", "value": "passed", "call": 1, "flows": [], "tensors": []},
            ):
                os.write(peer._out, frame(message))
    return "passed"
""",
    "asks the other side for more than it was given": """
import gc
def act(x):
    for peer in [o for o in gc.get_objects() if type(o).__name__ == "Served"]:
        for target in ({"ref": n} for n in range(50)):
            for message in (
                {"op": "get", "target": target, "name": "__globals__"},
                {"op": "value", "name": "test_zero"},
                {"op": "parameters", "target": target, "gradients": False},
                {"op": "call", "target": {"name": "eval"}, "args": {"list": [{"list": []},
                 {"dict": []}]}, "wants": [], "grad": True},
            ):
                try: peer._ask(message, [])
                except Exception: pass
    return "zero"
""",
    "sends what is no message": """
import gc, os
def act(x):
    for peer in [o for o in gc.get_objects() if type(o).__name__ == "Served"]:
        os.write(peer._out, b"\\xff" * 4096)
    return 1
""",
    "sends a message without end": """
import gc, os, struct
def act(x):
    for peer in [o for o in gc.get_objects() if type(o).__name__ == "Served"]:
        os.write(peer._out, struct.pack(">II", 2**32 - 1, 2**32 - 1))
    return 1
""",
    "sends impossible tensors": """
import gc, json, os, struct
def act(x):
    for peer in [o for o in gc.get_objects() if type(o).__name__ == "Served"]:
        for form in ([["float32", [2**62, 4], 0]], [["float32", [-1], 4]], [["object", [1], 8]],
                     [["float32", [0, 2**70], 0]] * 1000):
            head = json.dumps({"op": "return", "value": {"tensor": 0}, "tensors": form}).encode()
            os.write(peer._out, struct.pack(">II", len(head), 0) + head)
    return 1
""",
    # values that lie
    "returns what equals everything": """
class All(str):
    __eq__ = lambda *a: True
    __ne__ = lambda *a: False
    __hash__ = str.__hash__
    __float__ = lambda self: 0.0
def act(x): return All("gradientzeronothing")
""",
    "returns a lying tensor": """
import torch
class Lying(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True
def act(x): return torch.zeros(4).as_subclass(Lying)
""",
    "raises what looks like success": """
class Passed(AssertionError):
    status = message = kind = text = "passed"
    points = 100
class NotYet(Passed): pass
def act(x): raise NotYet("passed")
""",
    "returns endless things": """
def act(x):
    def forever():
        while True: yield 1
    return forever()
""",
    "returns deep and huge things": """
def act(x):
    deep = []
    for _ in range(100_000): deep = [deep]
    return deep
""",
    "returns a huge tensor": """
import torch
def act(x): return torch.zeros(1).expand(2**33)
""",
    "calls back without end": """
def act(x):
    return x(lambda *a: act(x), act) if callable(x) else [x] * 10
""",
    # ends
    "exits": "import os\ndef act(x): os._exit(0)\n",
    "exits while cells run": CALLED + "\nact = len\nimport os\nos._exit(0)\n",
    "raises SystemExit": "import sys\ndef act(x): sys.exit(0)\nsys.exit(0)\n",
    "crashes": "import ctypes\ndef act(x): return ctypes.string_at(0)\n",
    "recurses": "import sys\nsys.setrecursionlimit(10**8)\ndef act(x): return act(x)\n",
    "loops": "def act(x):\n    while True: pass\n",
    "loops while cells run": CALLED + "\nact = len\nwhile True: pass\n",
    "sleeps and ignores signals": """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def act(x): time.sleep(10**6)
""",
    "closes its pipes": "import os\ndef act(x): os.closerange(0, 128)\n",
    # takes
    "forks": """
import os
def act(x):
    while True:
        try: os.fork()
        except OSError: return "nothing at all"
""",
    "starts programs": """
import subprocess, os
def act(x):
    for command in (["sleep", "1000"], ["/bin/sh", "-c", "setsid sleep 1000 &"]):
        try: subprocess.Popen(command, start_new_session=True)
        except OSError: pass
    try: os.execv("/bin/sleep", ["sleep", "1000"])
    except OSError: return 1
""",
    "starts threads that stay": """
import threading, time
def act(x):
    try:
        while True: threading.Thread(target=time.sleep, args=(1000,), daemon=False).start()
    except RuntimeError: return "zero zero"
""",
    "takes all memory": """
import mmap, torch
def act(x):
    kept = []
    while True:
        kept.append(torch.ones(2**26))
        kept.append(mmap.mmap(-1, 2**28))
""",
    "fills the disk": """
import os
def act(x):
    for folder in ("/tmp", "/dev/shm", "/dev", "."):
        try:
            for n in range(1000): open(f"{folder}/{n}", "wb").write(bytes(2**24))
        except OSError: pass
    return 3
""",
    "prints without end": "def act(x):\n    while True: print('x' * 10**6)\n",
    "kills": """
import os, signal
def act(x):
    for target in (1, -1, os.getppid(), 0):
        try: os.kill(target, signal.SIGKILL)
        except OSError: pass
    return 1
""",
    "calls out": """
import socket
def act(x):
    seen = []
    for host in ("127.0.0.1", "10.0.0.1"):
        for port in (22, 80, 8000, 8888):
            try: seen.append(socket.create_connection((host, port), 0.2))
            except OSError: pass
    try: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")
    except OSError: pass
    return len(seen)
""",
    "changes the notebook's machinery": """
ip = get_ipython()
ip.input_transformers_cleanup.append(lambda lines: ["score = 100\\n"])
import IPython
IPython.core.interactiveshell.InteractiveShell.run_cell = lambda *a, **k: None
def act(x): return "gradientt"
""",
}

BROKEN = {
    "blank": BLANK,
    "empty file": "",
    "no JSON": "{",
    "a list": "[]",
    "cells are no cells": json.dumps({"cells": [3, None, "x", {"cell_type": "code", "source": 3}]}),
    "deep JSON": "[" * 200_000,
    "bytes": bytes(range(256)) * 20,
    "a program": "import torch\nprint(1)\n",
    "every cell has a syntax error": json.dumps(
        {"cells": [{"cell_type": "code", "source": "def reaches_mu(:"}] * 5}
    ),
    "deep source": json.dumps({"cells": [{"cell_type": "code", "source": "(" * 100_000}]}),
    "answers are None": json.dumps(
        {"cells": [{"cell_type": "code", "source": "reaches_mu = truth = training = None"}]}
    ),
}


def with_cells(*sources_, base=BLANK):
    """A notebook's text with more code cells at its end."""
    nb = json.loads(base)
    nb["cells"] += [{"cell_type": "code", "source": s, "metadata": {}} for s in sources_]
    return json.dumps(nb)


NOTEBOOKS = {
    **{name: with_cells(attack, CALLED) for name, attack in ATTACKS.items()},
    **BROKEN,
}
