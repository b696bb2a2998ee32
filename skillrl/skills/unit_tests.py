"""Unit-test generation: tests that pass on correct code and fail on every wrong variant.

(Reward: sandbox_service/graders/unit_tests.py)
"""

from skillrl.skills.base import Skill, prompt_from, submit_workspace

PROMPT = """\
Unit tests. Target: {target}
{contract}
Write pytest tests of the target in {submission_path}. They must pass now and fail on every faulty variant of it.
"""

INPUTS = ("target", "contract", "submission_path")
SKILL = Skill("unit_tests", INPUTS, prompt_from(PROMPT, INPUTS), submit_workspace)
