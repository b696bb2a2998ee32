"""Test runners of Python repositories."""

import re

STATUSES = {"PASSED": "passed", "FAILED": "failed", "SKIPPED": "skipped", "ERROR": "error", "XFAIL": "xfailed"}
_COUNT = re.compile(r"\[\d+\]")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def pytest(log: str) -> dict[str, str]:
    """`STATUS id ...`, as `pytest -rA` sums up."""
    return {words[1]: STATUSES[words[0]] for words in _summary(log)}


def _summary(log: str):
    for line in log.split("\n"):
        words = line.split()
        if len(words) < 2 or words[0] not in STATUSES or not line.startswith(words[0]):
            continue
        # "SKIPPED [2] path:line: reason" counts tests and names none.
        if words[0] == "SKIPPED" and _COUNT.fullmatch(words[1]):
            continue
        yield words


def pytest_options(log: str) -> dict[str, str]:
    """As `pytest`; a parameter that is an absolute path is cut to its last part, for it differs between machines."""
    return {_without_folder(words[1]): STATUSES[words[0]] for words in _summary(log)}


def _without_folder(test_id: str) -> str:
    match = re.match(r"(.*?)\[(.*)\]", test_id)
    if not match:
        return test_id
    name, option = match.groups()
    if option.startswith("/") and not option.startswith("//") and "*" not in option:
        option = "/" + option.split("/")[-1]
    return f"{name}[{option}]"


def pytest_v2(log: str) -> dict[str, str]:
    """As `pytest`, of coloured logs and ids with blanks; a status may also end the line (pytest before 3.9)."""
    found = {}
    for raw in log.split("\n"):
        line = re.sub(r"\[\d+m", "", raw)
        line = "".join(c for c in line if not 1 <= ord(c) < 32)
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] in STATUSES and line.startswith(words[0]):
            if words[0] == "FAILED":
                words = line.split(" - ", 1)[0].split()
            skips = words[0] == "SKIPPED" and _COUNT.fullmatch(words[1]) if len(words) > 1 else True
            if not skips:
                found[" ".join(words[1:])] = STATUSES[words[0]]
        elif words[-1] in STATUSES and line.endswith(words[-1]):
            found[" ".join(words[:-1])] = STATUSES[words[-1]]
    return found


def pytest_verbose(log: str) -> dict[str, str]:
    """`id STATUS`, as `pytest --verbose` prints while it runs (SWE-smith)."""
    pattern = re.compile(rf"(\S+)\s+({'|'.join(STATUSES)})")
    return {m[1]: STATUSES[m[2]] for line in log.split("\n") if (m := pattern.match(line))}


def pytest_names(log: str) -> dict[str, str]:
    """The part after `short test summary info`; ids without their file, joined by dots (R2E-Gym).

    The status is the line's first word. R2E-Gym takes any line that holds "PASSED" for a passed test, so that an
    exception with that text would pass.
    """
    found = {}
    for raw in log.partition("short test summary info")[2].split("\n"):
        line = _COLOUR.sub("", raw).rstrip("\r")
        status, _, rest = line.partition(" ")
        if status in ("PASSED", "FAILED", "ERROR"):
            name = ".".join(rest.split("::")[1:]) if "::" in rest else rest
            found[name.split(" - ")[0].strip()] = STATUSES[status]
    return found


_UNITTEST_ID = re.compile(r"\w+ \([\w.<>]+\)")
_UNITTEST_END = re.compile(r"\.\.\. (ok|FAIL|ERROR|skipped .*|expected failure|unexpected success)$")
_UNITTEST_STATUS = {"ok": "passed", "FAIL": "failed", "ERROR": "error", "expected failure": "xfailed"}


