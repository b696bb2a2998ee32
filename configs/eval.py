r"""Avg@3 with its standard error of any checkpoint, or of any OpenAI-compatible endpoint, on any suite.

    python -m skillrl.main --config=configs/eval.py:suite=bug_fixing,tiny --workdir=runs/eval-base
    python -m skillrl.main --config=configs/eval.py:suite=all --config.policy.source=hf:DIR --workdir=...
    python -m skillrl.main --config=configs/eval.py:suite=heldout_repositories,tiny \
        --config.policy.source=run:runs/demo@20 --workdir=...
    python -m skillrl.main --config=configs/eval.py:suite=terminal \
        --config.endpoint.url=http://localhost:8000/v1 --config.endpoint.model=NAME --workdir=...

docs/evaluation.md has the suites, the figures and measured output.
"""

from configs import common, tiny
from skillrl.evaluate import EXAM_SUITES


def get_config(arg: str = ""):
    """`:suite=NAME` is one of EXAM_SUITES; `tiny` takes the budgets that the small base policy was trained with."""
    arg = common.parse_arg(arg, suite="all", tiny=False)
    if arg.suite not in EXAM_SUITES:
        raise ValueError(f"unknown suite {arg.suite!r}; one of {', '.join(EXAM_SUITES)}")
    c = common.base_config()
    c.program = "exam"
    c.policy.source = "hf:assets/base"
    c.world.update(dict(train=0, heldout_repositories=40, heldout_families=8))
    c.eval.suites = (arg.suite,)
    if arg.tiny:
        limits = ("max_tokens", "max_turns", "max_observation_tokens", "wall_s", "exec_timeout_s")
        c.rollout.update({name: tiny.get_config().rollout[name] for name in ("rows", *limits)})
    else:
        c.rollout.update(dict(rows=64, cache_tokens=1 << 19))
    return c
