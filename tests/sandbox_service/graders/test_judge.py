"""The judge's opinion is a component, and may lower a reward but never raise one."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import shelf
from desk import Desk

from sandbox_service.__main__ import parse
from sandbox_service.errors import BadRequest
from sandbox_service.graders.base import Grade
from sandbox_service.graders.judge import Judge

TASK = "shelf-limit-reproduction"
TEST = {shelf.REPRODUCTION_PATH: "from shelf import discount\n\n\ndef test_it():\n    assert discount(100, 10) == 90\n"}


@contextlib.contextmanager
def model(answer: bytes, status: int = 200):
    """A server that always answers the same; gives its address and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", asked
        finally:
            server.shutdown()
            thread.join()


def says(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def judged(desk: Desk, judge: Judge, given: Grade, task_id: str = TASK) -> Grade:
    async def grade(request):
        return given

    return desk.loop.run(judge.over(grade)(desk.request(task_id, TEST)))


@pytest.mark.parametrize(
    ("answer", "lowers", "reward", "answered", "agrees"),
    [
        ("YES", True, 1.0, 1.0, 1.0),
        ("yes.", True, 1.0, 1.0, 1.0),
        ("No, it reads the source.", True, 0.0, 1.0, 0.0),
        ("NO", False, 1.0, 1.0, 0.0),
        ("I cannot tell", True, 1.0, 0.0, 1.0),
        ("", True, 1.0, 0.0, 1.0),
    ],
)
def test_only_a_clear_no_lowers_and_only_where_it_may(desk, answer, lowers, reward, answered, agrees):
    with model(says(answer)) as (url, asked):
        grade = judged(desk, Judge(url, "m", key="k", lowers=lowers), Grade(1.0, {"shows_bug": 1.0}))
    assert grade.reward == reward
    assert grade.components == {"shows_bug": 1.0, "judge_answered": answered, "judge_agrees": agrees}
    ((path, key, body),) = asked
    assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer k", "m", 0)
    assert "discount(100, 10) == 90" in body["messages"][0]["content"]


def test_it_is_asked_about_rewarded_reproductions_alone(desk):
    with model(says("YES")) as (url, asked):
        judge = Judge(url, "m", lowers=True)
        nothing, lost = Grade(0.0), Grade(None, reason="infra")
        assert judged(desk, judge, nothing) is nothing and judged(desk, judge, lost) is lost
        fixed = Grade(1.0)
        assert judged(desk, judge, fixed, "shelf-limit-editing") is fixed
    assert asked == []


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"\xff"]
)
def test_a_broken_answer_changes_nothing(desk, answer):
    with model(answer) as (url, _):
        grade = judged(desk, Judge(url, "m", lowers=True), Grade(1.0))
    assert (grade.reward, grade.components["judge_answered"]) == (1.0, 0.0)


def test_no_answer_changes_nothing(desk):
    with model(says("NO"), status=500) as (url, _):
        assert judged(desk, Judge(url, "m", lowers=True), Grade(1.0)).reward == 1.0
    grade = judged(desk, Judge(url, "m", lowers=True), Grade(1.0))  # the server is gone
    assert (grade.reward, grade.reason, grade.components["judge_answered"]) == (1.0, None, 0.0)


def test_it_is_off_unless_it_is_named():
    assert parse(["--tasks=x"]).judge_url == ""
    with pytest.raises(BadRequest, match="--judge-model"):
        Judge("http://127.0.0.1:1/v1", "")
    with pytest.raises(BadRequest, match="http://"):
        Judge("localhost:8000", "m")
