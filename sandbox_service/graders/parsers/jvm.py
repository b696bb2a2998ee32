"""Test runners of Java repositories."""

import re

from sandbox_service.graders.parsers.compiled import by_line


def maven(log: str) -> dict[str, str]:
    """One `mvn -Dtest=ID` a test, traced by `set -x`, and a BUILD result for each: maven prints no passed test.

    A result belongs to the oldest command without one; results that came before any command, to those left over.
    """
    found, waiting, early = {}, [], []
    for raw in log.split("\n"):
        line = raw.strip()
        if match := re.match(r".*-Dtest=(\S+).*$", line):
            waiting.append(match[1])
        elif match := re.match(r".*BUILD (SUCCESS|FAILURE)$", line):
            status = "passed" if match[1] == "SUCCESS" else "failed"
            if waiting:
                found[waiting.pop(0)] = status
            else:
                early.append(status)
    return found | dict(zip(waiting, early, strict=False))


def ant(log: str) -> dict[str, str]:
    statuses = {"PASS": "passed", "FAIL": "failed", "ERR": "failed"}
    return by_line(log, r"\[junit\]\s+\[(?P<status>PASS|FAIL|ERR)\]\s+(?P<id>.*)$", statuses)


def gradle(log: str) -> dict[str, str]:
    """`Class > method PASSED`, or the status on a line of its own when other output came between."""
    found, waiting = {}, None
    for raw in log.split("\n"):
        line = raw.strip()
        if match := re.match(r"([^>].+)\s+(PASSED|FAILED)$", line):
            found[match[1]] = match[2].lower()
            waiting = None
        elif match := re.match(r"[^>]\S*\s+>\s+\S+$", line):
            waiting = match[0]
        elif waiting and line in ("PASSED", "FAILED"):
            found[waiting] = line.lower()
            waiting = None
    return found
