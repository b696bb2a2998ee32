r"""The whole loop on two CPU cores in minutes: joint GRPO over the five skills on the generated world, level 0.

    make demo                                                    # the same, with all set-up
    python -m skillrl.main --config=configs/tiny.py --workdir=runs/demo
    python -m skillrl.main --config=configs/tiny.py --config.tasks.source=DIR --workdir=runs/real    # on real packages

Starts from the small base policy in assets/base (made by configs/sft.py; provenance beside it). Measured results
stand in the README next to the command.
"""

from configs import common


def get_config(arg: str = ""):
    """`:smoke` cuts everything to a few seconds, for tests of the loop itself."""
    arg = common.parse_arg(arg, smoke=False)
    c = common.base_config()
    c.num_steps = 2 if arg.smoke else 36
    c.policy.source = "hf:assets/base"
    c.world.update(
        dict(train=8, heldout_repositories=2, heldout_families=1)
        if arg.smoke
        else dict(train=200, heldout_repositories=80, heldout_families=8)
    )
    c.rollout.update(
        dict(
            groups_per_step=5 if arg.smoke else 15,
            group_size=4 if arg.smoke else 8,
            rows=32 if arg.smoke else 128,
            max_tokens=512,
            # The world's prompts have at most 120 tokens; those of real packages ask for a larger budget.
            room_tokens=256,
            max_turns=6,
            max_observation_tokens=128,
            wall_s=120.0,
            exec_timeout_s=10.0,
            refill=0.0 if arg.smoke else 0.34,
        )
    )
    # With mean-centred advantages, localization's rewards (+1 or -1) would weigh twice as much as the others'.
    c.advantages.estimator = "std"
    # Measured with an earlier base: 5e-4 teaches localization in a few steps and unlearns editing and unit tests.
    c.learner.update(dict(learning_rate=2.5e-4, warmup_steps=2))
    c.packing.row_tokens = 512
    c.eval.samples = 1 if arg.smoke else 3
    c.checkpoint.every_steps = 1 if arg.smoke else 5
    return c
