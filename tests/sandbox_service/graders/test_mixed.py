"""Mixed runs: lots, and test files that are written anew and still do what their lot says."""

import ast

import pytest
import shelf

from sandbox_service.graders.controls import functions_of
from sandbox_service.graders.mixed import RUNS, lots, mix

FUNCTIONS = sorted({i.partition("[")[0] for i in (*shelf.PRICE_TESTS, *shelf.STOCK_TESTS)})
SOURCES = {path: shelf.FILES[path] for path in (shelf.T, "tests/test_stock.py")}
THOROUGH, MILD, AS_IT_IS = 2, 1, 0


def functions(text: str) -> dict[str, ast.FunctionDef]:
    return {name.rpartition(".")[2]: node for name, node in functions_of(ast.parse(text))}


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_each_test_is_wrong_in_half_of_the_runs(seed):
    drawn = lots(FUNCTIONS, seed)
    assert len(drawn) == RUNS
    for function in FUNCTIONS:
        assert sum(function in wrong for wrong in drawn) == RUNS // 2
    assert drawn == lots(reversed(FUNCTIONS), seed) and drawn != lots(FUNCTIONS, seed + "another")


def dead(text: str, name: str) -> set[str]:
    """The functions inside a test, under one name."""
    inner = [n for n in ast.walk(functions(text)[name]) if isinstance(n, ast.FunctionDef) and n.name != name]
    return {"\n".join(map(ast.unparse, n.body)) for n in inner}


def test_right_and_wrong_files_hold_the_same_versions_of_a_test():
    """Whichever is live: what is in the file tells nothing."""
    levels = dict.fromkeys(FUNCTIONS, THOROUGH)
    right, wrong = (mix(SOURCES, levels, chosen, "seed", 0) for chosen in (frozenset(), frozenset(FUNCTIONS)))
    for function in FUNCTIONS:
        path, name = function.partition("::")[0], function.rpartition("::")[2]
        versions = [dead(files[path].decode(), name) for files in (right, wrong)]
        assert len(versions[0]) == 2 and versions[0] == versions[1]
        assert "\n".join(map(ast.unparse, functions(SOURCES[path])[name].body)) in versions[0]


def test_only_the_given_tests_are_written_anew():
    text = SOURCES[shelf.T]
    levels = dict.fromkeys(FUNCTIONS, AS_IT_IS) | {f"{shelf.T}::test_discount_is_rounded": MILD}
    files = mix(SOURCES, levels, frozenset({f"{shelf.T}::test_parcels"}), "seed", 0)
    old, new = functions(text), functions(files[shelf.T].decode())
    same = {name for name in old if ast.dump(old[name]) == ast.dump(new[name])}
    assert set(old) - same == {"test_discount_is_rounded", "test_parcels"}
