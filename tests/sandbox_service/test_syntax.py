import ast
import concurrent.futures
import gc
import time

from sandbox_service.syntax import parse

SOURCE = "\n".join(f"def f{i}(x):\n    return [[x + {i}, (x, {{x: {i}}})] for x in range(x)]" for i in range(40))


def test_threads_parse_while_collections_run_python_code():
    """As in a process with jax, whose callback at every collection lets other threads in."""

    def let_others_in(phase, info):
        time.sleep(0)

    threshold = gc.get_threshold()
    gc.callbacks.append(let_others_in)
    gc.set_threshold(30)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            trees = list(threads.map(parse, [SOURCE] * 100))
        assert gc.isenabled()
    finally:
        gc.callbacks.remove(let_others_in)
        gc.set_threshold(*threshold)
    assert {ast.dump(tree) for tree in trees} == {ast.dump(trees[0])}
