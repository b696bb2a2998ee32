"""The five skills and the composite kinds, by name."""

from skillrl.skills import composite, editing, localization, reproduction, review, unit_tests
from skillrl.skills.base import Skill, Submission
from skillrl.types import COMPOSITE_KINDS, SKILLS

_ALL = {
    skill.name: skill
    for skill in (
        localization.SKILL,
        editing.SKILL,
        unit_tests.SKILL,
        reproduction.SKILL,
        review.SKILL,
        composite.BUG_FIXING,
        composite.REFACTORING,
        composite.SECURITY,
        composite.ML_ENGINEERING,
        composite.TERMINAL,
    )
}


def get_skill(name: str) -> Skill:
    """Raises ValueError naming the known skills."""
    if name not in _ALL:
        raise ValueError(f"unknown skill {name!r}; one of {', '.join((*SKILLS, *COMPOSITE_KINDS))}")
    return _ALL[name]


__all__ = ["Skill", "Submission", "get_skill"]
