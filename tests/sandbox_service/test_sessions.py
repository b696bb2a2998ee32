"""Sessions without gRPC: ids, leases, limits, faults."""

import asyncio

import pytest
from service_support import pass_all, sessions_on

from sandbox_service.backends.base import Ended
from sandbox_service.errors import BadRequest, Draining, IdReused, NotFound, Overloaded, SandboxError, TaskSetError
from sandbox_service.graders.base import Submission, TaskFault
from sandbox_service.policy import Policy
from sandbox_service.str_replace import Command, Edit

SMALL = Policy(max_sessions=2, max_execs=1, max_waiting=1, exec_wait_s=0.2)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def opened(sessions, digest, session_id="s", run_id="run", ttl_s=0.0) -> float:
    return await sessions.open(session_id, run_id, digest, "t-editing", "editing", ttl_s)


def on_sessions(tmp_path, test, **options):
    """Runs the coroutine function `test(sessions, backend, digest)`."""

    async def run():
        async with sessions_on(tmp_path, **options) as (sessions, backend, digest):
            await test(sessions, backend, digest)

    asyncio.run(run())


def test_workspace_shows_the_visible_tree(tmp_path):
    async def test(sessions, backend, digest):
        assert await opened(sessions, digest) == 600
        result = await sessions.exec("s", "r", "cat pkg/core.py; exit 3")
        assert (result.ended, result.exit_code) == (Ended.EXITED, 3)
        assert b"return 3 * x" in result.output

    on_sessions(tmp_path, test)


def test_same_request_runs_once_even_at_the_same_time(tmp_path):
    async def test(sessions, backend, digest):
        await asyncio.gather(*[opened(sessions, digest) for _ in range(5)])
        assert len(backend.workspaces) == 1
        command = "sleep 0.1; echo x >> log; wc -l < log"
        results = await asyncio.gather(*[sessions.exec("s", "r", command) for _ in range(5)])
        results.append(await sessions.exec("s", "r", command))
        assert {r.output for r in results} == {b"1\n"}
        assert (await sessions.exec("s", "r2", command)).output == b"2\n"

    on_sessions(tmp_path, test)


def test_a_lost_caller_does_not_stop_the_run_and_can_come_back(tmp_path):
    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        call = asyncio.create_task(sessions.exec("s", "r", "echo x >> log; sleep 0.3; cat log"))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await sessions.exec("s", "r", "echo x >> log; sleep 0.3; cat log")).output == b"x\n"
        assert len(backend.workspaces[0].runs) == 1

    on_sessions(tmp_path, test)


def test_an_id_with_another_request_is_refused(tmp_path):
    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        with pytest.raises(IdReused, match="different request"):
            await opened(sessions, digest, run_id="other")
        await sessions.exec("s", "r", "true")
        with pytest.raises(IdReused, match="other contents"):
            await sessions.exec("s", "r", "false")
        with pytest.raises(IdReused, match="other contents"):
            await sessions.str_replace("s", "r", Edit(Command.VIEW, "."))
        await sessions.close(["s"])
        with pytest.raises(IdReused, match="was closed"):
            await opened(sessions, digest)

    on_sessions(tmp_path, test)


def test_old_answers_are_dropped_but_never_run_again(tmp_path):
    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        for i in range(5):
            await sessions.exec("s", str(i), "true")
        assert (await sessions.exec("s", "4", "true")).exit_code == 0
        with pytest.raises(IdReused, match="long ago"):
            await sessions.exec("s", "0", "true")
        assert len(backend.workspaces[0].runs) == 5

    on_sessions(tmp_path, test, policy=Policy(answers_kept=3))


