"""What an operator sees: metrics, health page, logs; and output by offset, and Kill."""

import asyncio
import contextlib
import json
import logging
import time
import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_support import served, sessions_on

from sandbox_service import logs, sandbox_pb2
from sandbox_service.backends.output import HeadTail, read_kept
from sandbox_service.client import SandboxClient
from sandbox_service.errors import NotFound
from sandbox_service.graders.base import Submission
from sandbox_service.journal import Entry, Journal
from sandbox_service.logs import Event
from sandbox_service.policy import Policy
from sandbox_service.sessions import Sessions


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 60), st.integers(2, 30))
def test_output_by_offset_is_what_was_written(writes, offset, kept):
    whole, log = b"".join(writes), HeadTail(kept)
    for data in writes:
        log.add(data)
    output, omitted = log.result()
    for read in (log.read, lambda at: read_kept(output, omitted, at)):
        at, pieces = offset, []
        while (piece := read(at))[1]:
            assert piece[0] >= at
            assert whole[piece[0] : piece[0] + len(piece[1])] == piece[1]
            at = piece[0] + len(piece[1])
            pieces.append(piece[1])
        assert at == len(whole) or offset >= len(whole)
        if offset == 0:
            assert b"".join(pieces) == output


def on_service(tmp_path, test, **options):
    async def run():
        async with contextlib.AsyncExitStack() as stack:
            address, sessions, _, digest, _ = await stack.enter_async_context(served(tmp_path, **options))
            client = await stack.enter_async_context(SandboxClient(address, "run"))
            await test(client, await client.open(digest, "t-editing", "editing"), sessions)

    asyncio.run(run())


async def read_all(session, request_id, offset=0):
    return [piece async for piece in session.output(request_id, offset)]


def test_output_is_read_while_the_command_runs_and_after(tmp_path):
    async def test(client, session, sessions):
        command = "echo one; until [ -e go ]; do sleep 0.02; done; echo two"
        running = asyncio.create_task(session.exec(command, request_id="r"))
        reading = session.output("r")
        while True:
            try:
                assert await anext(reading) == (0, b"one\n")
                break
            except NotFound:  # the exec has not come yet
                reading = session.output("r")
        assert not running.done()
        await session.exec("touch go")
        assert [piece async for piece in reading] == [(4, b"two\n")]
        assert (await running).output == "one\ntwo\n"
        assert await read_all(session, "r") == [(0, b"one\ntwo\n")]
        assert await read_all(session, "r", 5) == [(5, b"wo\n")]
        assert await read_all(session, "r", 99) == []

    on_service(tmp_path, test)


def test_the_middle_of_a_long_output_is_skipped(tmp_path):
    async def test(client, session, sessions):
        reply = await session.exec("head -c 100000 /dev/zero; echo end", request_id="r")
        (head, tail) = await read_all(session, "r")
        assert (head[0], len(head[1])) == (0, 1 << 15)
        assert tail[0] == (1 << 15) + reply.omitted_bytes and tail[1].endswith(b"end\n")
        assert tail[0] + len(tail[1]) == 100_004

    on_service(tmp_path, test)


def test_kill_ends_a_command_and_its_answer_says_so(tmp_path):
    async def test(client, session, sessions):
        running = asyncio.create_task(session.exec("echo begun; sleep 60", timeout_s=100, request_id="r"))
        waiting = asyncio.create_task(session.exec("sleep 60", timeout_s=100, request_id="w"))
        reading = session.output("r")
        while True:
            try:
                assert (await anext(reading))[1] == b"begun\n"
                break
            except NotFound:
                reading = session.output("r")
        for request_id in ("r", "w", "r", "never came"):
            await session.kill(request_id)
        replies = await asyncio.gather(running, waiting)
        assert [r.outcome for r in replies] == [sandbox_pb2.CANCELLED] * 2
        assert [r.output for r in replies] == ["begun\n", ""]
        # The answer stays the answer.
        again = await session.exec("echo begun; sleep 60", timeout_s=100, request_id="r")
        assert again.outcome == sandbox_pb2.CANCELLED
        assert (await session.exec("echo next")).output == "next\n"

    on_service(tmp_path, test, policy=Policy(max_execs=1))


