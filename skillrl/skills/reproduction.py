"""Issue reproduction: a test that fails because of the issue and passes once it is fixed.

(Reward: sandbox_service/graders/reproduction.py)
"""

from skillrl.skills.base import Skill, prompt_from, submit_workspace

PROMPT = """\
Reproduction. {issue}
Write pytest tests in {submission_path} that fail because of this and pass once it is fixed. Fix nothing.
"""

INPUTS = ("issue", "submission_path")
SKILL = Skill("reproduction", INPUTS, prompt_from(PROMPT, INPUTS), submit_workspace)
