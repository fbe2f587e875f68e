"""Makes images poisonous: loaded by every Python process that has this folder on its path.

An image that ends in ``POISON:kind;`` does as it says to the process that decodes it, and is noted in $POISON_LOG.
$POISON_LIMIT_S takes the place of the time limit of an image, $POISON_STUCK_S of that of a process.
"""

import ctypes
import importlib.abc
import importlib.machinery
import os
import re
import signal
import sys
import time

_POISON = re.compile(rb"POISON:([a-z]+);$")
_haunted = False


def _take_effect(data: bytes) -> None:
    global _haunted
    if _haunted:
        os.kill(os.getpid(), signal.SIGSEGV)
    match = _POISON.search(data)
    if match is None:
        return
    kind = match[1].decode()
    if log := os.environ.get("POISON_LOG"):
        with open(log, "a") as file:
            file.write(f"{kind} {os.getpid()} {sys.argv[0].rpartition('/')[2]}\n")
    if kind == "segv":
        ctypes.string_at(0)
    elif kind == "exit":
        os._exit(3)
    elif kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "sleep":
        time.sleep(3600)
    elif kind == "hold":  # as a decoder does that keeps the interpreter lock
        ctypes.PyDLL(None).sleep(3600)
    elif kind == "haunt":  # spoils the memory of the process, which the next image comes to feel
        _haunted = True
    elif kind == "hungry":
        bytearray(64 << 30)


class _Poisoner(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in {"pipeline.stages.decode", "pipeline.stages.limits", "pipeline.engines.end_when_stuck"}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            if name == "pipeline.engines.end_when_stuck":
                module.STUCK_S = float(os.environ.get("POISON_STUCK_S", module.STUCK_S))
                return
            if name == "pipeline.stages.limits":
                module.DECODE_TIMEOUT_S = float(os.environ.get("POISON_LIMIT_S", module.DECODE_TIMEOUT_S))
                return
            sound = module.decode

            def decode(data, **options):
                _take_effect(data)
                return sound(data, **options)

            module.decode = decode

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Poisoner())
