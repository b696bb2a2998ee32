"""Composite kinds: whole pieces of work that use several skills at once."""

from skillrl.skills.base import Skill, prompt_from, submit_workspace

BUG_FIXING_PROMPT = """\
Bug fixing. {issue}
Find the fault and fix it in the source. Leave the tests alone. All tests must pass.
"""

# The instruction says all: what to do, where to hand it in and what it is measured by.
TASK_PROMPTS = {
    "refactoring": """\
Refactoring. {instruction}
The program must still do all that it does.
""",
    "security": """\
Security. {instruction}
""",
    "ml_engineering": """\
Machine learning. {instruction}
""",
    "terminal": """\
Terminal. {instruction}
""",
}

REFACTORING, SECURITY, ML_ENGINEERING, TERMINAL = (
    Skill(name, ("instruction",), prompt_from(prompt, ("instruction",)), submit_workspace)
    for name, prompt in TASK_PROMPTS.items()
)
BUG_FIXING = Skill("bug_fixing", ("issue",), prompt_from(BUG_FIXING_PROMPT, ("issue",)), submit_workspace)
