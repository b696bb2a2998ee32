import argparse
import ast
import dataclasses
import inspect
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillrl.tasks.mutate import OPERATORS, apply, changed_lines, sample, sites


def mutants(body, header="def f(a, b, c):"):
    """Every mutant of a function as (operator, its body)."""
    source = header + "\n" + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"
    start = len(header) + 1
    return {(s.operator, textwrap.dedent(apply(source, s)[start:]).rstrip("\n")) for s in sites(source)}


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("return_none", "return a", "return None"),
        ("cmp_flip", "x = a < b", "x = a <= b"),
        ("cmp_flip", "x = a >= b", "x = a > b"),
        ("cmp_flip", "x = (a) not  in (b)", "x = (a) in (b)"),
        ("cmp_flip", "x = a is not b", "x = a is b"),
        ("swap_args", "x = g(a, b + 1, c)", "x = g(b + 1, a, c)"),
        ("and_or", "x = a and b", "x = a or b"),
        ("and_or", "x = (a or\tb)", "x = (a and\tb)"),
        ("off_by_one", "x = 9", "x = 10"),
        ("off_by_one", "x = -1", "x = -2"),
        ("drop_if", "if a > b:\n    b = c", "if False:\n    b = c"),
        ("arith_flip", "x = a // b", "x = a % b"),
        ("arith_flip", "x = a - -b", "x = a + -b"),
        ("negate_condition", "if not (a or b):\n    b = c", "if (a or b):\n    b = c"),
        ("negate_condition", "if a or b:\n    b = c", "if not (a or b):\n    b = c"),
        ("negate_condition", "if a == b:\n    b = c", "if not a == b:\n    b = c"),
        ("break_continue", "for x in a:\n    break", "for x in a:\n    continue"),
        ("break_continue", "while a:\n    continue", "while a:\n    break"),
        ("string_tweak", "x = a.lstrip()", "x = a.rstrip()"),
        ("string_tweak", "x = '-_'", "x = '-'"),
        ("slice_tweak", "x = a[b:c]", "x = a[:c]"),
        ("slice_tweak", "x = a[b:c]", "x = a[b:]"),
        ("remove_statement", "a.add(b)\nb = c", "b = c"),
        ("remove_statement", "a += b\nb = c", "b = c"),
        ("remove_statement", "a.x = b  # why\nb = c", "a.x = b  # why\nb = c"),
        ("flip_bool", "x = True", "x = False"),
    ],
)
def test_operators(operator, before, after):
    found = mutants(before)
    if before == after:
        assert operator not in {name for name, _ in found}
    else:
        assert (operator, after) in found


@pytest.mark.parametrize(
    "body",
    [
        "'''The 5 words of a docstring.'''",
        "raise ValueError('bad', 5)",
        "assert a < b",
        "while a:\n    break",  # its opposite would not end
        "x = f'{a + 1}'",
        "x: Literal[3]",
        "return None",
        "g(a, a)",
        "if True:\n    import x",
    ],
)
def test_what_is_left_alone(body):
    assert {m for m in mutants(body) if m[0] not in ("return_none", "flip_bool")} == set()


def test_only_function_bodies():
    source = "LIMIT = 3\n@cache(5)\ndef f(a=4):\n    pass\nclass C:\n    SIZE = 7\nif LIMIT < 4:\n    LIMIT = 9\n"
    assert sites(source) == ()


def test_symbols_are_those_of_the_outermost_function():
    source = textwrap.dedent("""
        class A:
            class B:
                def method(self):
                    def inner():
                        return 1
        def f():
            return 2
    """)
    assert {s.symbol for s in sites(source)} == {"A.B.method", "f"}


def test_lines_of_a_change():
    source = "def f(a):\n    g(\n        a)\n    return g(\n        a) + 1\n"
    by_operator = {s.operator: s for s in sites(source)}
    removed, returned = by_operator["remove_statement"], by_operator["return_none"]
    assert (removed.first_line, removed.last_line, changed_lines(removed)) == (2, 3, (2, 2))
    assert (returned.first_line, returned.last_line, changed_lines(returned)) == (4, 5, (4, 4))
    assert apply(source, removed) == "def f(a):\n    return g(\n        a) + 1\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_positions_are_bytes_not_characters(newline):
    source = "def f(ä, b):\n    'Grüße'; x = 'é' + ä; return ä < b\n".replace("\n", newline)
    (flip,) = (s for s in sites(source) if s.operator == "cmp_flip")
    assert apply(source, flip) == source.replace("<", "<=")


CORPUS = [inspect.getsource(m) for m in (textwrap, argparse, dataclasses)]


@pytest.fixture(scope="module")
def corpus_sites():
    return [sites(source) for source in CORPUS]


def test_every_operator_finds_a_place(corpus_sites):
    assert {s.operator for found in corpus_sites for s in found} == set(OPERATORS)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_only_the_span_changes_and_the_result_is_another_program(corpus_sites, data):
    n = data.draw(st.integers(0, len(CORPUS) - 1))
    source, site = CORPUS[n], data.draw(st.sampled_from(corpus_sites[n]))
    before, after = source.encode(), apply(source, site).encode()
    assert after[: site.start] == before[: site.start]
    assert after[len(after) - (len(before) - site.end) :] == before[site.end :]
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))
    lines = before.split(b"\n")
    assert before[site.start : site.end].rstrip(b"\n") in b"\n".join(lines[site.first_line - 1 : site.last_line])


names = st.sampled_from(["a", "bé", "c[0]", "d(1, 2)", "'ü'", "3", "not e", "[x for x in y]", "(z)"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(names, st.sampled_from(["<", "+", "and", "not in", "is", "//"]), names), min_size=1))
def test_generated_expressions(parts):
    """Whatever the operands look like, each mutant parses and its site lies where the operators say."""
    lines = [f"    v{i} = ({left}) {operator} ({right})" for i, (left, operator, right) in enumerate(parts)]
    source = "def f():\n" + "\n".join(lines) + "\n"
    found = sites(source)
    assert len(found) >= len(parts)
    for site in found:
        ast.parse(apply(source, site))
        changed = [a == b for a, b in zip(source.split("\n"), apply(source, site).split("\n"), strict=True)]
        assert changed.count(False) == 1 and not changed[site.first_line - 1]


def test_intent_holds_none_of_the_code(corpus_sites):
    for source, found in zip(CORPUS, corpus_sites, strict=True):
        for site in found:
            line = source.splitlines()[site.first_line - 1].strip()
            assert site.intent and (len(line) < 8 or line not in site.intent)


def test_sampling_takes_turns_and_keeps_quotas():
    files = {"a.py": CORPUS[0], "b.py": CORPUS[2]}
    chosen = sample(files, 7, per_function=2, per_file=10)
    assert chosen == sample(files, 7, per_function=2, per_file=10) != sample(files, 8, per_function=2, per_file=10)
    assert len(chosen) == len(set(chosen)) == 20
    in_function = [(path, site.symbol) for path, site in chosen]
    assert max(map(in_function.count, in_function)) <= 2
    assert len({site.operator for _, site in chosen[: len(OPERATORS)]}) >= 10