def unittest(log: str) -> dict[str, str]:
    """`python -m unittest -v`: `test_x (module.Class.test_x) ... ok`, with the docstring between them or not."""
    found: dict[str, str] = {}
    test_id = ""
    for raw in log.split("\n"):
        line = raw.rstrip()
        if match := _UNITTEST_ID.match(line):
            test_id = match[0]
        # setUpClass and the like: `ERROR: setUpClass (module.Class)` in the details.
        if line.startswith(("FAIL: ", "ERROR: ")):
            kind, _, name = line.partition(": ")
            if match := _UNITTEST_ID.match(name):
                found[match[0]] = _UNITTEST_STATUS[kind]
            test_id = ""
        elif test_id and (match := _UNITTEST_END.search(line)):
            word = "skipped" if match[1].startswith("skipped") else match[1]
            found[test_id] = _UNITTEST_STATUS.get(word, "failed" if word != "skipped" else "skipped")
            test_id = ""
        elif test_id and line in ("ok", "FAIL", "ERROR"):
            # The test itself printed between the dots and its result.
            found[test_id] = _UNITTEST_STATUS[line]
            test_id = ""
    return found


_DJANGO_PASSED = (" ... ok", " ... OK", " ...  OK")
_DJANGO_CUT = (
    r"^(.*?)\s\.\.\.\sTesting\ against\ Django\ installed\ in\ ((?s:.*?))\ silenced\)\.\nok$",
    r"^(.*?)\s\.\.\.\sInternal\ Server\ Error:\ \/(.*)\/\nok$",
    r"^(.*?)\s\.\.\.\sSystem check identified no issues \(0 silenced\)\nok$",
)


def django(log: str) -> dict[str, str]:
    """`runtests.py --verbosity 2`; a test with a docstring goes by that, as in the datasets."""
    found, latest = {}, None
    for raw in log.split("\n"):
        line = raw.strip()
        if "--version is equivalent to version" in line:
            found["--version is equivalent to version"] = "passed"
        if " ... " in line:
            latest = line.split(" ... ")[0]
        suffix = next((s for s in _DJANGO_PASSED if line.endswith(s)), None)
        if suffix:
            # django-7188 prints a migration and a test on one line.
            if line.startswith("Applying sites.0002_alter_domain_unique...test_no_migrations"):
                line = line.split("...", 1)[-1].strip()
            found[line.rsplit(suffix, 1)[0]] = "passed"
        for mark, status in ((" ... skipped", "skipped"), (" ... FAIL", "failed"), (" ... ERROR", "error")):
            if line.endswith(mark) or (status == "skipped" and mark in line):
                found[line.split(mark)[0]] = status
        for mark, status in (("FAIL:", "failed"), ("ERROR:", "error")):
            if line.startswith(mark) and len(line.split()) > 1:
                found[line.split()[1]] = status
        if line.startswith("ok") and latest is not None:
            found[latest] = "passed"
    for pattern in _DJANGO_CUT:
        found |= {m[1]: "passed" for m in re.finditer(pattern, log, re.MULTILINE)}
    return found


def seaborn(log: str) -> dict[str, str]:
    """`id PASSED ...`, `PASSED id` and `FAILED id`."""
    found = {}
    for line in log.split("\n"):
        words = line.split()
        if len(words) < 2:
            continue
        if line.startswith("FAILED"):
            found[words[1]] = "failed"
        elif " PASSED " in line:
            if words[1] == "PASSED":
                found[words[0]] = "passed"
        elif line.startswith("PASSED"):
            found[words[1]] = "passed"
    return found


def sympy(log: str) -> dict[str, str]:
    """`bin/test -C --verbose`: `test_x ok`, and headings `____ path.py:test_x ____` of failures."""
    found = {f"{path}.py:{name}": "failed" for path, name in re.findall(r"_* (.*)\.py:(.*) _*", log)}
    for raw in log.split("\n"):
        line = raw.strip()
        if line.startswith("test_"):
            for mark, status in ((" E", "error"), (" F", "failed"), (" ok", "passed")):
                if line.endswith(mark):
                    found[line.split()[0]] = status
    return found


def matplotlib(log: str) -> dict[str, str]:
    """As `pytest`; mouse buttons in ids go by their numbers, for their names differ between versions."""
    return pytest(log.replace("MouseButton.LEFT", "1").replace("MouseButton.RIGHT", "3"))
