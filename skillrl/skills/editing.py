"""Code editing: carry out an instruction at a given place. (Reward: sandbox_service/graders/editing.py)"""

from skillrl.skills.base import Skill, prompt_from, submit_workspace

PROMPT = """\
Editing. {instruction}
Make this change, change nothing else and leave the tests alone. All tests must pass.
"""

INPUTS = ("instruction",)
SKILL = Skill("editing", INPUTS, prompt_from(PROMPT, INPUTS), submit_workspace)
