"""A sandbox of plain dictionaries, and a tokenizer, for tests of the episode alone."""

import asyncio

import pytest

from sandbox_service import sandbox_pb2 as pb
from skillrl.chat import CompactChat
from skillrl.rollout.episode import Budgets
from skillrl.tokenizer import SentencePieceTokenizer
from skillrl.types import Task


class DictSession:
    """Files in a dictionary. bash knows `cat PATH`, `sleep SECONDS`, `die` (the service fails) and echoes the rest."""

    def __init__(self, sandbox, task_id):
        self.sandbox, self.task_id = sandbox, task_id
        self.files = {"a.py": "x - y\n"}
        self.calls = []

    async def exec(self, command, timeout_s):
        await asyncio.sleep(0)
        self.calls.append(("exec", command, timeout_s))
        verb, _, rest = command.partition(" ")
        if verb == "die" or self.sandbox.failures_left > 0:
            self.sandbox.failures_left -= 1
            raise ConnectionError("the service is gone")
        if verb == "wait":  # for the service
            await asyncio.sleep(float(rest))
        if verb == "sleep":
            ran_s = min(float(rest), timeout_s)
            await asyncio.sleep(ran_s)
            return pb.ExecReply(outcome=pb.EXITED if ran_s < timeout_s else pb.TIMEOUT, wall_s=ran_s)
        if verb == "cat" and rest not in self.files:
            return pb.ExecReply(outcome=pb.EXITED, exit_code=1, output=f"cat: {rest}: no such file\n")
        return pb.ExecReply(outcome=pb.EXITED, output=self.files[rest] if verb == "cat" else command)

    async def str_replace(self, command, path, new_text="", old_text=""):
        await asyncio.sleep(0)
        self.calls.append((command, path, new_text, old_text))
        if command == "view":
            return pb.StrReplaceReply(ok=path in self.files, output=self.files.get(path, f"no such file: {path}"))
        if command == "replace" and self.files.get(path, "").count(old_text) != 1:
            return pb.StrReplaceReply(ok=False, output=f"no match in {path}")
        self.files[path] = new_text if command == "create" else self.files[path].replace(old_text, new_text)
        return pb.StrReplaceReply(ok=True, output=f"edited {path}")

    async def score(self, submission, reward_mode):
        await asyncio.sleep(0)
        self.sandbox.scored.append((self.task_id, submission, reward_mode))
        if self.sandbox.reply is not None:
            return self.sandbox.reply
        solved = "x + y" in self.files["a.py"]
        return pb.ScoreReply(graded=True, reward=float(solved), components={"solved": float(solved)})

    async def close(self):
        self.sandbox.open_sessions.discard(self)


class DictSandbox:
    def __init__(self):
        self.sessions, self.open_sessions, self.scored = [], set(), []
        self.failures_left = 0
        self.most_open = 0
        # What every score answers; None: 1 when a.py was repaired, else 0.
        self.reply = None

    async def open(self, task_set, task_id, skill):
        await asyncio.sleep(0)
        session = DictSession(self, task_id)
        self.sessions.append(session)
        self.open_sessions.add(session)
        self.most_open = max(self.most_open, len(self.open_sessions))
        return session


@pytest.fixture
def sandbox():
    return DictSandbox()


@pytest.fixture(scope="session")
def chat(tmp_path_factory):
    texts = ["bash cat a.py\nstr_replace replace view create a.py x - y x + y\n[error: use bash(command)]\n"] * 20
    return CompactChat(SentencePieceTokenizer.train(texts, tmp_path_factory.mktemp("tok") / "t.model", 560))


@pytest.fixture
def budgets():
    return Budgets(max_tokens=1500, max_turns=6, wall_s=20.0, max_observation_tokens=100, exec_timeout_s=5.0)


@pytest.fixture(scope="session")
def make_task():
    return _make_task


def _make_task(number=0, skill="editing"):
    inputs = {
        "issue": "a.py subtracts.", "instruction": "In a.py, add.", "target": "a.py", "contract": "adds",
        "diff": "-x - y\n+x + y", "submission_path": "repro.py",
    }  # fmt: skip
    return Task(f"task-{number}", skill, "i", "r", "f", "train", 0, inputs, task_set="digest")


@pytest.fixture
def task():
    return _make_task()
