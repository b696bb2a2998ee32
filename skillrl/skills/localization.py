"""Code localization: name the source files that the fix must change.

(Reward: sandbox_service/graders/localization.py)
"""

import re

from skillrl.skills.base import Skill, Submission, prompt_from

PROMPT = """\
Localization. {issue}
Which source files must change? Change nothing. End with one path a line in <files></files>.
"""


def parse_submission(final_text: str) -> Submission:
    """The paths of the last <files> block."""
    blocks = re.findall(r"<files>(.*?)</files>", final_text, re.DOTALL)
    paths = tuple(line.strip() for line in blocks[-1].splitlines() if line.strip()) if blocks else ()
    return Submission(files=paths, missing=not paths)


INPUTS = ("issue",)
SKILL = Skill("localization", INPUTS, prompt_from(PROMPT, INPUTS), parse_submission, reward_range=(-1.0, 1.0))
