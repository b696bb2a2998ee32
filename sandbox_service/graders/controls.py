"""Twins of a source file: other text, same behaviour.

A submission that recognises *which* version of the code it runs on (by hash, text, syntax tree, bytecode, line number
or age of the file) fakes every before-and-after check. So each verdict must also hold on twins: one in which only
comments and blank lines differ, and one whose code is written differently. The second takes `decoys`, the other
versions of the file: where they differ, each version's functions are put into it as dead code, its own too, so that
looking for a fragment that one version has and the other lacks tells nothing either. What remains is a check that
undoes these very rewrites; it would have to be written against this file.

All functions are pure: the same source and seed give the same twin.
"""

import ast
import functools
import io
import random
import tokenize
from collections.abc import Iterable, Iterator, Sequence

from sandbox_service.graders.rewrites import FUNCTIONS, Rewriter, rename_locals, signs_in
from sandbox_service.syntax import parse

# A submission that is graded again, and others of its seed, meet the same twins. A task has about twenty.
TWINS_KEPT = 128
_WORDS = ("note", "see below", "checked", "as before", "kept simple", "order matters", "per call", "shared")


@functools.lru_cache(maxsize=TWINS_KEPT)
def text_neutral(source: str, seed: int) -> str:
    """The same tokens with other comments and blank lines: hash and line numbers change, the syntax tree does not.

    Returns a source that cannot be parsed as it is.
    """
    rng = random.Random(seed)
    try:
        parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return source
    comments, blanks = set(), set()
    commented = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == tokenize.NEWLINE and token.start[0] not in commented and rng.random() < 0.3:
            comments.add(token.start[0])
        # The first token of a logical line: a blank line may stand before it.
        starts = before is not None and before.type in (tokenize.NEWLINE, tokenize.NL)
        if starts and token.type in (tokenize.NAME, tokenize.OP) and _at_statement(before) and rng.random() < 0.2:
            blanks.add(token.start[0])
    lines = io.StringIO(source).readlines()
    # An encoding declaration must stay within the first two lines.
    header = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    twin = []
    for number, line in enumerate(lines, 1):
        if number == header + 1:
            twin.append(f"# {rng.choice(_WORDS)}\n" * rng.randint(1, 5))
        if number in blanks:
            twin.append("\n")
        body = line.rstrip("\r\n")
        end = line[len(body) :]
        twin.append(f"{body}  # {rng.choice(_WORDS)}{end}" if number in comments else line)
    return "".join(twin)


def _at_statement(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.NEWLINE


def behaviour_preserving(source: str, seed: int, decoys: Sequence[str] = (), *, thorough: bool = True) -> str:
    """The same behaviour in other code, formatted anew.

    Function locals get new names and dead statements are added; when `thorough`, operators, constants and method names
    in functions are looked up or put together at run time, and branches are swapped. Returns a source that cannot be
    parsed as it is.
    """
    return _rewritten(source, seed, tuple(decoys), thorough)


@functools.lru_cache(maxsize=TWINS_KEPT)
def _rewritten(source: str, seed: int, decoys: tuple[str, ...], thorough: bool) -> str:
    rng = random.Random(seed)
    try:
        tree = parse(source)
        others = [parse(d) for d in decoys if d != source]
    except (SyntaxError, ValueError):
        return source
    taken = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        n.name for n in ast.walk(tree) if isinstance(n, (*FUNCTIONS, ast.ClassDef))
    }
    fresh = _fresh_names(rng, taken)
    rewriter = Rewriter(rng, fresh)
    by_name = [dict(functions_of(version)) for version in (parse(source), *others)]
    for name, node in functions_of(tree):
        variants = {ast.dump(functions[name]): functions[name] for functions in by_name if name in functions}
        signs = frozenset[str]().union(*map(signs_in, variants.values()))
        rename_locals(node, fresh)
        rewriter.rewrite(node, thorough, signs)
        dead = [parse(f"{next(fresh)} = {rng.randrange(99)} {rng.choice(['<', '>=', '-', '*'])} 7").body[0]]
        if len(variants) > 1:
            # In an order that does not depend on which of them is the live one.
            dead += [_as_dead_code(variants[key], next(fresh)) for key in _shuffled(rng, variants)]
        node.body[_after_docstring(node.body) : _after_docstring(node.body)] = dead
    top = _after_imports_of_future(tree.body)
    tree.body[top:top] = rewriter.constants()
    tree.body += _dead_statements([parse(source), *others], rng, next(fresh))
    try:
        twin = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
        compile(twin, "twin", "exec")
    except (SyntaxError, ValueError, RecursionError):
        # ast.unparse cannot write every nested f-string.
        return text_neutral(source, seed)
    return twin


def functions_of(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions of the module and of its classes with qualified names; functions inside functions are left out."""

    def walk(body: Iterable[ast.stmt], prefix: str):
        for node in body:
            if isinstance(node, FUNCTIONS):
                yield prefix + node.name, node
            elif isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.")

    return walk(tree.body, "")


def _fresh_names(rng: random.Random, taken: set[str]) -> Iterator[str]:
    while True:
        name = f"_v{rng.randrange(16**6):06x}"
        if name not in taken:
            taken.add(name)
            yield name


def _after_docstring(body: Sequence[ast.stmt]) -> int:
    first = body[0] if body else None
    return int(
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )


def _after_imports_of_future(body: Sequence[ast.stmt]) -> int:
    index = _after_docstring(body)
    while index < len(body) and isinstance(body[index], ast.ImportFrom) and body[index].module == "__future__":
        index += 1
    return index


def _as_dead_code(function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> ast.stmt:
    """The function under another name, to be defined inside a function and never called."""
    copy = parse(ast.unparse(function)).body[0]
    copy.name, copy.decorator_list, copy.returns = name, [], None
    for arg in ast.walk(copy.args):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    nothing = ast.Constant(None)
    copy.args.defaults = [nothing for _ in copy.args.defaults]
    copy.args.kw_defaults = [default and nothing for default in copy.args.kw_defaults]
    return copy


def _dead_statements(versions: Sequence[ast.Module], rng: random.Random, name: str) -> list[ast.stmt]:
    """A function, never called, of the statements outside functions that not all of the versions have."""
    kinds = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.ClassDef, ast.If)
    found = [{ast.unparse(node): node for node in version.body if isinstance(node, kinds)} for version in versions]
    told = {text: node for nodes in found for text, node in nodes.items() if not all(text in other for other in found)}
    dead = parse(f"def {name}():\n    return {len(name)}").body[0]
    dead.body[:0] = [told[text] for text in _shuffled(rng, told)]
    return [dead]


def _shuffled(rng: random.Random, keys: Iterable[str]) -> list[str]:
    return sorted(sorted(keys), key=lambda _: rng.random())
