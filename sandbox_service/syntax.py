"""Parsing Python source where other threads may do the same."""

import ast
import gc
import threading

# Reentrant: a collection just before its end may call a finalizer that parses.
_one_at_a_time = threading.RLock()


def parse(source: str | bytes) -> ast.Module:
    """`ast.parse`, safe among threads.

    CPython before 3.11.9 and 3.12.3 counts the depth of the tree under construction in one place for all threads
    (python/cpython#106905). The only Python code that can run inside the construction, and let another thread in, is
    what a garbage collection calls: without one, the construction is atomic.
    """
    with _one_at_a_time:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return ast.parse(source)
        finally:
            if was_enabled:
                gc.enable()
