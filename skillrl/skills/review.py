"""Code review: does the candidate change solve the issue? (Reward: sandbox_service/graders/review.py)"""

import re

from skillrl.skills.base import Skill, Submission, prompt_from

PROMPT = """\
Review. {issue}
Does candidate.diff solve this?
{diff}
End with <review>why</review><judgment>YES or NO</judgment>.
"""


def parse_submission(final_text: str) -> Submission:
    """Exactly one verdict counts; none, or two that differ, is no submission."""
    verdicts = set(re.findall(r"<judgment>\s*(YES|NO)\s*</judgment>", final_text))
    reviews = re.findall(r"<review>(.*?)</review>", final_text, re.DOTALL)
    if len(verdicts) != 1:
        return Submission(missing=True)
    return Submission(judgment=verdicts.pop(), review=reviews[-1].strip() if reviews else "")


INPUTS = ("issue", "diff")
SKILL = Skill("review", INPUTS, prompt_from(PROMPT, INPUTS), parse_submission)
