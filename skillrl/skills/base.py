"""What a skill is on the trainer's side: a prompt and a parser. Its reward lives in `sandbox_service/graders`."""

from collections.abc import Callable
from dataclasses import dataclass

from skillrl.types import Task


@dataclass(frozen=True)
class Submission:
    """What the agent's final message hands in. Trees and files are read from the workspace by the service."""

    files: tuple[str, ...] = ()
    judgment: str = ""
    review: str = ""
    # True when the final message lacks what the skill's format asks for.
    missing: bool = False


@dataclass(frozen=True)
class Skill:
    """One skill or composite kind.

    `inputs` are the keys of `Task.inputs` that the prompt needs; `reward_range` is (minimum, maximum) of the paper's
    reward, used to report every skill as a score in [0, 1].
    """

    name: str
    inputs: tuple[str, ...]
    make_prompt: Callable[[Task], str]
    parse_submission: Callable[[str], Submission]
    reward_range: tuple[float, float] = (0.0, 1.0)

    def score(self, reward: float) -> float:
        """The reward on a scale from 0 (minimum) to 1 (maximum)."""
        low, high = self.reward_range
        return (reward - low) / (high - low)


def prompt_from(template: str, inputs: tuple[str, ...]) -> Callable[[Task], str]:
    """Fills `template` with the task's inputs. Raises ValueError naming the task when one is missing."""

    def make_prompt(task: Task) -> str:
        absent = [name for name in inputs if name not in task.inputs]
        if absent:
            raise ValueError(f"task {task.task_id} ({task.skill}) has no input {absent[0]!r}; rebuild its task set")
        return template.format(**{name: task.inputs[name] for name in inputs})

    return make_prompt


def submit_workspace(final_text: str) -> Submission:
    """For skills whose submission is the workspace itself: any final message will do."""
    return Submission()
