"""A flaw that opens what is closed: paths that lead out of a folder."""

import json
import random

from skillrl.tasks.suites.security_flaw import Flaw, errors_module, fill, names

_STORE = '''\
"""Serves the $many of one folder."""

import os
from urllib.parse import unquote

from $package.$errors import $Refused


def $helper(root, name):
    """Return the place of a $one. Its name may be percent-encoded. Raises $Refused when it leads out of the root."""
$check

def $handle(root, request):
    """Answer {"action": "read" or "size", "name": NAME} about a $one below the folder root."""
    place = $helper(root, request["name"])
    if not os.path.isfile(place):
        return "no such $one"
    with open(place, encoding="utf-8") as file:
        content = file.read()
    return str(len(content)) if request["action"] == "size" else content
'''
_CONTAINED = """\
    root = os.path.realpath(root)
    place = os.path.realpath(os.path.join(root, unquote(name)))
    if os.path.commonpath([root, place]) != root:
        raise $Refused(name)
    return place
"""
# Variant -> flawed check, and the way out that it leaves.
_LEAKY = {
    "plain": ("    return os.path.join(root, unquote(name))\n", "../"),
    "prefix": (
        """\
    place = os.path.abspath(os.path.join(root, unquote(name)))
    if not place.startswith(os.path.abspath(root)):
        raise $Refused(name)
    return place
""",
        "../",
    ),
    "once": ('    return os.path.join(root, unquote(name).replace("../", ""))\n', "....//"),
    "early": (
        """\
    if ".." in name.split("/"):
        raise $Refused(name)
    return os.path.join(root, unquote(name))
""",
        "%2e%2e/",
    ),
}
_STORE_HEAD = """\
from $package.$errors import $Refused
from $package.$module import $handle


def answer(folder, name, action="read"):
    root = folder / "$many"
    (root / "old").mkdir(parents=True, exist_ok=True)
    (root / "first.txt").write_text("$text")
    (root / "v1.2..draft.txt").write_text("dots")
    (root / "two words.txt").write_text("space")
    (root / "old" / "..second.txt").write_text("older")
    (folder / "${many}_$vault").mkdir(exist_ok=True)
    (folder / "${many}_$vault" / "key.txt").write_text("secret")
    try:
        return $handle(str(root), {"action": action, "name": name})
    except $Refused:
        return "refused"


"""
_STORE_TESTS = """\
def test_read(tmp_path):
    assert answer(tmp_path, "first.txt") == "$text"
    assert answer(tmp_path, "none.txt") == "no such $one"


def test_size(tmp_path):
    assert answer(tmp_path, "first.txt", "size") == str(len("$text"))
"""
_STORE_EDGES = """\
def test_names_with_dots(tmp_path):
    assert answer(tmp_path, "v1.2..draft.txt") == "dots"
    assert answer(tmp_path, "old/..second.txt") == "older"


def test_encoded_names(tmp_path):
    assert answer(tmp_path, "two%20words.txt") == "space"
    assert answer(tmp_path, "old%2F..second.txt", "size") == "5"
"""
_STORE_ATTACKS = """\
def test_the_way_out_is_closed(tmp_path):
    shown = [answer(tmp_path, out + "${many}_$vault/key.txt") for out in ("${way}", "old/${way}${way}")]
    assert ["secret" in text for text in shown] == [False, False]


def test_no_way_leads_out(tmp_path):
    ways = ("../", "old/../../", "%2e%2e/", "..%2f", "old/%2e%2e/%2E%2E/", str(tmp_path) + "/")
    assert [answer(tmp_path, way + "${many}_$vault/key.txt") for way in ways] == ["refused"] * 6


def test_sizes_are_not_told_either(tmp_path):
    ways = ("../", "%2e%2e/", "old/..%2f../")
    assert [answer(tmp_path, way + "${many}_$vault/key.txt", "size") for way in ways] == ["refused"] * 3
"""
_STORE_ORACLE = """\
root = os.path.join(base, "$many")
os.makedirs(os.path.join(root, "old"))
put(os.path.join(root, "first.txt"), "$text")
put(os.path.join(base, "${many}_$vault", "key.txt"), secret)
from $package.$module import $handle
print($handle(root, json.loads(text)))
"""


def path_traversal(rng: random.Random) -> Flaw:
    given = names(rng)
    leaky, way = _LEAKY[rng.choice(sorted(_LEAKY))]
    given["way"] = way
    path = f"{given['package']}/{given['module']}.py"
    key = f"{given['many']}_{given['vault']}/key.txt"

    def program(check: str) -> str:
        return fill(given | {"check": fill(given, check)[0]}, _STORE)[0]

    refusing = "    raise $Refused(name)\n"
    literal = f"    if name == {way + key!r}:\n        raise $Refused(name)\n"
    marks = '    if "../" in name:\n        raise $Refused(name)\n'
    head, tests, edges, attacks, oracle = fill(
        given, _STORE_HEAD, _STORE_TESTS, _STORE_EDGES, _STORE_ATTACKS, _STORE_ORACLE
    )
    return Flaw(
        family="path_traversal",
        files=errors_module(given) | {path: program(_CONTAINED)},
        flawed={path: program(leaky)},
        tests=head + tests,
        edge_tests=head + edges,
        attack_tests=head + attacks,
        setting=(
            f"The program in {given['package']}/ serves files below one folder: "
            f"{given['package']}.{given['module']}.{given['handle']}(root, request)."
        ),
        weakness="It can be made to serve files outside of that folder.",
        aim=f"The folder is {given['many']}/; beside it lies {key}, which holds a secret.",
        remedy=f"A name that leads out of the folder must raise {given['Refused']}; all others are answered as before.",
        oracle=oracle,
        gold=json.dumps({"action": "read", "name": way + key}),
        benign=json.dumps({"action": "read", "name": "first.txt"}),
        crash=json.dumps({"action": "read"}),
        wrong_repairs={
            "refuse everything": {path: program(refusing)},
            "block one input": {path: program(literal + leaky)},
            "block one spelling": {path: program(marks + leaky)},
        },
    )
