"""Refactorings of what stands more than once: copies of a computation, and literals."""

import re

from skillrl.tasks.suites.refactoring_work import (
    Draw,
    Undrawable,
    Work,
    changed,
    dotted,
    test_file,
    test_function,
)
from skillrl.tasks.world import bodies, body_families
from skillrl.tasks.world.level0 import literal
from skillrl.tasks.world.level1 import Helper, arguments

# What the copies do with the computed value.
_TAILS = (
    "part + {n}",
    "part * {n}",
    "[part, {n}]",
    "{n} - part",
    "(part, part + {n})",
    "max(part, {n})",
    "str(part) + 'x'",
)
_USES = (
    ("Return a value, but not more than the limit", "min(value, {x})"),
    ("Return whether a value reaches the limit", "value >= {x}"),
    ("Return what is left below the limit", "{x} - value"),
    ("Return how often the limit fits into a value", "value // {x}"),
    ("Return a value on the scale of the limit", "[value % {x}, {x}]"),
    ("Return whether two values stay below the limit together", "value + value < {x}"),
)


def remove_duplication(drawn: Draw) -> Work:
    rng = drawn.rng
    family = rng.choice([f for f in body_families.TRAIN_FAMILIES if _straight(f)])
    body = rng.choice(_straight(family))
    choice = rng.choice(body.choices())
    home, name = drawn.module(), drawn.function()
    helper = Helper(name, home, family, body, choice)
    if not all(isinstance(helper.value(i), int) for i in range(len(bodies.domain(family.name)))):
        raise Undrawable("the value is no number")
    parameters = ", ".join(family.parameters)
    *lines, last = body.source(choice).rstrip("\n").splitlines()
    block = "\n".join([*lines, last.replace("return ", "part = ", 1)]) + "\n"
    places = rng.sample(drawn.paths, min(3, len(drawn.paths)))
    users = [(path, drawn.function()) for path in places]
    numbers = [rng.randint(2, 9) for _ in users]
    tails = [tail.format(n=n) for tail, n in zip(rng.sample(_TAILS, len(users)), numbers, strict=True)]
    before, after = dict(drawn.files), dict(drawn.files)
    for (path, user), tail in zip(users, tails, strict=True):
        head = f'\n\ndef {user}({parameters}):\n    """Return {tail}, where part is {helper.contract}."""\n'
        end = f"    return {tail}\n"
        before[path] += head + block + end
        after[path] = _imported(after[path], home, name) + head + f"    part = {name}({parameters})\n" + end
    after[home] = f'"""What several modules need."""\n\n\n{helper.source()}'
    use, hidden = f"tests/test_{users[0][1]}.py", f"tests/test_{name}.py"
    after[use] = before[use] = _user_tests(drawn, helper, users, tails)
    undo = changed(after, before)
    after[hidden] = _helper_tests(drawn, helper, users, tails)
    finished = {path: after[path] for path in undo}
    path, user = users[0]
    called = f"    {name}({parameters})\n"
    ignored = {
        p: _imported(drawn.files[p], home, name) + before[p][len(drawn.files[p]) :].replace(block, called + block)
        for p in places
    }
    return Work(
        family="remove_duplication",
        level=drawn.level,
        files=after,
        undo=undo,
        hide={hidden: None},
        instruction=(
            f"The same computation stands in {_listed(users)}: {helper.contract}. Write it once, as a function "
            f"{name}({parameters}) in the new module {home}, and let all of them call it. No copy may remain, and they "
            "must not go through the values by themselves any more. Hidden tests call the new function, too, and look "
            "whether its value is what the others use."
        ),
        rules={"shared": {"name": name, "path": home, "users": [list(u) for u in users], "block": helper.source()}},
        wrong={
            "function that nobody calls": {home: after[home]},
            "function whose value is ignored": {home: after[home], **ignored},
            "one copy left": {p: text for p, text in finished.items() if p != path},
            "function borrowed from a copy": {home: f"from {dotted(path)} import {user} as {name}\n"},
        },
    )


def _straight(family: bodies.BodyFamily) -> list[bodies.Body]:
    """Bodies with a loop and one return, at their end."""
    return [
        b
        for b in family.bodies
        if b.code.count("return ") == 1
        and b.code.splitlines()[-1].startswith("return ")
        and re.search(r"^(for|while) ", b.code, re.MULTILINE)
    ]


def _imported(text: str, home: str, name: str) -> str:
    head, quotes, rest = text.partition('"""\n')
    rest = rest.removeprefix("\n") if rest.startswith("\nfrom ") else rest
    return f"{head}{quotes}\nfrom {dotted(home)} import {name}\n{rest}"


def _listed(users: list[tuple[str, str]]) -> str:
    shown = [f"{name} ({path})" for path, name in users]
    return ", ".join(shown[:-1]) + " and " + shown[-1]


def _value(tail: str, part: int):
    return eval(tail, {"part": part, "max": max, "str": str})


