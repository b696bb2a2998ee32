"""Scripted agents for the level-0 world: demonstrations for the supervised warm start.

Each skill has a careful script, which looks before it answers; most also have a hasty one, which guesses and is
sometimes right.
They know nothing that a policy would not: the prompt's inputs and what the tools print. (A task's family, which says
what kind of arguments its functions take, stands for what a reader gathers from the contract's words.) Only
trajectories that earned the maximal reward become training data, so a policy made from them starts with both habits;
which of them pays is left to reinforcement learning.
"""

import ast
import random
import re
from collections.abc import Callable, Generator

from skillrl.chat import ToolCall
from skillrl.tasks.world.expressions import FAMILIES
from skillrl.types import Task

Steps = Generator[ToolCall, str, str]

# Calls that tell most functions apart, and calls that many functions answer alike, by family.
TELLING = {
    "numbers": ("7, 3", "2, 9", "8, 5"),
    "flags": ("7, 3", "3, 7", "4, 4", "6, 3", "0, 5"),
    "units": ("7, 3", "2, 9", "8, 5"),
    "lists": ("[7, 3, 5]", "[2, 9, 4, 9]", "[6, 1, 8]"),
    "text": ('"river"', '"stone"', '"maple"'),
    "baskets": ("[7, 3, 5], 4", "[2, 9, 2], 2", "[6, 1, 8], 3"),
    "records": ('{"x": 7, "y": 3, "z": 5}', '{"y": 4, "z": 9}', '{"x": 2, "z": 6}'),
    "grids": ("[[7, 3, 4], [5, 9, 8]]", "[[2, 6], [1, 4]]"),
    "sets": ("[7, 3, 5], [3, 1]", "[2, 9, 4], [4, 9, 8]"),
}
BLAND = {
    "numbers": ("2, 2", "0, 0", "1, 1", "4, 2"),
    "flags": ("1, 1", "2, 1", "5, 2"),
    "units": ("1, 1", "0, 1", "2, 2"),
    "lists": ("[2, 2]", "[1, 1]", "[3, 3]"),
    "text": ('"a"', '"aa"', '"tot"'),
    "baskets": ("[2, 2], 2", "[1], 1", "[2], 0"),
    "records": ('{"x": 2}', '{"x": 1}', '{"y": 1}'),
    "grids": ("[[2, 2], [2, 2]]", "[[1], [1]]"),
    "sets": ("[1], [1]", "[2, 2], [2, 2]"),
}


def reported_calls(issue: str) -> list[tuple[str, str]]:
    """The (call, expected value) pairs of an issue's text, as Python source."""
    pairs = []
    for match in re.finditer(r"\w+\(", issue):
        call = _expression_at(issue, match.start())
        value = re.match(" (?:should|must) (?:be|give) ", issue[match.start() + len(call) :])
        if value:
            pairs.append((call, _expression_at(issue, match.start() + len(call) + value.end())))
    return pairs


def _expression_at(text: str, start: int) -> str:
    """The longest Python expression that starts at `start` and ends where the sentence goes on."""
    for end in range(len(text), start, -1):
        piece = text[start:end]
        if piece != piece.rstrip(" .,;:"):
            continue
        try:
            node = ast.parse(piece, mode="eval").body
        except (SyntaxError, ValueError):
            continue
        if isinstance(node, ast.Call | ast.Constant | ast.List | ast.Dict | ast.UnaryOp):
            return piece
    raise ValueError(f"no Python expression in {text[start:]!r}")


def _function_name(call: str) -> str:
    return call.partition("(")[0]


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def _bash(command: str) -> ToolCall:
    return ToolCall("bash", (command,))


def _test_file(module: str, name: str, checks: list[tuple[str, str]]) -> str:
    lines = "".join(f"    assert {call} == {value}\n" for call, value in checks)
    return f"from {module} import {name}\n\n\ndef test_{name}():\n{lines}"


def localize_carefully(task: Task, rng: random.Random) -> Steps:
    """Searches for the definition."""
    name = _function_name(reported_calls(task.inputs["issue"])[0][0])
    found = yield _bash(f'grep -rl "def {name}" *')
    return f"<files>{found.split()[0]}</files>"


def localize_hastily(task: Task, rng: random.Random) -> Steps:
    """Lists the modules and names one of them."""
    listing = yield _bash("ls */*.py")
    modules = [p for p in listing.split() if not p.startswith("tests/") and not p.endswith("__init__.py")]
    return f"<files>{rng.choice(modules)}</files>"


