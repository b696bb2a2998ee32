"""What a config must hold before anything runs: known names, and numbers in their range."""

from ml_collections import ConfigDict

from skillrl.chat import FORMATS
from skillrl.models.cache import CACHE_DTYPES
from skillrl.models.quantised import WEIGHTS_DTYPES
from skillrl.rl.advantages import ESTIMATORS
from skillrl.rl.outcomes import TRUNCATION_POLICIES
from skillrl.rl.packing import DENOMINATORS
from skillrl.rollout.tools import MIN_OBSERVATION_TOKENS
from skillrl.types import COMPOSITE_KINDS

# Of the service's Score.
REWARD_MODES = ("paper", "shaped")

CHOICES = {
    "reward.mode": REWARD_MODES,
    "reward.truncated": TRUNCATION_POLICIES,
    "advantages.estimator": ESTIMATORS,
    "packing.denominator": DENOMINATORS,
    "policy.chat": ("", *FORMATS),
    "rollout.cache_dtype": CACHE_DTYPES,
    "rollout.weights_dtype": WEIGHTS_DTYPES,
}
# The smallest value of a number.
LEAST = {
    "num_steps": 0,
    "world.train": 0,
    "world.heldout_repositories": 0,
    "world.heldout_families": 0,
    "rollout.groups_per_step": 1,
    # A group of one has nothing to be compared with: its advantage is always 0.
    "rollout.group_size": 2,
    "rollout.rows": 1,
    "rollout.cache_tokens": 0,
    "rollout.replica_chips": 0,
    "rollout.max_tokens": 2,
    "rollout.room_tokens": 0,
    "rollout.max_turns": 1,
    "rollout.max_observation_tokens": MIN_OBSERVATION_TOKENS,
    "rollout.refill": 0,
    "loss.kl_coef": 0,
    "learner.learning_rate": 0,
    "learner.warmup_steps": 0,
    "learner.weight_decay": 0,
    "learner.micro_rows": 1,
    "learner.epochs": 1,
    "learner.logprob_chunk": 1,
    "learner.lora_rank": 0,
    "packing.row_tokens": 2,
    "packing.rows": 0,
    "sandbox.max_in_flight": 1,
    "sandbox.max_infra_share": 0,
    "sandbox.max_outage_s": 0,
    "checkpoint.every_steps": 0,
    "checkpoint.keep": 1,
    "eval.every_steps": 0,
    "eval.samples": 0,
    "eval.temperature": 0,
    "eval.max_tasks": 0,
    "composite.instances": 1,
    "sft.careful_share": 0,
    "sft.warmup_tokens": 0,
    "sft.vocab_size": 1,
    "sft.episodes_per_step": 1,
}
# Divisors, and times in which something must happen.
ABOVE_ZERO = (
    *("rollout.temperature", "rollout.wall_s", "rollout.exec_timeout_s"),
    *("learner.max_grad_norm", "learner.lora_alpha", "endpoint.timeout_s"),
)
SHARES = ("sandbox.max_infra_share", "sft.careful_share")


class ConfigError(ValueError):
    """A config that cannot be run; the message names the field and the remedy."""


def check(config: ConfigDict) -> None:
    """Raises ConfigError for what would otherwise be noticed only after episodes were played."""
    for name, known in CHOICES.items():
        if (value := _field(config, name)) not in known:
            raise ConfigError(f"{name}={value!r}; one of {', '.join(known)}")
    if unknown := set(config.tasks.kinds) - set(COMPOSITE_KINDS):
        raise ConfigError(f"tasks.kinds has {sorted(unknown)}; known are {', '.join(COMPOSITE_KINDS)}")
    # Each asks for what is wanted: nothing is that of NaN.
    for name, least in LEAST.items():
        if not (value := _field(config, name)) >= least:
            raise ConfigError(f"{name}={value}; give at least {least}")
    for name in ABOVE_ZERO:
        if not (value := _field(config, name)) > 0:
            raise ConfigError(f"{name}={value}; give a number above 0")
    for name in SHARES:
        if not (value := _field(config, name)) <= 1:
            raise ConfigError(f"{name}={value} is a share; give at most 1")
    if config.program != "exam" and config.packing.row_tokens < config.rollout.max_tokens:
        raise ConfigError(
            f"an episode of rollout.max_tokens={config.rollout.max_tokens} does not fit into a row of "
            f"packing.row_tokens={config.packing.row_tokens}; raise --config.packing.row_tokens"
        )
    if config.program == "sft":
        if config.loss.kl_coef:
            raise ConfigError(
                f"loss.kl_coef={config.loss.kl_coef}: supervised learning has no reference policy; give 0"
            )
        if config.sft.warmup_tokens and not config.packing.rows:
            raise ConfigError("packing.rows=0, which the warm-up's rows are; give at least 1, or sft.warmup_tokens=0")


def is_due(step: int, *every: int) -> bool:
    """Whether `step` ends one of these intervals; 0 is an interval without end."""
    return step > 0 and any(n > 0 and step % n == 0 for n in every)


def _field(config: ConfigDict, name: str) -> object:
    section, _, key = name.rpartition(".")
    return config[section][key] if section else config[key]
