"""What a task set's prompts ask of the token budget, told before anything is played."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from ml_collections import ConfigDict

from skillrl import setup, task_sets
from skillrl.limits import ConfigError
from skillrl.skills import get_skill
from skillrl.types import Task

# What a raised budget is a multiple of.
_STEP_TOKENS = 256


def fit_prompts(config: ConfigDict, policy: setup.Policy, tasks: Sequence[Task]) -> tuple[ConfigDict, list[Task]]:
    """The config with a budget that leaves every prompt `rollout.room_tokens`, and the training tasks that fit in it.

    Prints what was raised, and how many tasks of which skill have longer prompts than the budget: those of the
    training set are left out, those of the evaluation are ungradable. Raises ConfigError where none of a skill fits.
    """
    training = task_sets.training_tasks(tasks, config)
    evaluated = task_sets.evaluation_tasks(tasks, config) if config.eval.samples else []
    lengths = {
        task.task_id: len(policy.chat.render_prompt(get_skill(task.skill).make_prompt(task)))
        for task in [*training, *evaluated]
    }
    config = _raised(config, max(lengths.values(), default=0), policy.cfg.max_positions)
    for name, chosen, then in (("training", training, "left out"), ("evaluation", evaluated, "ungradable")):
        _tell_of_long(name, chosen, lengths, config.rollout.max_tokens, then)
    return config, [task for task in training if lengths[task.task_id] < config.rollout.max_tokens]


def _raised(config: ConfigDict, longest: int, positions: int) -> ConfigDict:
    room, budget = config.rollout.room_tokens, config.rollout.max_tokens
    wanted = min(-(-(longest + room) // _STEP_TOKENS) * _STEP_TOKENS, positions)
    if not room or longest + room <= budget or wanted <= budget:
        return config
    print(
        f"the longest prompt has {longest} tokens: rollout.max_tokens is raised from {budget} to {wanted}, which "
        f"leaves rollout.room_tokens={room} or what the policy's {positions} positions allow"
    )
    config = config.copy_and_resolve_references()
    config.rollout.max_tokens = wanted
    config.packing.row_tokens = max(config.packing.row_tokens, wanted)
    return config


def _tell_of_long(name: str, tasks: Sequence[Task], lengths: dict[str, int], budget: int, then: str) -> None:
    by_skill = defaultdict(list)
    for task in tasks:
        by_skill[task.skill].append(task)
    long = Counter(task.skill for task in tasks if lengths[task.task_id] >= budget)
    for skill, count in long.items():
        longest = max(by_skill[skill], key=lambda task: lengths[task.task_id])
        if count == len(by_skill[skill]):
            raise ConfigError(
                f"no {name} task of {skill} has a prompt below rollout.max_tokens={budget}; the longest, of "
                f"{longest.task_id}, has {lengths[longest.task_id]} tokens: raise --config.rollout.max_tokens and "
                "--config.packing.row_tokens above it, or choose another task set"
            )
        print(
            f"{name}: {count} of {len(by_skill[skill])} tasks of {skill} have a prompt of rollout.max_tokens={budget} "
            f"or more, the longest {lengths[longest.task_id]}; they are {then}"
        )
