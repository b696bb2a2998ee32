r"""Joint GRPO over the five atomic skills, equal shares (method of arXiv:2604.05013, withdrawn; see README).

    python -m skillrl.main --config=configs/joint.py --config.policy.source=hf:DIR --config.tasks.path=DIR --workdir=...

Not yet run at scale: the policies that import today are those in Qwen3's dense layout.
"""

from configs import common


def get_config(arg: str = ""):
    common.parse_arg(arg)
    return common.base_config()