def _user_tests(drawn: Draw, helper: Helper, users, tails) -> str:
    imports = [f"from {dotted(path)} import {name}\n" for path, name in users]
    functions = []
    for (_, name), tail in zip(users, tails, strict=True):
        inputs = drawn.rng.sample(range(len(bodies.domain(helper.family.name))), 3)
        lines = [
            f"assert {name}({arguments(helper.family, i)}) == {literal(_value(tail, helper.value(i)))}" for i in inputs
        ]
        functions.append(test_function(name, lines))
    return test_file(imports, functions)


def _helper_tests(drawn: Draw, helper: Helper, users, tails) -> str:
    imports = [f"from {dotted(path)} import {name}\n" for path, name in [*users, (helper.module, helper.name)]]
    inputs = drawn.rng.sample(range(len(bodies.domain(helper.family.name))), 4)
    own = test_function(helper.name, [helper.call(i).check for i in inputs])
    parameters, given = ", ".join(helper.family.parameters), arguments(helper.family, inputs[0])
    number = drawn.rng.randint(1000, 9000)
    shared = test_function(
        "all_use_it",
        [
            f"before = {helper.name}.__code__",
            f"{helper.name}.__code__ = (lambda {parameters}: {number}).__code__",
            "try:",
            f"    got = [{', '.join(f'{name}({given})' for _, name in users)}]",
            "finally:",
            f"    {helper.name}.__code__ = before",
            f"assert got == {literal([_value(tail, number) for tail in tails])}",
        ],
    )
    return test_file(imports, [own, shared])


def name_constant(drawn: Draw) -> Work:
    rng = drawn.rng
    known = set(re.findall(r"\d+", "".join(drawn.files.values())))
    value = rng.choice([v for v in range(211, 977) if str(v) not in known])
    home, name = drawn.module(), drawn.function().upper()
    places = rng.sample(drawn.paths, min(3, len(drawn.paths)))
    users = [(path, drawn.function()) for path in places]
    uses = rng.sample(_USES, len(users))
    before, after = dict(drawn.files), dict(drawn.files)
    for (path, user), (words, code) in zip(users, uses, strict=True):
        head = f'\n\ndef {user}(value):\n    """{words}."""\n    return '
        before[path] += head + code.format(x=value) + "\n"
        after[path] = _imported(after[path], home, name) + head + code.format(x=name) + "\n"
    after[home] = f'"""Numbers that several modules need."""\n\n{name} = {value}\n'
    use, hidden = f"tests/test_{users[0][1]}.py", f"tests/test_{name.lower()}.py"
    inputs = [0, 7, value - 1, value, 2 * value + 3]
    after[use] = before[use] = test_file(
        [f"from {dotted(path)} import {user}\n" for path, user in users],
        [
            test_function(user, [f"assert [{user}(v) for v in {inputs}] == {_all(code, value, inputs)}"])
            for (_, user), (_, code) in zip(users, uses, strict=True)
        ],
    )
    undo = changed(after, before)
    after[hidden] = _constant_tests(drawn, home, name, value, users, uses)
    finished = {path: after[path] for path in undo}
    path = users[0][0]
    sums = {p: before[p].replace(str(value), f"({name} and {value - 1} + 1)") for p in places}
    with_import = {p: _imported(sums[p], home, name) for p in places}
    return Work(
        family="name_constant",
        level=drawn.level,
        files=after,
        undo=undo,
        hide={hidden: None},
        instruction=(
            f"The number {value} stands in {_listed(users)}. Give it a name: {name} = {value} in the new module "
            f"{home}, and let all of them use the name when they are called. The number must stand nowhere else. "
            "Hidden tests also look what happens when the constant is another."
        ),
        rules={"constant": {"name": name, "path": home, "value": value, "users": [list(u) for u in users]}},
        wrong={
            "constant that nobody uses": {home: after[home]},
            "one number left": {p: text for p, text in finished.items() if p != path},
            "number as a sum": {home: after[home], **with_import},
            "several constants": {
                **finished,
                path: before[path].replace('"""\n', f'"""\n\n{name} = {value}\n', 1),
            },
        },
    )


def _all(code: str, value: int, inputs: list[int]) -> str:
    return literal([eval(code.format(x=value), {"value": v, "min": min}) for v in inputs])


def _constant_tests(drawn: Draw, home: str, name: str, value: int, users, uses) -> str:
    modules = [dotted(path).rpartition(".")[2] for path in dict.fromkeys([home, *(p for p, _ in users)])]
    other = value + drawn.rng.randint(5, 50)
    shown = [_eval(code, other, 2 * value) for _, code in uses]
    calls = ", ".join(f"{dotted(path).rpartition('.')[2]}.{user}({2 * value})" for path, user in users)
    own = test_function("value", [f"assert {modules[0]}.{name} == {value}"])
    follow = test_function(
        "all_follow",
        [
            f"holders = [m for m in ({', '.join(modules)}) if hasattr(m, {name!r})]",
            "for module in holders:",
            f"    module.{name} = {other}",
            "try:",
            f"    got = [{calls}]",
            "finally:",
            "    for module in holders:",
            f"        module.{name} = {value}",
            f"assert got == {literal(shown)}",
        ],
    )
    return test_file([f"from {drawn.package} import {', '.join(modules)}\n"], [own, follow])


def _eval(code: str, x: int, value: int):
    return eval(code.format(x=x), {"value": value, "min": min})
