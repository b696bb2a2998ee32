"""A real HTTP server that speaks the chat-completions protocol and says what a test tells it to."""

import contextlib
import json
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from skillrl.chat import Final, ToolCall
from skillrl.chat.plain import PlainChat
from skillrl.skills import get_skill
from skillrl.tasks.submissions import Handed
from skillrl.types import Task


@dataclass(frozen=True)
class Answer:
    """What the server sends: `body` as it is, or `content` as a chat completion."""

    content: str | None = ""
    finish_reason: str = "stop"
    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    # Further fields of the message.
    message: Mapping[str, object] = field(default_factory=dict)
    # Ends the connection without an answer.
    cut: bool = False

    def bytes(self) -> bytes:
        if self.body is not None:
            return self.body
        message = {"role": "assistant", "content": self.content, **self.message}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    # Python's 5 are fewer than the agents that connect at one moment; the kernel resets the others.
    request_queue_size = 128


@dataclass
class ChatServer:
    url: str
    # Bodies and headers of the requests, in the order in which they came.
    requests: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)


@contextlib.contextmanager
def chat_server(answer: Callable[[dict], Answer]) -> Iterator[ChatServer]:
    """`answer` gets each request's body, in a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.requests.append(body)
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
            said = answer(body) if self.path == "/v1/chat/completions" else Answer(status=404, body=b"no such path")
            if said.cut:
                self.close_connection = True
                return
            # Whoever gave up waiting is gone.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.bytes())))
                self.end_headers()
                self.wfile.write(said.bytes())

        def log_message(self, *args):
            pass

    lock = threading.Lock()
    http = _Listener(("127.0.0.1", 0), Handler)
    server = ChatServer(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def written(action: ToolCall | Final) -> str:
    """An action as a model writes it."""
    chat = PlainChat()
    return chat.tokenizer.decode(chat.encode_assistant(action)[:-1])


def replies(task: Task, handed: Handed) -> list[str]:
    """What a model says, turn by turn, to hand in a submission."""
    turns = [
        written(
            ToolCall("bash", (f"rm -- {shlex.quote(path)}",))
            if data is None
            else ToolCall("str_replace", ("create", path, text))
        )
        for path, data in handed.changed.items()
        for text in [(data or b"").decode()]
    ]
    final = "Done."
    if task.skill == "localization":
        final = "<files>\n" + "\n".join(handed.submission.files) + "\n</files>"
    elif task.skill == "review":
        final = f"<review>{handed.submission.review}</review><judgment>{handed.submission.judgment}</judgment>"
    return [*turns, final]


class Model:
    """Knows what to say, turn by turn, for each task's prompt; says OK to everything else."""

    def __init__(self, plans: Iterable[tuple[Task, list[str]]]):
        self._plans = {get_skill(task.skill).make_prompt(task): plan for task, plan in plans}

    def knows(self, body: dict) -> bool:
        return len(body["messages"]) > 1 and body["messages"][1]["content"] in self._plans

    def forget(self) -> None:
        self._plans.clear()

    def __call__(self, body: dict) -> Answer:
        if not self.knows(body):
            return Answer("OK")
        plan = self._plans[body["messages"][1]["content"]]
        said = sum(message["role"] == "assistant" for message in body["messages"])
        return Answer(plan[min(said, len(plan) - 1)])
