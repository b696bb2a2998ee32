"""How this package's trusted half gets into a container: as text over its stdin, nothing is mounted for it."""

import functools
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_MODULES = (
    "sandbox_service.backends.base",
    "sandbox_service.backends.cgroups",
    "sandbox_service.backends.docker_child",
    "sandbox_service.backends.docker_init",
    "sandbox_service.backends.docker_processes",
    "sandbox_service.backends.docker_trees",
    "sandbox_service.backends.docker_usage",
    "sandbox_service.backends.files",
    "sandbox_service.backends.jobs",
    "sandbox_service.backends.namespaces",
    "sandbox_service.backends.rootfs",
    "sandbox_service.backends.seccomp",
    "sandbox_service.harness",
)
_PACKAGES = ("sandbox_service", "sandbox_service.backends")
# Reads a length and that many bytes of program. The working directory leaves the path before anything is imported. A
# service that is killed between the start of a container and its own connection to it never closes that stdin: a
# container that gets no program ends by itself. (Process 1 of a namespace ignores signals without a handler.)
_FIRST = """
import sys
sys.path.pop(0)
import os, signal
signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
signal.alarm(60)
def read(n):
    data = b""
    while len(data) < n:
        piece = os.read(0, n - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data
program = read(int.from_bytes(read(4), "big"))
signal.alarm(0)
signal.signal(signal.SIGALRM, signal.SIG_DFL)
exec(compile(program, "<init>", "exec"))
"""
_SECOND = """
import importlib.machinery
SOURCES = {sources!r}
class Bundle:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in SOURCES:
            is_package = SOURCES[name] is None
            return importlib.machinery.ModuleSpec(name, Bundle, is_package=is_package)
    @staticmethod
    def create_module(spec):
        return None
    @staticmethod
    def exec_module(module):
        module.__file__ = "/" + module.__name__.replace(".", "/") + ".py"
        exec(compile(SOURCES[module.__name__] or "", module.__file__, "exec"), module.__dict__)
sys.meta_path.insert(0, Bundle)
from sandbox_service.backends.docker_init import main
main()
"""
COMMAND = ("python3", "-c", _FIRST)


@functools.cache
def bundle() -> bytes:
    """What is written to the container's stdin first."""
    sources = dict.fromkeys(_PACKAGES) | {m: (_ROOT / f"{m.replace('.', '/')}.py").read_text() for m in _MODULES}
    program = _SECOND.format(sources=sources).encode()
    return len(program).to_bytes(4, "big") + program
