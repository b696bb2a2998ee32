"""What a build made, and what it left out and why."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass
class Summary:
    """Of one package. Kept in set.json."""

    package: Mapping[str, str]
    stripped: Mapping[str, int]
    # What was installed, what could not be and why, and which tools were left out.
    requirements: Mapping[str, object] = field(default_factory=dict)
    baseline: Mapping[str, object] = field(default_factory=dict)
    # Why a mutation was kept or not -> how many.
    mutations: Mapping[str, int] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)
    instances: int = 0
    tasks: Mapping[str, int] = field(default_factory=dict)
    mutants: int = 0
    # Runs of the suite that were made (a build that went on makes fewer), and seconds by step.
    suite_runs: int = 0
    times_s: dict[str, float] = field(default_factory=dict)
    # skill or "instance" -> reason -> how many.
    left_out: dict[str, Counter] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the seconds that are spent inside to `times_s`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.times_s[step] = round(self.times_s.get(step, 0.0) + time.monotonic() - started, 3)

    def leave_out(self, what: str, reason: str) -> None:
        self.left_out.setdefault(what, Counter())[reason] += 1


def totals(packages: Iterable[Mapping]) -> dict[str, int]:
    """Tasks by skill over the summaries of several packages."""
    found: Counter[str] = Counter()
    for package in packages:
        found.update(package["tasks"])
    return dict(sorted(found.items()))


def show(packages: Iterable[Mapping], console: Console) -> None:
    """A table of all packages, and for each what was left out. `packages` are summaries as JSON gives them back."""
    packages = list(packages)
    skills = list(totals(packages))
    figures = ("planted", "kept", "mutants", "runs", "s", "s/task")
    made = Table("package", "licence", "bugs", *skills, *figures, title="tasks")
    for p in packages:
        planted, seconds = _planted(p), sum(p["times_s"].values())
        counts = [p["tasks"].get(skill, 0) for skill in skills]
        made.add_row(
            f"{p['package']['name']} {p['package']['version']}", p["package"]["licence"], str(p["instances"]),
            *map(str, counts), str(planted), str(p["mutations"].get("kept", 0)), str(p["mutants"]),
            str(p["suite_runs"]), f"{seconds:.0f}", f"{seconds / max(1, sum(counts)):.1f}",
        )  # fmt: skip
    console.print(made)
    for p in packages:
        _show_dropped(p, console)


def _planted(package: Mapping) -> int:
    return sum(n for reason, n in package["mutations"].items() if reason != "two kept bugs as one")


def _show_dropped(package: Mapping, console: Console) -> None:
    baseline, left_out, needs = package["baseline"], package["left_out"], package["requirements"]
    title = f"{package['package']['name']}: {baseline['tests']} reliable tests"
    dropped = Table("what", "left out and why", title=title)
    dropped.add_row("files", _reasons(package["stripped"]))
    if needs["no_use"]:
        dropped.add_row("requirements", f"of no use to tests: {', '.join(needs['no_use'])}")
    for requirement, reason in needs["unmet"].items():
        dropped.add_row("requirements", f"{requirement}: {reason}")
    dropped.add_row("tests", _reasons(baseline["dropped"]))
    dropped.add_row("mutations", _reasons({k: n for k, n in package["mutations"].items() if "kept" not in k}))
    for what, reasons in sorted(left_out.items()):
        dropped.add_row("bugs" if what == "instance" else what, _reasons(reasons))
    console.print(dropped)
    seconds = ", ".join(f"{step} {s:.0f} s" for step, s in package["times_s"].items())
    console.print(f"{seconds}; the suite takes {baseline['suite_s']} s", highlight=False)
    console.print(f"installed: --packages={','.join(needs['packages'])}", highlight=False, soft_wrap=True)
    for note in package["notes"]:
        console.print(f"note: {note}", highlight=False)


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda kv: -kv[1])) or "-"