def test_a_close_that_hangs_holds_up_no_other_lease(tmp_path):
    clock = Clock()

    async def test(sessions, backend, digest):
        hanging = asyncio.Event()

        async def never():
            await hanging.wait()

        await opened(sessions, digest, "first", ttl_s=10)
        await opened(sessions, digest, "second", ttl_s=20)
        backend.workspaces[0].close = never
        upkeep = asyncio.create_task(sessions.keep_expiring(0.01))
        clock.now = 11
        await asyncio.sleep(0.05)
        clock.now = 21
        await asyncio.sleep(0.1)
        assert backend.workspaces[1].closed and len(sessions) == 0
        upkeep.cancel()
        hanging.set()

    on_sessions(tmp_path, test, clock=clock)


def test_lease_expires_and_the_error_names_the_remedy(tmp_path):
    clock = Clock()

    async def test(sessions, backend, digest):
        assert await opened(sessions, digest, ttl_s=100) == 100
        clock.now = 99
        assert sessions.expire() == 0
        await sessions.exec("s", "r", "true")  # a call renews
        clock.now = 198
        assert sessions.renew(["s", "unknown"]) == ["unknown"]
        clock.now = 297
        assert sessions.expire() == 0
        clock.now = 298
        with pytest.raises(NotFound, match="expired; open a new one"):
            await sessions.exec("s", "r2", "true")
        assert sessions.expire() == 1
        await asyncio.sleep(0.05)
        assert backend.workspaces[0].closed
        with pytest.raises(NotFound, match="expired; open a new one"):
            await sessions.exec("s", "r2", "true")
        assert sessions.renew(["s"]) == ["s"]
        with pytest.raises(IdReused, match="expired"):
            await opened(sessions, digest, ttl_s=100)

    on_sessions(tmp_path, test, clock=clock)


def test_no_renewal_goes_beyond_the_lifetime(tmp_path):
    clock = Clock()

    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        for clock.now in range(0, 14400, 300):
            assert sessions.renew(["s"], 3600) == []
        clock.now = 14400
        assert sessions.renew(["s"]) == ["s"]

    on_sessions(tmp_path, test, clock=clock)


def test_close_is_idempotent_and_keeps_to_its_run(tmp_path):
    async def test(sessions, backend, digest):
        for name, run in (("a", "one"), ("b", "one"), ("c", "two")):
            await opened(sessions, digest, name, run)
        assert await sessions.close(["c"], "one") == 0
        assert await sessions.close(["a", "a", "gone"], "one") == 1
        assert await sessions.close(["a"]) == 0
        assert await sessions.close(run_id="one") == 1
        assert len(sessions) == 1
        with pytest.raises(BadRequest):
            await sessions.close()

    on_sessions(tmp_path, test)


def test_close_ends_a_running_command(tmp_path):
    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        call = asyncio.create_task(sessions.exec("s", "r", "sleep 60"))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            assert await sessions.close(["s"]) == 1
            with pytest.raises(NotFound, match="closed during the call"):
                await call
        assert not backend.workspaces[0].folder.exists()

    on_sessions(tmp_path, test)


def test_close_during_open_leaves_nothing(tmp_path):
    async def test(sessions, backend, digest):
        opening = asyncio.create_task(opened(sessions, digest))
        await asyncio.sleep(0)
        assert await sessions.close(["s"]) == 1
        with pytest.raises(NotFound):
            await opening
        assert all(w.closed for w in backend.workspaces)

    on_sessions(tmp_path, test)


def test_too_many_sessions_or_commands_are_overload(tmp_path):
    async def test(sessions, backend, digest):
        await opened(sessions, digest, "a")
        await opened(sessions, digest, "b")
        with pytest.raises(Overloaded, match="--max-sessions"):
            await opened(sessions, digest, "c")
        running = asyncio.create_task(sessions.exec("a", "1", "sleep 0.5"))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(sessions.exec("a", "2", "true"))
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):  # the queue is full
            await sessions.exec("b", "3", "echo later")
        with pytest.raises(Overloaded):  # waited for 0.2 s
            await waiting
        await running
        # What was refused has not run, so its id may try again.
        assert (await sessions.exec("b", "3", "echo later")).output == b"later\n"
        await sessions.close(["a"])
        await opened(sessions, digest, "c")

    on_sessions(tmp_path, test, policy=SMALL)


