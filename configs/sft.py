r"""Makes the base policy in assets/base: copies first, then proven scripted trajectories of the world.

    python -m skillrl.main --config=configs/sft.py --workdir=runs/base    # about an hour on two CPU cores

Stages: (1) scripted agents, careful and hasty, solve level-0 training tasks in real sandboxes, and only trajectories
that earned the maximal reward are kept; (2) a SentencePiece tokenizer is trained on them; (3) warm-up on repeated
random sequences, because a small decoder learns to copy far sooner that way; (4) supervised steps on the kept
trajectories, names permuted consistently from epoch to epoch.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, smoke=False)
    c = common.base_config()
    c.program = "sft"
    c.policy.source = "init:tiny"
    c.world.update(dict(seed=1, train=16 if arg.smoke else 300, heldout_repositories=0, heldout_families=0))
    c.sft.update(dict(warmup_tokens=0 if arg.smoke else 2_000_000, episodes_per_step=12 if arg.smoke else 36))
    c.num_steps = 4 if arg.smoke else 3000
    c.loss.loss = "sft"
    c.rollout.update(dict(max_tokens=512, max_turns=6, max_observation_tokens=128, wall_s=120.0, exec_timeout_s=10.0))
    c.packing.update(dict(row_tokens=512, rows=8))
    c.learner.update(dict(learning_rate=3e-3, warmup_steps=50, weight_decay=0.01, micro_rows=8))
    c.checkpoint.every_steps = 200
    return c
