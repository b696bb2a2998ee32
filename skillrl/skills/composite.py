"""Composite kinds: whole pieces of work that use several skills at once."""

from skillrl.skills.base import Skill, prompt_from, submit_workspace

BUG_FIXING_PROMPT = """\
Bug fixing. {issue}
Find the fault and fix it in the source. Leave the tests alone. All tests must pass.
"""

BUG_FIXING = Skill("bug_fixing", ("issue",), prompt_from(BUG_FIXING_PROMPT, ("issue",)), submit_workspace)
