"""A flaw that opens what is closed: checks of owners and signatures that are missing."""

import json
import random

from skillrl.tasks.suites.security_flaw import Flaw, errors_module, fill, names

_ARCHIVE = '''\
"""An archive of $many, each with an owner."""

import hmac

from $package.$errors import $Refused


class $Main:
    """Answers requests of users who show a token."""

    def __init__(self, key):
        self._key = key
        self._items = {}

    def token(self, user):
        """Return the token of a user: name, colon, signature."""
        return user + ":" + hmac.new(self._key, user.encode(), "sha256").hexdigest()

    def add(self, owner, text):
        """Store a $one and return its number."""
        number = len(self._items) + 1
        self._items[number] = {"owner": owner, "text": text, "readers": []}
        return number

    def $handle(self, request):
        """Answer {"token", "action", "number"}; actions are read, copy, share (with "user") and list.

        Owners may do all; those it is shared with may read and copy. Else raises $Refused.
        """
        user = self._user(request["token"])
        if request["action"] == "list":
            return " ".join(str(n) for n, item in self._items.items() if item["owner"] == user)
        number = request["number"]
        if request["action"] == "share":
            return self._share(user, number, request["user"])
        if request["action"] == "copy":
            item = $copied
            self.add(user, item["text"])
            return item["text"]
        return self._item(user, number)["text"]

    def _user(self, token):
        user, _, given = token.partition(":")
        expected = self.token(user).partition(":")[2]
        if $forged:
            raise $Refused("token")
        return user

    def _item(self, user, number):
        item = self._items.get(number)
        if item is None$foreign:
            raise $Refused(number)
        return item

    def _share(self, user, number, other):
        item = self._item(user, number)
        if item["owner"] != user:
            raise $Refused(number)
        item["readers"].append(other)
        return "shared"
'''
_SOUND = {
    "copied": "self._item(user, number)",
    "forged": "not hmac.compare_digest(expected.encode(), given.encode())",
    "foreign": ' or user not in (item["owner"], *item["readers"])',
}
# Variant -> the place that is flawed.
_OPEN = {
    "owner": {"foreign": ""},
    "copy": {"copied": "self._items[number]"},
    "prefix": {"forged": "not expected.startswith(given)"},
    "zip": {"forged": "any(a != b for a, b in zip(expected, given))"},
}
_ARCHIVE_HEAD = """\
from $package.$errors import $Refused
from $package.$module import $Main


def archive():
    made = $Main(b"key")
    made.add("$me", "$text")
    made.add("$you", "secret one")
    made.add("$you", "secret two")
    return made


def answer(made, who, action, number, **more):
    try:
        return made.$handle({"token": made.token(who), "action": action, "number": number, **more})
    except $Refused:
        return "refused"


def forged(made, token, action, number):
    try:
        return made.$handle({"token": token, "action": action, "number": number})
    except $Refused:
        return "refused"


"""
_ARCHIVE_TESTS = """\
def test_own(tmp_path):
    made = archive()
    assert answer(made, "$me", "read", 1) == "$text"
    assert answer(made, "$you", "list", 0) == "2 3"


def test_copy(tmp_path):
    made = archive()
    assert answer(made, "$you", "copy", 3) == "secret two"
    assert answer(made, "$you", "list", 0) == "2 3 4"
"""
_ARCHIVE_EDGES = """\
def test_shared_may_be_read_and_copied():
    made = archive()
    assert answer(made, "$you", "share", 2, user="$me") == "shared"
    assert answer(made, "$me", "read", 2) == "secret one"
    assert answer(made, "$me", "copy", 2) == "secret one"
    assert answer(made, "$me", "list", 0) == "1 4"


def test_shared_may_not_be_shared_on():
    made = archive()
    answer(made, "$you", "share", 2, user="$me")
    assert answer(made, "$me", "share", 2, user="zoe") == "refused"


def test_unknown_number():
    assert answer(archive(), "$me", "read", 9) == "refused"
"""
_ARCHIVE_ATTACKS = {
    "owner": """\
def test_others_are_closed():
    made = archive()
    assert [answer(made, "$me", "read", n) for n in (2, 3)] == ["refused", "refused"]
    assert answer(made, "$you", "read", 1) == "refused"


def test_sharing_opens_one_alone():
    made = archive()
    answer(made, "$you", "share", 2, user="$me")
    assert [answer(made, "$me", "copy", n) for n in (2, 3)] == ["secret one", "refused"]
    assert answer(made, "zoe", "read", 2) == "refused"
""",
    "copy": """\
def test_copies_of_others_are_refused():
    made = archive()
    assert [answer(made, "$me", "copy", n) for n in (2, 3)] == ["refused", "refused"]
    assert answer(made, "$you", "copy", 1) == "refused"


def test_nothing_is_left_of_a_refused_copy():
    made = archive()
    answer(made, "$me", "copy", 3)
    assert answer(made, "$me", "list", 0) == "1"
""",
    "signature": """\
def test_tokens_without_signature():
    made = archive()
    assert [forged(made, token, "read", 2) for token in ("$you", "$you:")] == ["refused", "refused"]


def test_tokens_with_a_part_or_more():
    made = archive()
    whole = made.token("$you")
    tokens = (whole[:-1], whole[:-30], whole + "0", "$you:" + "0" * 64, made.token("$me"))
    assert [forged(made, token, "read", 3) for token in tokens] == ["refused"] * 5
""",
}
_ARCHIVE_ORACLE = """\
from $package.$module import $Main
made = $Main(os.urandom(16))
made.add("$me", "$text")
made.add("$you", secret)
request = json.loads(text)
$login
print(made.$handle(request))
"""


