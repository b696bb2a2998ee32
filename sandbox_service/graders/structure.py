"""What must hold of a program's text after a refactoring. Pure functions of source files; nothing is imported or run.

Rules stand in an instance's `expected`, name -> JSON; their paths are below the source root, as modules are imported:

    moved      [{"name", "old", "new"}]  defined in file `new` alone, as it was; unknown to file `old`
    gone       [path]                    files that are no more
    renamed    {"old", "new", "path"}    the old name is nowhere; the new one is defined once, in `path`, as it was
    signature  {"name", "path", "positional", "keyword_only"}   the definition's parameters; every call fits them
    shared     {"name", "path", "users": [[path, function]], "block"}   the users call the function and loop no more;
                                         no other function holds a loop of `block`
    constant   {"name", "path", "value", "users": [[path, function]]}   the value stands once; the users read the name

Beside them, changed files must be plain: no means of making, finding or answering to names at run time that the program
did without before.
"""

import ast
import copy
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping

from sandbox_service.graders.structure_program import FUNCTIONS, Broken, Program, called, identifiers, words
from sandbox_service.syntax import parse

_DYNAMIC = frozenset(
    {"globals", "locals", "vars", "getattr", "setattr", "delattr", "exec", "eval", "compile", "importlib", "builtins"}
    | {"__import__", "__getattr__", "__getattribute__", "__dict__", "__code__", "__globals__", "__builtins__", "sys"}
    | {"inspect", "runpy", "pkgutil", "ctypes", "gc", "__new__", "__class__", "__init_subclass__", "metaclass"}
    | {"__defaults__", "__kwdefaults__", "__wrapped__", "__path__", "pickle", "marshal"}
)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def check(
    expected: Mapping[str, str],
    graded: Mapping[str, bytes],
    start: Mapping[str, bytes],
    correct: Mapping[str, bytes],
) -> dict[str, str]:
    """Rule -> what breaks it, empty where it holds.

    The files are sources alone: as graded, as they were before the change, and as they should be. Raises Broken when
    files of ours cannot be read, or no rule is there.
    """
    wanted = {name: json.loads(expected[name]) for name in RULES if name in expected}
    if not wanted:
        raise Broken(f"no rule of {', '.join(RULES)} is expected")
    before, right = Program(start), Program(correct)
    try:
        program = Program(graded)
    except Broken as e:
        return dict.fromkeys(("plain", *wanted), str(e))
    changed = [path for path in graded if graded[path] != start.get(path)]
    found = {"plain": _verdict(lambda: _plain(program, before, changed))}
    for name, rule in wanted.items():
        found[name] = _verdict(functools.partial(RULES[name], program, right, rule))
    return found


def _verdict(rule: Callable[[], None]) -> str:
    try:
        rule()
    except (Broken, RecursionError) as e:
        return str(e)[:300] or type(e).__name__
    return ""


def _plain(program: Program, before: Program, changed: Iterable[str]) -> None:
    known = {name for _, node in before.nodes() for name in identifiers(node)}
    for path in changed:
        if path in program.trees:
            used = {name for node in ast.walk(program.trees[path]) for name in identifiers(node)}
            if new := sorted((used & _DYNAMIC) - known):
                raise Broken(f"{path} uses {new[0]}")


def _moved(program: Program, right: Program, moves: list[dict[str, str]]) -> None:
    for move in moves:
        name, old, new = move["name"], move["old"], move["new"]
        _same(program.definition(new, name), right.definition(new, name), name)
        # A package of the same name would be imported in its place.
        for path in (p for p in program.trees if p == old or p.startswith(old.removesuffix(".py") + "/")):
            if any(name in words(node) for node in ast.walk(program.trees[path])):
                raise Broken(f"{path} still knows {name}")
        _check_copies(program, program.definition(new, name))


def _gone(program: Program, right: Program, paths: list[str]) -> None:
    for path in paths:
        if path in program.trees or any(p.startswith(path.removesuffix(".py") + "/") for p in program.trees):
            raise Broken(f"{path} is still there")


def _renamed(program: Program, right: Program, rule: dict[str, str]) -> None:
    old, new, path = rule["old"], rule["new"], rule["path"]
    for place, node in program.nodes():
        if old in words(node):
            raise Broken(f"{place} still has {old}")
    _same(program.definition(path, new), right.definition(path, new), new)


