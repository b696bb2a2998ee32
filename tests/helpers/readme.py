"""The README's table of metrics."""

import re
from collections.abc import Iterable
from pathlib import Path

from skillrl.types import COMPOSITE_KINDS, SKILLS, UNGRADABLE_REASONS

README = Path(__file__).parents[2] / "README.md"
PLACES = {"SKILL": "|".join((*SKILLS, *COMPOSITE_KINDS)), "REASON": "|".join(UNGRADABLE_REASONS), "NAME": "[a-z_0-9]+"}


def undefined_metrics(names: Iterable[str]) -> set[str]:
    """Those that no row of the table names, in full or with SKILL, REASON or NAME in them."""
    section = README.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    patterns = []
    for name in re.findall(r"`(.+?)`", " ".join(cells)):
        pattern = re.escape(name)
        for place, values in PLACES.items():
            pattern = pattern.replace(place, f"(?:{values})")
        patterns.append(re.compile(pattern))
    return {name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)}