def test_cancelling_a_call_ends_its_command(tmp_path):
    async def test(client, session, sessions):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.exec("sleep 60", timeout_s=100), 0.5)
        assert sessions.running_execs == 0

    on_service(tmp_path, test)


def test_events_are_counted_and_served(tmp_path):
    prometheus = pytest.importorskip("prometheus_client.parser")
    from sandbox_service.metrics import Metrics, Page

    async def test():
        metrics = Metrics()
        async with sessions_on(tmp_path) as (sessions, _, digest):
            sessions.emit = metrics.emit
            metrics.watch(sessions)
            page = Page(metrics, lambda: sessions.is_accepting, 0)
            try:
                await sessions.open("s", "run", digest, "t-editing", "editing")
                await sessions.exec("s", "1", "true")
                await sessions.exec("s", "2", "false")
                await sessions.score("s", "3", Submission())
                metrics.emit(Event("refused", fields={"error": "Overloaded"}))
                metrics.emit(Event("lost"))

                def get(path):
                    with urllib.request.urlopen(f"http://127.0.0.1:{page.port}{path}", timeout=10) as answer:
                        return answer.read().decode()

                text = await asyncio.to_thread(get, "/metrics")
                assert await asyncio.to_thread(get, "/healthz") == "serving\n"
                sessions.drain()
                with pytest.raises(urllib.error.HTTPError) as caught:
                    await asyncio.to_thread(get, "/healthz")
                assert caught.value.code == 503
                caught.value.close()
            finally:
                page.close()
        return text

    families = prometheus.text_string_to_metric_families(asyncio.run(test()))
    samples = {s.name + "".join(s.labels.values()): s.value for f in families for s in f.samples}
    expected = {
        "sessions_opened_totalediting": 1,
        "execs_totalexited": 2,
        "exec_seconds_count": 2,
        "scores_totalgraded": 1,
        "refused_calls_totalOverloaded": 1,
        "sessions_lost_total": 1,
        "open_sessions": 1,
        "running_execs": 0,
        "load": 1 / Policy().max_sessions,
    }
    assert {name: samples[f"skillrl_sandbox_{name}"] for name in expected} == expected


def test_the_log_is_json_lines_with_ids(tmp_path, capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("debug")

        async def test():
            async with sessions_on(tmp_path) as (sessions, _, digest):
                await sessions.open("s", "run", digest, "t-editing", "editing")
                await sessions.exec("s", "1", "true")
                await sessions.close(["s"])

        asyncio.run(test())
        try:
            raise KeyError("a bug")
        except KeyError:
            logging.getLogger("x").exception("it %s", "failed")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    events = {line["message"]: line for line in lines if line["logger"] == "sandbox_service"}
    for name in ("open", "exec", "close"):
        ids = [events[name][key] for key in ("run_id", "task_id", "session_id")]
        assert ids == ["run", "t-editing", "s"]
        assert abs(events[name]["time"] - time.time()) < 600
    assert (events["exec"]["level"], events["exec"]["outcome"]) == ("DEBUG", "exited")
    assert events["close"]["ending"] == "was closed"
    assert "KeyError: 'a bug'" in lines[-1]["traceback"] and lines[-1]["message"] == "it failed"


def test_what_a_dead_service_held_is_known_to_the_next_one(tmp_path):
    folder = tmp_path / "journal"
    dead = Journal(folder, "dead")
    dead.opening(Entry("lost", "run", "t-editing", 1.0))
    dead._file.close()
    told = []

    async def test():
        async with sessions_on(tmp_path) as (first, backend, digest):
            task_sets = first.task_sets.values()
            second = Sessions(backend, first._trees, task_sets, None, journal_dir=folder, emit=told.append)
            second.accept()
            with pytest.raises(NotFound, match="was lost when the service restarted; open a new one"):
                await second.exec("lost", "r", "true")
            await second.open("new", "run", digest, "t-editing", "editing")
            assert "new" in next(folder.iterdir()).read_text()
            await second.stop()

    asyncio.run(test())
    assert [(e.name, e.session_id, e.run_id) for e in told][:2] == [("lost", "lost", "run"), ("open", "new", "run")]
    assert list(folder.iterdir()) == []
