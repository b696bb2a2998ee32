"""A skill is two files tied by its name: prompt and parser here, reward in the service. They must agree."""

from sandbox_service import graders, sandbox_pb2, sessions, tasks
from sandbox_service.graders.base import Submission as GradedSubmission
from skillrl import limits
from skillrl.rollout.sandbox import submission_message
from skillrl.rollout.tools import _ARGUMENTS
from skillrl.skills import Submission, get_skill
from skillrl.tasks import source
from skillrl.tasks.validate import REWARDS
from skillrl.types import COMPOSITE_KINDS, SKILLS, UNGRADABLE_REASONS, Task


def field_names(message) -> set[str]:
    return {field.name for field in message.DESCRIPTOR.fields}


def test_every_skill_has_its_grader_and_no_grader_is_without_skill():
    assert set(SKILLS) | set(COMPOSITE_KINDS) == set(graders._GRADERS)
    assert [get_skill(name).name for name in SKILLS + COMPOSITE_KINDS] == list(SKILLS + COMPOSITE_KINDS)


def test_every_prompt_uses_exactly_the_inputs_of_the_records():
    for name in SKILLS + COMPOSITE_KINDS:
        assert set(get_skill(name).inputs) == source.INPUTS[name]
        inputs = {key: f"<{key} of the task>" for key in source.INPUTS[name]}
        prompt = get_skill(name).make_prompt(Task("t", name, "i", "r", "f", "train", 0, inputs))
        for value in inputs.values():
            assert value in prompt


def test_rewards_lie_in_the_range_that_scores_are_made_of():
    for name in SKILLS + COMPOSITE_KINDS:
        best, worst = REWARDS.get(name, (1.0, 0.0))
        assert get_skill(name).reward_range == (worst, best)


def test_submissions_have_the_same_fields_on_both_sides():
    mine = Submission(files=("a.py", "b.py"), judgment="YES", review="fine", missing=True)
    message = submission_message(mine)
    assert field_names(message) == set(vars(mine)) == set(vars(GradedSubmission()))
    assert {name: getattr(message, name) for name in vars(mine)} == vars(mine) | {"files": list(mine.files)}


def test_words_of_the_proto_are_those_of_the_trainer():
    commands = sandbox_pb2.StrReplaceRequest.Command.keys()
    assert {c.upper() for c in _ARGUMENTS} == set(commands) - {"COMMAND_UNSPECIFIED"}
    assert {"graded", "reward", "components", "reason", "detail"} <= field_names(sandbox_pb2.ScoreReply())
    assert UNGRADABLE_REASONS == ("infra", "task", "grader")
    assert limits.REWARD_MODES == sessions.REWARD_MODES


def test_both_sides_read_the_same_version_of_task_sets():
    assert source.SCHEMA_VERSION == tasks.SCHEMA_VERSION
