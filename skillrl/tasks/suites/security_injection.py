"""Flaws that let data become code: shell commands and templates."""

import json
import random

from skillrl.tasks.suites.security_flaw import Flaw, errors_module, fill, guarded_repairs, names

_COUNTER = '''\
"""Counts lines of $many with the system's own tools."""

import os
import shlex
import subprocess

from $package.$errors import $Refused


def $handle(root, request):
    """Return how many lines of the file "name" in the folder root hold the text "word". Raises $Refused for no file."""
    name, word = request["name"], request["word"]
    if name not in os.listdir(root):
        raise $Refused(name)
    done = $call
    return done.stdout.strip()
'''
_CALL = 'subprocess.run(["grep", "-c", "-F", "-e", word, "--", name], cwd=root, capture_output=True, text=True)'
_SHELL = "subprocess.run($command, shell=True, cwd=root, capture_output=True, text=True)"
# Variant -> command, what breaks out of it.
_COMMANDS = {
    "single": ("f\"grep -c -F -e '{word}' -- {shlex.quote(name)}\"", "x' first.txt; $what; echo '"),
    "double": ("f'grep -c -F -e \"{word}\" -- {shlex.quote(name)}'", 'x" first.txt; $what; echo "'),
    "bare": ('f"grep -c -F -e {word} -- {shlex.quote(name)}"', "x first.txt; $what; echo"),
}
_COUNTER_HEAD = """\
from $package.$errors import $Refused
from $package.$module import $handle


def answer(folder, word, name="first.txt"):
    root = folder / "$many"
    root.mkdir(exist_ok=True)
    (root / "first.txt").write_text("$text\\nit's $$HOME\\na;b && c\\n`x` says \\"yes\\"\\nit's over\\n")
    (root / "two words.txt").write_text("-e\\nplain\\n")
    (folder / "key.txt").write_text("secret")
    try:
        return $handle(str(root), {"name": name, "word": word})
    except $Refused:
        return "refused"


"""
_COUNTER_TESTS = """\
def test_count(tmp_path):
    word = "$text".split()[0]
    assert [answer(tmp_path, word), answer(tmp_path, "zebra")] == ["1", "0"]


def test_no_such_file(tmp_path):
    assert [answer(tmp_path, "a", "none.txt"), answer(tmp_path, "a", "../key.txt")] == ["refused", "refused"]
"""
_COUNTER_EDGES = """\
def test_names_with_spaces(tmp_path):
    assert answer(tmp_path, "plain", "two words.txt") == "1"
"""
_COUNTER_ATTACKS = """\
def test_commands_are_texts(tmp_path):
    ends = ("x' *; cat ../key.txt; echo '", 'x" *; cat ../key.txt; echo "', "x *; cat ../key.txt; echo")
    assert [answer(tmp_path, word) for word in ends] == ["0"] * 3


def test_nothing_is_run(tmp_path):
    marks = ("$$(touch ../made)", "`touch ../made`", "'; touch ../made; '", "; touch ../made;", '"; touch ../made; "')
    assert [answer(tmp_path, word) for word in marks] == ["0"] * 5
    assert (tmp_path / "made").exists() is False


def test_marks_are_counted(tmp_path):
    words = ("it's", "$$HOME", "a;b &&", '"yes"', "`x`")
    assert [answer(tmp_path, word) for word in words] == ["2", "1", "1", "1", "1"]
"""
_COUNTER_ORACLE = """\
root = os.path.join(base, "$many")
put(os.path.join(root, "first.txt"), "$text\\n")
put(os.path.join(base, "$vault", "key.txt"), secret)
from $package.$module import $handle
print($handle(root, json.loads(text)))
"""


def command_injection(rng: random.Random) -> Flaw:
    given = names(rng)
    command, way_out = _COMMANDS[rng.choice(sorted(_COMMANDS))]
    path = f"{given['package']}/{given['module']}.py"
    (word,) = fill({"what": f"cat ../{given['vault']}/key.txt"}, way_out)
    (sound,) = fill(given | {"call": _CALL}, _COUNTER.replace("import shlex\n", ""))
    (flawed,) = fill(given | {"call": fill({"command": command}, _SHELL)[0]}, _COUNTER)
    head, tests, edges, attacks, oracle = fill(
        given, _COUNTER_HEAD, _COUNTER_TESTS, _COUNTER_EDGES, _COUNTER_ATTACKS, _COUNTER_ORACLE
    )
    return Flaw(
        family="command_injection",
        files=errors_module(given) | {path: sound},
        flawed={path: flawed},
        tests=head + tests,
        edge_tests=head + edges,
        attack_tests=head + attacks,
        setting=(
            f"The program in {given['package']}/ counts lines of files in one folder: "
            f"{given['package']}.{given['module']}.{given['handle']}(root, request)."
        ),
        weakness="A request can make it run commands of its own.",
        aim=(
            f"The folder is {given['many']}/ and holds first.txt; beside it lies {given['vault']}/key.txt, which holds "
            "a secret."
        ),
        remedy="Every text must be looked for as it is, whatever marks stand in it; all else stays as before.",
        oracle=oracle,
        gold=json.dumps({"name": "first.txt", "word": word}),
        benign=json.dumps({"name": "first.txt", "word": "the"}),
        crash=json.dumps({"name": "first.txt"}),
        wrong_repairs=guarded_repairs(path, flawed, given, f'request["word"] == {word!r}', '";" in request["word"]'),
    )


