"""Test runners of PHP and Ruby repositories."""

import re

from sandbox_service.graders.parsers.compiled import by_line


def phpunit(log: str) -> dict[str, str]:
    """`phpunit --testdox`: tests below a line `Suite (Name\\Space\\SuiteTest)`."""
    statuses = {"✔": "passed", "✘": "failed", "↩": "skipped"}
    found, suite = {}, None
    for line in log.split("\n"):
        if match := re.match(r"(\w.+) \(.+\)$", line):
            suite = match[1]
        elif match := re.match(r"\s*([✔✘↩])\s*(.*)$", line):
            found[f"{suite} > {match[2]}"] = statuses[match[1]]
    return found


def minitest(log: str) -> dict[str, str]:
    """`rake test TESTOPTS=-v`: `Class#test_x. = 0.01 s = .`"""
    pattern = r"(?P<id>.+)\. .*=.*(?P<status>\.|F|E).*$"
    return by_line(log, pattern, {".": "passed", "F": "failed", "E": "failed"})


def cucumber(log: str) -> dict[str, str]:
    """`cucumber --format progress`."""
    return by_line(log, r"(?P<id>.*) \.+(?P<status>\.|F)", {".": "passed", "F": "failed"})


def ruby_unit(log: str) -> dict[str, str]:
    """test-unit's verbose output."""
    pattern = r"(?:test: )?(?P<id>.+):\s+(?P<status>\.|E\b|F\b|O\b)"
    return by_line(log, pattern, {".": "passed", "E": "failed", "F": "failed", "O": "skipped"})


def rspec(log: str) -> dict[str, str]:
    """`name - passed`, which the datasets make of `rspec --format json`."""
    return by_line(log, r"(?P<id>.+) - (?P<status>passed|failed)", {"passed": "passed", "failed": "failed"})
