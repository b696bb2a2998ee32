"""A flaw that lets data become code: SQL."""

import json
import random

from skillrl.tasks.suites.security_flaw import Flaw, errors_module, fill, guarded_repairs, names

_SHELF = '''\
"""Looks up $many in a database."""

from $package.$errors import $Refused

SHOWN = ("title", "owner", "body")


def $helper(connection):
    """Make the tables."""
    connection.execute("CREATE TABLE $many (id INTEGER PRIMARY KEY, title TEXT, owner TEXT, body TEXT)")
    connection.execute("CREATE TABLE $vault (value TEXT)")


def $handle(connection, request):
    """Answer {"action": "list", "owner": TEXT, "show": one of SHOWN} or {"action": "get", "number": NUMBER}.

    Gives a list of texts, in the order of their numbers. Raises $Refused for a field, or a number, that is none.
    """
    if request["action"] == "get":
        number = request["number"]
$number
    else:
        owner, show = request["owner"], request.get("show", "title")
$show$owner
    return [str(value) for (value,) in rows]
'''
_SOUND_SQL = {
    "number": """\
        if not isinstance(number, int):
            raise $Refused(number)
        rows = connection.execute("SELECT body FROM $many WHERE id = ?", (number,))""",
    "show": """\
        if show not in SHOWN:
            raise $Refused(show)
""",
    "owner": '        rows = connection.execute(f"SELECT {show} FROM $many WHERE owner = ? ORDER BY id", (owner,))',
}
_FLAWED_SQL = {
    "number": '        rows = connection.execute(f"SELECT body FROM $many WHERE id = {number}")',
    "show": "",
    "owner": """\
        rows = connection.execute(f"SELECT {show} FROM $many WHERE owner = '{owner}' ORDER BY id")""",
}
_SQL_GOLD = {
    "number": {"action": "get", "number": "0 UNION SELECT value FROM $vault"},
    "show": {"action": "list", "owner": "$me", "show": "(SELECT value FROM $vault)"},
    "owner": {"action": "list", "owner": "x' UNION SELECT value FROM $vault --"},
}
_SQL_HEAD = """\
import sqlite3

from $package.$errors import $Refused
from $package.$module import $handle, $helper


def answer(**request):
    connection = sqlite3.connect(":memory:")
    $helper(connection)
    rows = [("first", "$me", "$text"), ("o'clock", "$you", "noon; or later"), ("third", "o'$me", "it's")]
    connection.executemany("INSERT INTO $many (title, owner, body) VALUES (?, ?, ?)", rows)
    connection.execute("INSERT INTO $vault VALUES ('secret')")
    try:
        return $handle(connection, request)
    except $Refused:
        return "refused"
    finally:
        connection.close()


"""
_SQL_TESTS = """\
def test_list():
    assert answer(action="list", owner="$me") == ["first"]
    assert answer(action="list", owner="nobody") == []


def test_get():
    assert answer(action="get", number=1) == ["$text"]
    assert answer(action="get", number=9) == []
"""
_SQL_EDGES = """\
def test_every_field():
    shown = [answer(action="list", owner="$you", show=field) for field in ("title", "owner", "body")]
    assert shown == [["o'clock"], ["$you"], ["noon; or later"]]


def test_marks_in_texts():
    assert answer(action="get", number=3) == ["it's"]
"""
_SQL_ATTACKS = {
    "number": """\
def test_numbers_that_are_none():
    texts = ("0 UNION SELECT value FROM $vault", "1 OR 1=1", "0 union all select value from $vault", "(SELECT 1)")
    assert [answer(action="get", number=text) for text in texts] == ["refused"] * 4
""",
    "show": """\
def test_fields_that_are_none():
    texts = ("(SELECT value FROM $vault)", "(select group_concat(value) from $vault)", "title || body", "*", "id")
    assert [answer(action="list", owner="$me", show=text) for text in texts] == ["refused"] * 5
""",
    "owner": """\
def test_owners_are_texts():
    texts = ("x' UNION SELECT value FROM $vault --", "x' OR '1'='1", "x' union select value from $vault where '1'='1")
    assert [answer(action="list", owner=text) for text in texts] == [[], [], []]


def test_owner_with_a_mark():
    assert answer(action="list", owner="o'$me") == ["third"]
""",
}
_SQL_ORACLE = """\
import sqlite3
from $package.$module import $handle, $helper
connection = sqlite3.connect(":memory:")
$helper(connection)
connection.execute("INSERT INTO $many (title, owner, body) VALUES ('first', '$me', '$text')")
connection.execute("INSERT INTO $vault VALUES (?)", (secret,))
print($handle(connection, json.loads(text)))
"""


def sql_injection(rng: random.Random) -> Flaw:
    given = names(rng)
    variant = rng.choice(sorted(_FLAWED_SQL))
    path = f"{given['package']}/{given['module']}.py"

    def program(parts: dict[str, str]) -> str:
        return fill(given | {name: fill(given, text)[0] for name, text in parts.items()}, _SHELF)[0]

    flawed = program(_SOUND_SQL | {variant: _FLAWED_SQL[variant]})
    gold = {key: fill(given, value)[0] for key, value in _SQL_GOLD[variant].items()}
    head, tests, edges, attacks, oracle = fill(
        given, _SQL_HEAD, _SQL_TESTS, _SQL_EDGES, _SQL_ATTACKS[variant], _SQL_ORACLE
    )
    return Flaw(
        family="sql_injection",
        files=errors_module(given) | {path: program(_SOUND_SQL)},
        flawed={path: flawed},
        tests=head + tests,
        edge_tests=head + edges,
        attack_tests=head + attacks,
        setting=(
            f"The program in {given['package']}/ looks {given['many']} up in an SQLite database: "
            f"{given['package']}.{given['module']}.{given['handle']}(connection, request)."
        ),
        weakness="A request can make it run SQL of its own.",
        aim=f"The table {given['vault']} holds a secret in its column value; {given['many']} has one row.",
        remedy=(
            f"Texts are only compared; fields and numbers that are none must raise {given['Refused']}; all else is "
            "answered as before, whatever marks stand in a text."
        ),
        oracle=oracle,
        gold=json.dumps(gold),
        benign=json.dumps({"action": "list", "owner": given["me"]}),
        crash=json.dumps({"action": "list"}),
        wrong_repairs=guarded_repairs(path, flawed, given, f"request == {gold!r}", '"UNION" in str(request)'),
    )
