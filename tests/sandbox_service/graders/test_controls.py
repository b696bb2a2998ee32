"""Twins differ in text and agree in behaviour."""

import ast
import inspect
import types
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_service.graders.controls import behaviour_preserving, functions_of, text_neutral

SAMPLE = '''\
# coding: utf-8
"""Doc."""
from __future__ import annotations

LIMIT = 3


class Box:
    """A box."""

    scale = 2

    def total(self, xs, *, step=1):
        """Doc of the method."""
        total, parts = 0, {}
        for i, x in enumerate(xs):
            if x <= LIMIT:
                total += x * 10 * self.scale
            else:
                total -= step
            parts[f"{i}:{x!r}"] = total
        try:
            first = [total for total in xs][0]
        except IndexError as error:
            return str(error), parts
        match first:
            case 1 | 2:
                kind = "low,mid".split(",")[0]
            case int(n) if n > 5:
                kind = "high"
            case _:
                kind = None
        return total, kind, parts

    def __private(self):
        return 1

    def calls_private(self):
        return self.__private() + len(super().__str__()) * 0


def closure(n):
    count = n

    def step():
        nonlocal count
        count += 1
        return count

    return [step() for _ in range(3)]


def generator(n):
    value = 1
    while value < n:
        yield value
        value *= 2


def shadow(items, key=lambda pair: pair[0]):
    result = {}
    with open("/dev/null") as handle:
        data = handle.read()
    if not items: return data or "none"
    for key_, group in items:
        result.setdefault(key_, []).extend(group)
    return sorted(result.items(), key=key)
'''


def load(text: str) -> types.ModuleType:
    module = types.ModuleType("sample")
    exec(compile(text, "sample.py", "exec"), vars(module))
    return module


def behaviour(module) -> list:
    box = module.Box()
    lists = ([], [1], [2, 9, 3], [7], [4, 0])
    return [
        *(box.total(xs, step=s) for xs in lists for s in (1, 5)),
        box.calls_private(),
        module.closure(4),
        list(module.generator(20)),
        module.shadow([]),
        module.shadow([("b", [1]), ("a", [2, 3]), ("b", [4])]),
        module.Box.total.__doc__,
        str(inspect.signature(module.Box.total)),
        module.__doc__,
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_text_neutral_twin_has_the_same_tokens(seed):
    twin = text_neutral(SAMPLE, seed)
    assert twin != SAMPLE and twin.splitlines()[0] == "# coding: utf-8"
    assert ast.dump(ast.parse(twin)) == ast.dump(ast.parse(SAMPLE))
    assert twin == text_neutral(SAMPLE, seed)
    lines = [{name: node.lineno for name, node in functions_of(ast.parse(t))} for t in (SAMPLE, twin)]
    assert all(lines[1][name] > line for name, line in lines[0].items())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_rewritten_twin_behaves_the_same(seed, thorough):
    decoy = (
        SAMPLE.replace("x <= LIMIT", "x < LIMIT").replace("LIMIT = 3", "LIMIT = 4").replace("value *= 2", "value *= 3")
    )
    twin = behaviour_preserving(SAMPLE, seed, [decoy], thorough=thorough)
    assert behaviour(load(twin)) == behaviour(load(SAMPLE))
    assert twin == behaviour_preserving(SAMPLE, seed, [decoy], thorough=thorough)


def test_rewritten_twin_shares_no_fingerprint():
    twin = behaviour_preserving(SAMPLE, 1)
    old, new = (load(t) for t in (SAMPLE, twin))
    for name in ("closure", "generator", "shadow"):
        before, after = getattr(old, name).__code__, getattr(new, name).__code__
        assert before.co_code != after.co_code and before.co_varnames != after.co_varnames
    assert 10 in old.Box.total.__code__.co_consts and 10 not in new.Box.total.__code__.co_consts
    assert "x <= LIMIT" not in twin and ".split(" not in twin


def test_decoys_bring_in_what_the_other_version_has():
    other = SAMPLE.replace("x <= LIMIT", "x < LIMIT").replace("LIMIT = 3", "LIMIT = 44")
    twin = behaviour_preserving(SAMPLE, 1, [other])
    method = dict(functions_of(ast.parse(twin)))["Box.total"]
    assert "x < LIMIT" in ast.unparse(method)
    assert "LIMIT = 44" in twin and load(twin).LIMIT == 3


LIBRARY = {
    "bisect": "m.bisect_left([1, 3, 5], 3), m.bisect([1, 3], 9)",
    "colorsys": "m.rgb_to_hls(0.2, 0.4, 0.6), m.hsv_to_rgb(0.1, 0.2, 0.3)",
    "difflib": "list(m.unified_diff(['a', 'b'], ['a', 'c', 'd'])), m.get_close_matches('appel', ['ape', 'apple'])",
    "fnmatch": "m.translate('[!a]*.p?'), m.filter(['a.py', 'b.c'], '*.py')",
    "fractions": "str(m.Fraction(3, 9) + m.Fraction('0.25')), m.Fraction(-7, 3).limit_denominator(2)",
    "graphlib": "list(m.TopologicalSorter({'a': {'b'}, 'b': {'c'}}).static_order())",
    "heapq": "m.nlargest(2, [3, 1, 2]), list(m.merge([1, 4], [2, 3]))",
    "html.parser": "m.HTMLParser().get_starttag_text()",
    "ipaddress": "[str(n) for n in m.ip_network('10.0.0.0/30').hosts()], m.ip_address('::1').is_loopback",
    "json.scanner": "m.NUMBER_RE.match('-1.5e3').groups()",
    "shlex": 'm.split(\'a "b c" d\\\\ e\'), m.quote("it\'s")',
    "statistics": "m.median([3, 1, 2]), m.quantiles([1, 2, 3, 4]), m.mode('aab')",
    "string": "m.Template('$a ${b}').substitute(a=1, b=2), m.capwords('x yy  z')",
    "textwrap": "m.wrap('The quick brown fox jumps', 11), m.dedent('  a\\n   b'), m.shorten('hello big world', 9)",
}


@pytest.mark.parametrize("name", LIBRARY)
def test_rewritten_library_modules_behave_the_same(name):
    """Code that nobody wrote for these rewrites."""
    module = import_module(name)
    source = inspect.getsource(module)
    twin = types.ModuleType(name)
    twin.__package__ = module.__package__
    exec(compile(behaviour_preserving(source, 7, [source.replace("1", "2")]), name, "exec"), vars(twin))
    expected, found = (repr(eval(LIBRARY[name], {"m": m})) for m in (module, twin))
    assert found == expected


@pytest.mark.parametrize("text", ["def (\n", "x = '''\n", "\x00"])
def test_what_does_not_parse_is_left_alone(text):
    assert behaviour_preserving(text, 1) == text
    assert text_neutral(text, 1) == text
