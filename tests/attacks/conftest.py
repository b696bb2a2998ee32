"""The table of all attacks and what each got: `pytest tests/attacks -m "" --attack-table=docs/attacks.md`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """\
# Attacks on the sandboxes and the graders

What each known attack aims for, and what it got. Written by

    pytest tests/attacks -m "" --attack-table=docs/attacks.md

which fails when one of them succeeds. The attacks are the tables in `tests/attacks/`; a new one becomes a row there.
"""


def pytest_addoption(parser):
    parser.addoption("--attack-table", type=Path, help="write what each attack got (.md: a table, .json: rows)")


@pytest.fixture(scope="session")
def note(request) -> Callable[[str, str, str, str, str], None]:
    """Puts a row into the table: backend, category, name, what the attack aims for, what it got."""
    rows: list[tuple[str, ...]] = []
    yield lambda *row: rows.append(row)
    path = request.config.getoption("--attack-table", None)
    if path is not None:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else table(rows))


def table(rows: list[tuple[str, ...]]) -> str:
    """Markdown; one line per attack, one column per backend."""
    backends = list(dict.fromkeys(row[0] for row in rows))
    got: dict[tuple[str, ...], dict[str, str]] = {}
    for backend, *attack, evidence in rows:
        got.setdefault(tuple(attack), {})[backend] = evidence
    counts = ", ".join(f"{sum(b in cell for cell in got.values())} on {b}" for b in backends)
    lines = [HEAD, f"{len(got)} attacks: {counts}. None succeeded.\n"]
    for category in dict.fromkeys(category for category, _, _ in got):
        lines += [f"\n## {category[:1].upper()}{category[1:]}\n", f"| attack | aims for | {' | '.join(backends)} |"]
        lines.append("|---|---|" + "---|" * len(backends))
        for (kind, name, aims_for), cells in got.items():
            if kind == category:
                shown = [cells.get(backend, "") for backend in backends]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (name, aims_for, *shown)) + " |")
    return "\n".join(lines) + "\n"