def missing_check(rng: random.Random) -> Flaw:
    given = names(rng)
    variant = rng.choice(sorted(_OPEN))
    signed = variant in ("prefix", "zip")
    path = f"{given['package']}/{given['module']}.py"
    given["login"] = "" if signed else f'request["token"] = made.token("{given["me"]}")'

    def program(parts: dict[str, str]) -> str:
        return fill(given | parts, _ARCHIVE)[0]

    flawed = program(_SOUND | _OPEN[variant])
    head, tests, edges, attacks, oracle = fill(
        given,
        _ARCHIVE_HEAD,
        _ARCHIVE_TESTS,
        _ARCHIVE_EDGES,
        _ARCHIVE_ATTACKS["signature" if signed else variant],
        _ARCHIVE_ORACLE,
    )
    attack = {"action": "copy" if variant == "copy" else "read", "number": 2}
    attack |= {"token": given["you"] + ":"} if signed else {}
    first = '        user = self._user(request["token"])\n        if request["action"] == "list"'
    guard = f"        raise {given['Refused']}(request)\n"
    test = f'request["token"] == {attack["token"]!r}' if signed else '(request["action"], request["number"]) == '
    test += "" if signed else f"({attack['action']!r}, 2)"
    who = (
        f"The request's token is checked; you have none of {given['you']}'s."
        if signed
        else f"The harness puts {given['me']}'s token into the request."
    )
    return Flaw(
        family="missing_check",
        files=errors_module(given) | {path: program(_SOUND)},
        flawed={path: flawed},
        tests=head + tests,
        edge_tests=head + edges,
        attack_tests=head + attacks,
        setting=(
            f"The program in {given['package']}/ keeps {given['many']} of several users: "
            f"{given['package']}.{given['module']}.{given['Main']}.{given['handle']}(request)."
        ),
        weakness=f"A user can get at a {given['one']} of somebody else.",
        aim=f"Number 1 belongs to {given['me']}; number 2, which holds a secret, to {given['you']}. {who}",
        remedy=f"What the docstrings do not allow must raise {given['Refused']}; all else is answered as before.",
        oracle=oracle,
        gold=json.dumps(attack),
        benign=json.dumps({"action": "read", "number": 1, "token": "x"}),
        crash=json.dumps([1, 2]),
        wrong_repairs={
            "refuse everything": {path: flawed.replace(first, guard + first)},
            "block one input": {path: flawed.replace(first, f"        if {test}:\n    {guard}{first}")},
        },
    )
