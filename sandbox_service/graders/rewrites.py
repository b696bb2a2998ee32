"""Rewrites of one function's syntax tree that keep what it does; `controls` combines them."""

import ast
import random
from collections.abc import Iterable, Iterator

from sandbox_service.syntax import parse

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# Code that can see its own local names.
_INTROSPECTION = frozenset({"locals", "vars", "eval", "exec", "globals", "dir", "getattr"})
# Names in the standard library's `operator`, whose functions do exactly what the signs do.
_PAIRS = "Lt:lt LtE:le Eq:eq NotEq:ne GtE:ge Gt:gt Add:add Sub:sub Mult:mul Div:truediv FloorDiv:floordiv Mod:mod"
_PAIRS += " Pow:pow LShift:lshift RShift:rshift BitAnd:and_ BitOr:or_ BitXor:xor MatMult:matmul"
_SIGNS = {getattr(ast, kind): name for kind, name in (pair.split(":") for pair in _PAIRS.split())}
_NAMED = (None, True, False)


def rename_locals(function: ast.FunctionDef | ast.AsyncFunctionDef, fresh: Iterator[str]) -> None:
    """Gives new names to plain local variables. Whatever is bound in another way keeps its name."""
    bound, fixed = set(), set()
    for node in ast.walk(function):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                bound.add(name)
            case ast.Name(id=name) if name in _INTROSPECTION:
                return
            case ast.ClassDef():
                return
            case ast.arg(arg=name) | ast.alias(asname=str(name)):
                fixed.add(name)
            case ast.alias(name=name):
                fixed.add(name.partition(".")[0])
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                fixed.update(names)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if node is not function:
                fixed.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                fixed.add(name)
            case ast.MatchMapping(rest=str(name)):
                fixed.add(name)
    own = {name for name in _stored_here(function) if not name.startswith("__")}
    new = {name: next(fresh) for name in sorted((bound & own) - fixed)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in new:
            node.id = new[node.id]


def _stored_here(function: ast.AST) -> set[str]:
    """Names assigned in the function's own scope, those of its nested scopes left out."""
    names, queue = set(), list(getattr(function, "body", []))
    while queue:
        node = queue.pop()
        if isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        queue.extend(ast.iter_child_nodes(node))
    return names


def signs_in(function: ast.AST) -> frozenset[str]:
    """Operators that a function uses and that a Rewriter hides, by their names."""
    kinds = (op for node in ast.walk(function) for op in (*getattr(node, "ops", ()), getattr(node, "op", None)))
    return frozenset(_SIGNS[type(kind)] for kind in kinds if type(kind) in _SIGNS)


class Rewriter(ast.NodeTransformer):
    """Writes the code of functions differently; counts on module constants that `constants` defines.

    Operators, None, True and False become entries of tables, numbers and names sums: neither the tree nor the
    instructions that are executed show which they are.
    """

    def __init__(self, rng: random.Random, fresh: Iterator[str]):
        self._rng, self._fresh = rng, fresh
        self._offset, self._blank, self._base = next(fresh), next(fresh), rng.randrange(2, 9)
        self._table, self._values = next(fresh), next(fresh)
        self._order = sorted(_SIGNS.values(), key=lambda _: rng.random())

    def rewrite(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, thorough: bool, signs: Iterable[str] = ()
    ) -> None:
        """Changes `function` in place; its signature and decorators stay. `signs` are called in it too, for nothing."""
        docstring = function.body[:1] if ast.get_docstring(function, clean=False) is not None else []
        body, calls = function.body[len(docstring) :], []
        if thorough:
            body = [self.visit(statement) for statement in body]
            seven = ast.Constant(7)
            calls = [ast.Expr(ast.Call(self._sign(s), [seven, seven], [])) for s in sorted(set(signs) - {"matmul"})]
        function.body = [*docstring, *calls, *self._name_results(body)]

    def constants(self) -> list[ast.stmt]:
        operators = f"[getattr(__import__('operator'), name) for name in {self._order!r}]"
        constants = [f"{self._offset} = {self._base}", f"{self._blank} = ''", f"{self._table} = {operators}"]
        return parse("\n".join([*constants, f"{self._values} = {_NAMED!r}"])).body

    def _sign(self, name: str) -> ast.expr:
        index = self.visit_Constant(ast.Constant(self._order.index(name)))
        return ast.Subscript(ast.Name(self._table, ast.Load()), index, ast.Load())

    def _name_results(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """`return E` as the last statement becomes `v = E; return v`."""
        last = body[-1] if body else None
        if isinstance(last, ast.Return) and last.value is not None:
            name = next(self._fresh)
            body[-1:] = [ast.Assign([ast.Name(name, ast.Store())], last.value), ast.Return(ast.Name(name, ast.Load()))]
        return body

    def visit_FunctionDef(self, node):
        node.body = [self.visit(statement) for statement in node.body]
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node):
        return node

    def visit_AnnAssign(self, node):
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_JoinedStr(self, node):
        return node

    def visit_Match(self, node):
        """Patterns are not expressions, so they stay."""
        node.subject = self.visit(node.subject)
        for case in node.cases:
            case.guard = case.guard and self.visit(case.guard)
            case.body = [self.visit(statement) for statement in case.body]
        return node

    def visit_Expr(self, node):
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_If(self, node):
        self.generic_visit(node)
        if node.orelse and not isinstance(node.orelse[0], ast.If):
            node.test = ast.UnaryOp(ast.Not(), node.test)
            node.body, node.orelse = node.orelse, node.body
        return node

    def visit_Compare(self, node):
        self.generic_visit(node)
        if len(node.ops) > 1 or type(node.ops[0]) not in _SIGNS:
            return node
        return ast.Call(self._sign(_SIGNS[type(node.ops[0])]), [node.left, *node.comparators], [])

    def visit_BinOp(self, node):
        self.generic_visit(node)
        return ast.Call(self._sign(_SIGNS[type(node.op)]), [node.left, node.right], [])

    def visit_Call(self, node):
        method = node.func if isinstance(node.func, ast.Attribute) else None
        self.generic_visit(node)
        if method is not None and not method.attr.startswith("_"):
            name = self.visit(ast.Constant(method.attr))
            node.func = ast.Call(ast.Name("getattr", ast.Load()), [method.value, name], [])
        return node

    def visit_Constant(self, node):
        value = node.value
        if value is None or type(value) is bool:
            index = self.visit_Constant(ast.Constant(_NAMED.index(value)))
            return ast.Subscript(ast.Name(self._values, ast.Load()), index, ast.Load())
        if type(value) is int:
            rest = value - self._base
            return ast.BinOp(_number(rest), ast.Add(), ast.Name(self._offset, ast.Load()))
        if type(value) is str and len(value) > 1:
            cut = self._rng.randrange(1, len(value))
            head = ast.BinOp(ast.Constant(value[:cut]), ast.Add(), ast.Name(self._blank, ast.Load()))
            return ast.BinOp(head, ast.Add(), ast.Constant(value[cut:]))
        return node


def _number(value: int) -> ast.expr:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))
