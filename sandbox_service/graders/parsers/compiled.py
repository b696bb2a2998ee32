"""Test runners of Go, Rust, C and C++ repositories."""

import re
from collections.abc import Mapping
from xml.etree import ElementTree


def by_line(log: str, pattern: str, statuses: Mapping[str, str]) -> dict[str, str]:
    """Groups `status` and `id` of the pattern on every stripped line; an unknown status is left out."""
    compiled = re.compile(pattern)
    found = {}
    for line in log.split("\n"):
        match = compiled.match(line.strip())
        if match and match["status"] in statuses:
            found[match["id"]] = statuses[match["status"]]
    return found


def gotest(log: str) -> dict[str, str]:
    """`go test -v`."""
    statuses = {"PASS": "passed", "FAIL": "failed", "SKIP": "skipped"}
    return by_line(log, r"--- (?P<status>PASS|FAIL|SKIP): (?P<id>.+) \(.+\)$", statuses)


def cargo(log: str) -> dict[str, str]:
    """`cargo test`; ignored tests are skipped ones (swebench leaves them out)."""
    statuses = {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}
    return by_line(log, r"test\s+(?P<id>\S+)\s+\.\.\.\s+(?P<status>\w+)$", statuses)


def googletest(log: str) -> dict[str, str]:
    return by_line(log, r".*\[\s*(?P<status>OK|FAILED)\s*\]\s(?P<id>.*)\s\(.*\)$", {"OK": "passed", "FAILED": "failed"})


def ctest(log: str) -> dict[str, str]:
    """`ctest`: `1/9 Test #1: name ...... Passed 0.01 sec`; whatever is starred did not pass."""
    pattern = re.compile(r"\d+/\d+\s+Test\s+#\d+:\s+(\S.*?)\s\.*\s*(\*{3})?(Passed|Not Run|Failed|Exception|Timeout)")
    found = {}
    for line in log.split("\n"):
        if match := pattern.match(line.strip()):
            name, _, word = match.groups()
            found[name] = {"Passed": "passed", "Not Run": "skipped"}.get(word, "failed")
    return found


def doctest(log: str) -> dict[str, str]:
    """doctest (C++) with `-s -r=xml`: sub-cases, passed when every expression in them held."""
    start = log.find("<doctest")
    end = log.find("</doctest>", start)
    if start < 0 or end < 0 or "<!" in log[start:end]:
        return {}
    try:
        root = ElementTree.fromstring(log[start : end + len("</doctest>")])
    except ElementTree.ParseError:
        return {}
    found = {}
    for case in root.findall(".//TestCase"):
        for part in case.findall(".//SubCase"):
            held = all(e.get("success") == "true" for e in part.findall(".//Expression"))
            found[f"{case.get('name')} > {part.get('name')}"] = "passed" if held else "failed"
    return found


def redis(log: str) -> dict[str, str]:
    """The Tcl suite of redis and valkey; a failed test's file is not part of its name."""
    statuses = {"ok": "passed", "err": "failed", "skip": "skipped", "ignore": "skipped"}
    found = {}
    for line in log.split("\n"):
        if match := re.match(r"\[(ok|err|skip|ignore)\]:\s(.+?)(?:\s\(\d+\s*m?s\))?$", line.strip()):
            word, name = match.groups()
            found[re.sub(r"\s+in\s+\S+$", "", name) if word == "err" else name] = statuses[word]
    return found


def jq(log: str) -> dict[str, str]:
    """`PASS: name` of automake's `make check`."""
    return by_line(log, r"(?P<status>PASS|FAIL):\s(?P<id>.+)$", {"PASS": "passed", "FAIL": "failed"})


def micropython(log: str) -> dict[str, str]:
    statuses = {"pass": "passed", "FAIL": "failed", "skip": "skipped"}
    return by_line(log, r"(?P<status>pass|FAIL|skip)\s+(?P<id>.+)$", statuses)
