"""What the proof of a task set saw, of each skill and of each task that failed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from sandbox_service.tasks import Validation


@dataclass
class SkillReport:
    """What was seen of one skill."""

    tasks: int = 0
    gold_max: int = 0
    null_min: int = 0
    # Trivial policy -> its rewards.
    trivial: dict[str, list[float]] = field(default_factory=dict)
    # Attack -> how often it was tried, and how often it got the minimum.
    attacks: Counter = field(default_factory=Counter)
    attacks_min: Counter = field(default_factory=Counter)
    # Of gold submissions: the share of tests that are held to right and to wrong expectations (see graders/mixed.py).
    held_both_ways: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Report:
    skills: dict[str, SkillReport] = field(default_factory=dict)
    # Task id -> what went wrong.
    failures: dict[str, list[str]] = field(default_factory=dict)
    validations: list[Validation] = field(default_factory=list)
    wall_s: float = 0.0

    def fail(self, task_id: str, reason: str) -> None:
        self.failures.setdefault(task_id, []).append(reason)

    def as_json(self) -> dict:
        skills = {
            name: {
                "tasks": s.tasks,
                "gold_max": s.gold_max,
                "null_min": s.null_min,
                "trivial": {policy: _mean(r) for policy, r in s.trivial.items()},
                "attacks": dict(sorted(s.attacks.items())),
                "attacks_min": s.attacks_min.total(),
                **({"held_both_ways": _mean(s.held_both_ways)} if s.held_both_ways else {}),
                "seconds": round(s.seconds, 1),
            }
            for name, s in sorted(self.skills.items())
        }
        return {
            "tasks": sum(s.tasks for s in self.skills.values()),
            "failures": self.failures,
            "skills": skills,
            "wall_s": round(self.wall_s, 1),
        }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 3)


def show(report: Report, console: Console) -> None:
    columns = ("skill", "tasks", "gold max", "null min", "trivial policies (mean reward)", "attacks min", "seconds")
    table = Table(*columns, title="validate")
    for name, s in sorted(report.skills.items()):
        policies = ", ".join(f"{p} {sum(r) / len(r):.2f}" for p, r in s.trivial.items())
        attacks = f"{s.attacks_min.total()} of {s.attacks.total()}"
        table.add_row(name, *map(str, (s.tasks, s.gold_max, s.null_min)), policies, attacks, f"{s.seconds:.1f}")
    console.print(table)
    for task_id, reasons in sorted(report.failures.items()):
        console.print(f"{task_id}: {'; '.join(reasons)}", markup=False, highlight=False, soft_wrap=True)