def _signature(program: Program, right: Program, rule: dict) -> None:
    name, path = rule["name"], rule["path"]
    positional, keyword_only = rule["positional"], rule["keyword_only"]
    definition = program.definition(path, name)
    arguments = program.function(path, name).args
    shown = [a.arg for a in (*arguments.posonlyargs, *arguments.args)], [a.arg for a in arguments.kwonlyargs]
    if shown != (positional, keyword_only) or arguments.vararg or arguments.kwarg:
        raise Broken(f"{path}: {name} takes {ast.unparse(arguments)}")
    if definition.decorator_list:
        raise Broken(f"{path}: {name} is decorated")
    calls = set()
    for place, node in program.nodes():
        if isinstance(node, ast.Call) and called(node) == name:
            calls.add(id(node.func))
            odd = [a for a in node.args if isinstance(a, ast.Starred)] + [k for k in node.keywords if k.arg is None]
            unknown = {k.arg for k in node.keywords} - {*positional, *keyword_only}
            if odd or unknown or len(node.args) > len(positional):
                raise Broken(f"{place}:{node.lineno} calls {name} in another way")
    for place, node in program.nodes():
        if name in (getattr(node, "id", None), getattr(node, "attr", None)) and id(node) not in calls:
            raise Broken(f"{place}:{node.lineno} passes {name} on")


def _shared(program: Program, right: Program, rule: dict) -> None:
    name, path = rule["name"], rule["path"]
    program.definition(path, name)
    helper = program.function(path, name)
    loops = [node for node in ast.walk(parse(rule["block"])) if isinstance(node, _LOOPS)]
    for place, function in rule["users"]:
        inside = list(ast.walk(program.function(place, function)))
        if not any(isinstance(node, ast.Call) and called(node) == name for node in inside):
            raise Broken(f"{place}: {function} does not call {name}")
        if any(isinstance(node, (*_LOOPS, *_COMPREHENSIONS)) for node in inside):
            raise Broken(f"{place}: {function} still goes through its values by itself")
    own = {id(node) for node in ast.walk(helper)}
    for place, node in program.nodes():
        if isinstance(node, _LOOPS) and id(node) not in own and any(_alike(node, loop) for loop in loops):
            raise Broken(f"{place}:{node.lineno} is a copy")


def _constant(program: Program, right: Program, rule: dict) -> None:
    name, path, value = rule["name"], rule["path"], rule["value"]
    node = program.definition(path, name)
    given = getattr(node, "value", None)
    if not isinstance(given, ast.Constant) or type(given.value) is not type(value) or given.value != value:
        raise Broken(f"{path}: {name} is not {value!r} itself")
    for place, other in program.nodes():
        literal = isinstance(other, ast.Constant) and type(other.value) is type(value) and other.value == value
        if literal and other is not given:
            raise Broken(f"{place}:{other.lineno} has the value {value!r}")
    for place, function in rule["users"]:
        inside = ast.walk(program.function(place, function))
        if not any(name in (getattr(n, "id", None), getattr(n, "attr", None)) for n in inside):
            raise Broken(f"{place}: {function} does not use {name}")


RULES = {
    "moved": _moved,
    "gone": _gone,
    "renamed": _renamed,
    "signature": _signature,
    "shared": _shared,
    "constant": _constant,
}


def _bare(node: ast.stmt) -> ast.stmt:
    """A copy without docstrings."""
    node = copy.deepcopy(node)
    for inner in ast.walk(node):
        if isinstance(inner, (*FUNCTIONS, ast.ClassDef)) and ast.get_docstring(inner, clean=False) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
    return node


def _same(given: ast.stmt, wanted: ast.stmt, name: str) -> None:
    if ast.dump(_bare(given)) != ast.dump(_bare(wanted)):
        raise Broken(f"{name} is not what it was")


def _check_copies(program: Program, definition: ast.stmt) -> None:
    """The body stands once, whatever the name above it."""
    kinds = (*FUNCTIONS, ast.ClassDef)
    if not isinstance(definition, kinds):
        return
    body = [ast.dump(n) for n in _bare(definition).body]
    # Docstrings aside, a copy is as large.
    most = 2 * _size(definition)
    for path, node in program.nodes():
        if not isinstance(node, kinds) or node is definition or _size(node, most + 1) > most:
            continue
        if [ast.dump(n) for n in _bare(node).body] == body:
            raise Broken(f"{path}:{node.lineno} is a copy of {definition.name}")


def _size(node: ast.AST, most: int | None = None) -> int:
    """Number of its nodes, counted up to `most`: an agent's statements may be huge, and nested."""
    return sum(1 for _ in itertools.islice(ast.walk(node), most))


def _alike(node: ast.stmt, known: ast.stmt) -> bool:
    size = _size(known)
    return _size(node, size + 1) == size and _shape(node) == _shape(known)


def _shape(node: ast.stmt) -> str:
    """The statement with its variables numbered in the order of their appearance."""
    node, numbers = copy.deepcopy(node), {}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            inner.id = f"v{numbers.setdefault(inner.id, len(numbers))}"
    return ast.dump(node)