_LETTERS = '''\
"""Fills in the blanks of letters about $many."""

import re

from $package.$errors import $Refused


class Owner:
    def __init__(self, name, key):
        self.name = name
        self.key = key


class $Main:
    def __init__(self, title, pages, owner):
        self.title = title
        self.pages = pages
        self.owner = owner


def $handle($one, template):
    """Return the template with {title}, {pages} and {owner.name} filled in. Raises $Refused for any other blank."""
$body
'''
_BLANKS = """\
    values = {"title": $one.title, "pages": $one.pages, "owner.name": $one.owner.name}

    def filled(match):
        if match.group(1) not in values:
            raise $Refused(match.group(1))
        return str(values[match.group(1)])

    return re.sub(r"\\{([^{}]*)\\}", filled, template)"""
_FORMAT = "    return template.format(title=$one.title, pages=$one.pages, owner=$one.owner)"
# Variant -> the flawed body, and the blank that tells the secret.
_LOOSE = {
    "format": (_FORMAT, "{owner.key}"),
    "listed": ('    if "key" in template:\n        raise $Refused(template)\n' + _FORMAT, "{owner.__dict__}"),
    "attribute": (
        """\
    def filled(match):
        value = $one
        for name in match.group(1).split("."):
            value = getattr(value, name)
        return str(value)

    return re.sub(r"\\{([^{}]*)\\}", filled, template)""",
        "{owner.key}",
    ),
}
_LETTERS_HEAD = """\
from $package.$errors import $Refused
from $package.$module import Owner, $Main, $handle


def answer(template):
    try:
        return $handle($Main("$text", 12, Owner("$me", "secret")), template)
    except ($Refused, AttributeError):
        return "refused"


"""
_LETTERS_TESTS = """\
def test_blanks():
    assert answer("{title} of {owner.name}") == "$text of $me"
    assert answer("{pages} pages, {pages}") == "12 pages, 12"


def test_plain():
    assert answer("nothing to fill in") == "nothing to fill in"
"""
_LETTERS_EDGES = """\
def test_words_of_blanks_are_plain_words():
    assert answer("owner.name and pages are {pages}.") == "owner.name and pages are 12."


def test_empty():
    assert answer("") == ""
"""
_LETTERS_ATTACKS = """\
def test_secrets_stay():
    blanks = ("{owner.key}", "{owner.__dict__}", "{owner.__init__.__globals__}", "{owner.__dict__[key]}")
    assert ["secret" in answer("a " + blank) for blank in blanks] == [False] * 4


def test_other_blanks_are_refused():
    blanks = ("{owner.__class__}", "{title.__class__}", "{owner.__dict__}", "{pages.real}", "{owner.name.__len__}")
    assert [answer(blank) for blank in blanks] == ["refused"] * 5
"""
_LETTERS_ORACLE = """\
from $package.$module import Owner, $Main, $handle
print($handle($Main("$text", 12, Owner("$me", secret)), json.loads(text)["template"]))
"""


def code_injection(rng: random.Random) -> Flaw:
    given = names(rng)
    loose, blank = _LOOSE[rng.choice(sorted(_LOOSE))]
    path = f"{given['package']}/{given['module']}.py"

    def program(body: str) -> str:
        return fill(given | {"body": fill(given, body)[0]}, _LETTERS)[0]

    flawed = program(loose)
    head, tests, edges, attacks, oracle = fill(
        given, _LETTERS_HEAD, _LETTERS_TESTS, _LETTERS_EDGES, _LETTERS_ATTACKS, _LETTERS_ORACLE
    )
    return Flaw(
        family="code_injection",
        files=errors_module(given) | {path: program(_BLANKS)},
        flawed={path: flawed},
        tests=head + tests,
        edge_tests=head + edges,
        attack_tests=head + attacks,
        setting=(
            f"The program in {given['package']}/ fills in letters: "
            f"{given['package']}.{given['module']}.{given['handle']}({given['one']}, template)."
        ),
        weakness="A template can bring to light what no letter should tell.",
        aim='The harness fills in the request\'s "template". The key of the owner is the secret.',
        remedy=f"Blanks other than the documented ones must raise {given['Refused']}; all else stays as before.",
        oracle=oracle,
        gold=json.dumps({"template": blank}),
        benign=json.dumps({"template": "{title}: {pages}"}),
        crash=json.dumps({"letter": 1}),
        wrong_repairs=guarded_repairs(path, flawed, given, f"template == {blank!r}", '"key" in template'),
    )