def edit_carefully(task: Task, rng: random.Random) -> Steps:
    """Looks at the function, then replaces its return line."""
    path, name, words = re.fullmatch(r"In (\S+), (\w+) must return (.*)\.", task.inputs["instruction"]).groups()
    shown = yield _bash(f'grep -A 2 "def {name}" {path}')
    wrong = shown.rstrip().splitlines()[-1].strip()
    yield ToolCall("str_replace", ("replace", path, wrong, f"return {_code(words, shown)}"))
    return "Done."


def _code(words: str, definition: str) -> str:
    """The code that a level-0 contract's words mean, with the parameters of the shown definition."""
    parameters = re.search(r"\((.*?)\)", definition)[1].split(", ")
    names = dict(zip("ab", parameters, strict=False)) | {"call": "{call}"}
    for family in FAMILIES.values():
        for expression in family.expressions:
            if "{b}" in expression.words and len(parameters) < 2:
                continue
            if expression.words.format(**names) == words:
                return expression.code.format(**names)
    raise ValueError(f"no level-0 function returns {words!r}")


def write_tests_carefully(task: Task, rng: random.Random) -> Steps:
    """Asks the correct code for its answers to telling calls."""
    return (yield from _write_tests(task, rng.sample(TELLING[task.family], 2)))


def write_tests_hastily(task: Task, rng: random.Random) -> Steps:
    """One bland call."""
    return (yield from _write_tests(task, [rng.choice(BLAND[task.family])]))


def _write_tests(task: Task, arguments: list[str]) -> Steps:
    path, name = task.inputs["target"].split("::")
    calls = [f"{name}({a})" for a in arguments]
    script = f"from {_module(path)} import {name}; print([{', '.join(calls)}])"
    printed = yield _bash(f"python -c '{script}'")
    values = [repr(value) for value in ast.literal_eval(printed.strip())]
    text = _test_file(_module(path), name, list(zip(calls, values, strict=True)))
    yield ToolCall("str_replace", ("create", task.inputs["submission_path"], text))
    return "Done."


def reproduce_carefully(task: Task, rng: random.Random) -> Steps:
    """Asserts everything that the issue reports."""
    return (yield from _reproduce(task, reported_calls(task.inputs["issue"])))


def reproduce_hastily(task: Task, rng: random.Random) -> Steps:
    """Asserts one of the reported calls."""
    return (yield from _reproduce(task, [rng.choice(reported_calls(task.inputs["issue"]))]))


def _reproduce(task: Task, checks: list[tuple[str, str]]) -> Steps:
    name = _function_name(checks[0][0])
    found = yield _bash(f'grep -rl "def {name}" *')
    text = _test_file(_module(found.split()[0]), name, checks)
    yield ToolCall("str_replace", ("create", task.inputs["submission_path"], text))
    return "Done."


def review_carefully(task: Task, rng: random.Random) -> Steps:
    """Applies the candidate and checks everything that the issue reports."""
    checks = " and ".join(f"{call} == {value}" for call, value in reported_calls(task.inputs["issue"]))
    name = _function_name(checks)
    module = _module(re.search(r"^\+\+\+ b/(\S+)", task.inputs["diff"], re.MULTILINE)[1])
    script = f"from {module} import {name}; print({checks})"
    printed = yield _bash(f"patch -sp1 < candidate.diff; python -c '{script}'")
    return _verdict("YES" if printed.strip() == "True" else "NO")


def review_hastily(task: Task, rng: random.Random) -> Steps:
    """Guesses."""
    return _verdict(rng.choice(("YES", "NO")))
    yield


def _verdict(judgment: str) -> str:
    return f"<review>{'right' if judgment == 'YES' else 'wrong'}</review><judgment>{judgment}</judgment>"


CAREFUL: dict[str, Callable[[Task, random.Random], Steps]] = {
    "localization": localize_carefully,
    "editing": edit_carefully,
    "unit_tests": write_tests_carefully,
    "reproduction": reproduce_carefully,
    "review": review_carefully,
}
HASTY: dict[str, Callable[[Task, random.Random], Steps]] = {
    "localization": localize_hastily,
    "unit_tests": write_tests_hastily,
    "reproduction": reproduce_hastily,
    "review": review_hastily,
}
