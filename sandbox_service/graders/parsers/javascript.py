"""Test runners of JavaScript and TypeScript repositories."""

import re

from sandbox_service.graders.parsers.compiled import by_line

_TIME = re.compile(r"\(\d+ms\)")


def jest(log: str) -> dict[str, str]:
    """`jest --verbose`."""
    pattern = r"(?P<status>✓|✕|○)\s(?P<id>.+?)(?:\s\(\d+\s*m?s\))?$"
    return {i.strip(): s for i, s in by_line(log, pattern, {"✓": "passed", "✕": "failed", "○": "skipped"}).items()}


def jest_json(log: str) -> dict[str, str]:
    """`[PASSED] describe > test`, which the datasets make of `jest --json`."""
    return by_line(log, r"\[(?P<status>PASSED|FAILED)\]\s(?P<id>.+)$", {"PASSED": "passed", "FAILED": "failed"})


def vitest(log: str) -> dict[str, str]:
    """`vitest --reporter=verbose`."""
    pattern = r"(?P<status>✓|×|↓)\s(?P<id>.+?)(?:\s(?:\d+\s*m?s?|\[skipped\]))?$"
    return by_line(log, pattern, {"✓": "passed", "×": "failed", "↓": "skipped"})


def mocha(log: str) -> dict[str, str]:
    """mocha's `spec` reporter: a test goes by the line above it that is no test, as in the datasets."""
    # What follows repeats the failures with their traces.
    listed = re.split(r"\n[ \t]*\d+ passing", log)[0]
    found, suite = {}, ""
    for line in listed.split("\n"):
        text = line.strip()
        if text.startswith(("✓", "✔")):
            name = line.split(text[0], 1)[1]
        elif re.match(r"\d+\)", text):
            name = line.split(")", 1)[1]
        else:
            suite = text if line.startswith("  ") else suite
            continue
        name = _TIME.sub("", name).strip()
        found[f"{suite}.{name}" if suite else name] = "passed" if text[0] in "✓✔" else "failed"
    return found


def karma(log: str) -> dict[str, str]:
    """karma's `mocha` reporter; suites by indentation, read as the datasets read them."""
    found, suites, indent, started = {}, [], -1, False
    for line in log.split("\n"):
        if line.startswith("SUMMARY:"):
            break
        if "Starting browser" in line:
            started = True
            continue
        match = re.match(r"(\s*)?([✔✖])?\s(.*)$", line) if started else None
        if not match:
            continue
        space, mark, name = match.groups()
        if space and not mark:
            if len(space) > indent:
                suites.append(name)
            elif len(space) < indent and suites:
                suites.pop()
            indent = len(space)
        if mark:
            found[" > ".join([*suites, name])] = "passed" if mark == "✔" else "failed"
    return found


def tap(log: str) -> dict[str, str]:
    """Test Anything Protocol; `# SKIP` and `# TODO` are not told apart, as in the datasets."""
    return by_line(log, r"(?P<status>ok|not ok) \d+ (?P<id>.+)$", {"ok": "passed", "not ok": "failed"})
