"""How this package's trusted half gets into a container: as text over its stdin, nothing is mounted for it."""

import functools
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_MODULES = (
    "sandbox_service.backends.base",
    "sandbox_service.backends.cgroups",
    "sandbox_service.backends.docker_init",
    "sandbox_service.backends.docker_trees",
    "sandbox_service.backends.files",
    "sandbox_service.backends.jobs",
    "sandbox_service.backends.namespaces",
    "sandbox_service.backends.rootfs",
    "sandbox_service.backends.seccomp",
    "sandbox_service.harness",
)
_PACKAGES = ("sandbox_service", "sandbox_service.backends")
# Reads a length and that many bytes of program. The working directory leaves the path before anything is imported.
_FIRST = """
import sys
sys.path.pop(0)
import os
def read(n):
    data = b""
    while len(data) < n:
        piece = os.read(0, n - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data
exec(compile(read(int.from_bytes(read(4), "big")), "<init>", "exec"))
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