def test_timeouts_are_clamped(tmp_path):
    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        assert (await sessions.exec("s", "1", "sleep 60")).ended is Ended.TIMEOUT
        assert (await sessions.exec("s", "2", "sleep 60", 0.1)).ended is Ended.TIMEOUT
        for bad in (-1.0, float("nan"), float("inf")):
            with pytest.raises(BadRequest, match="timeout_s"):
                await sessions.exec("s", f"b{bad}", "true", bad)

    on_sessions(tmp_path, test, policy=Policy(exec_default_s=0.3, exec_max_s=0.2))


@pytest.mark.parametrize(("command", "reason"), [("echo a\0b", "NUL"), ("x" * 200_000, "too long")])
def test_a_command_that_cannot_start_is_an_answer(tmp_path, command, reason):
    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        result = await sessions.exec("s", "r", command)
        assert (result.ended, result.exit_code) == (Ended.EXITED, 126)
        assert reason in result.output.decode()

    on_sessions(tmp_path, test)


def test_bad_opens_name_the_remedy(tmp_path):
    async def test(sessions, backend, digest):
        with pytest.raises(NotFound, match="--tasks=DIR"):
            await sessions.open("s", "run", "0" * 64, "t-editing", "editing")
        with pytest.raises(NotFound, match="not in task set"):
            await sessions.open("s", "run", digest, "nope", "editing")
        with pytest.raises(BadRequest, match="skill 'editing'"):
            await sessions.open("s", "run", digest, "t-editing", "review")
        with pytest.raises(BadRequest, match="must not be empty"):
            await sessions.open("s", "", digest, "t-editing", "editing")
        with pytest.raises(NotFound, match="is unknown here"):
            await sessions.exec("s", "r", "true")
        assert len(sessions) == 0

    on_sessions(tmp_path, test)


def test_score_sees_the_change_and_is_graded_once(tmp_path):
    calls = []

    async def grade(request):
        calls.append(request)
        return await pass_all(request)

    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        await sessions.str_replace("s", "e", Edit(Command.REPLACE, "pkg/core.py", "2 * x", "3 * x"))
        first = await sessions.score("s", "r", Submission(files=("a",)))
        assert (first.reward, first.detail) == (1.0, "pkg/core.py")
        assert await sessions.score("s", "r", Submission(files=("a",))) is first
        assert len(calls) == 1
        assert calls[0].submission == Submission(files=("a",))
        assert calls[0].reward_mode == "paper"
        with pytest.raises(BadRequest, match="paper, shaped"):
            await sessions.score("s", "r2", Submission(), "generous")

    on_sessions(tmp_path, test, grade=grade)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZeroDivisionError("bug"), "grader"),
        (SandboxError("host"), "infra"),
        (TaskSetError("damaged"), "task"),
        (TaskFault("wrong"), "task"),
    ],
)
def test_a_fault_in_grading_is_ungradable(tmp_path, error, reason):
    async def grade(request):
        raise error

    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        result = await sessions.score("s", "r", Submission())
        assert (result.reward, result.reason) == (None, reason)
        assert str(error) in result.detail

    on_sessions(tmp_path, test, grade=grade)


def test_a_change_too_large_is_graded_as_no_change(tmp_path):
    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        backend.workspaces[0].big = True
        result = await sessions.score("s", "r", Submission())
        assert result.reward == 1.0
        assert result.components["changed"] == 0
        assert "larger than" in result.detail

    on_sessions(tmp_path, test)


def test_draining_refuses_new_calls(tmp_path):
    async def test(sessions, backend, digest):
        await opened(sessions, digest)
        sessions.drain()
        with pytest.raises(Draining):
            await sessions.exec("s", "r", "true")
        with pytest.raises(Draining):
            await opened(sessions, digest, "t")
        assert await sessions.close(["s"]) == 1

    on_sessions(tmp_path, test)
