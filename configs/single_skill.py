r"""One skill alone, for the ablations: everything as in the tiny config, but only `:skill=NAME` is trained.

python -m skillrl.main --config=configs/single_skill.py:skill=editing --workdir=runs/editing
"""

from configs import common, tiny


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, skill="editing", smoke=False)
    c = tiny.get_config("smoke" if arg.smoke else "")
    if arg.skill not in c.skills:
        raise ValueError(f"unknown skill {arg.skill!r}; one of {', '.join(c.skills)}")
    for name in c.skills:
        c.skills[name] = float(name == arg.skill)
    return c
