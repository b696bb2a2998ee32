"""The client's placement, repeats, breakers and leases over a simulated fleet, with a clock of its own."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest
import virtual_time
from fleet import make_fleet
from service_support import write_task_set

from sandbox_service import sandbox_pb2
from sandbox_service.client import Patience, SandboxClient, ServiceUnreachable
from sandbox_service.errors import NotFound, Overloaded, SandboxError
from sandbox_service.tasks import read_task_set

EXECS = 3


@pytest.fixture(scope="module")
def task_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet") / "tasks"
    write_task_set(folder)
    return read_task_set(folder)


def client_of(hosts, **options):
    links = {host.address: host for host in hosts}
    return SandboxClient(",".join(links), "run", connect=lambda address, _: links[address].link(), **options)


@dataclass
class Tally:
    finished: int = 0
    given_up: int = 0
    replays: int = 0
    calls: int = 0
    answered: list = field(default_factory=list)


async def play(client, digest, name, tally, rng):
    """One episode: a session with a few commands and a score; begun anew, at most four times, when it is lost."""
    for attempt in range(5):
        try:
            tally.calls += EXECS + 3
            async with await client.open(digest, "t-editing", "editing") as session:
                for i in range(EXECS):
                    await asyncio.sleep(rng.uniform(0, 40))
                    command = f"{name}/{attempt}/{i}"
                    reply = await session.exec(command)
                    assert reply.output == command
                    tally.answered.append(command)
                assert (await session.score(sandbox_pb2.Submission())).reward == 1.0
            tally.finished += 1
            return
        except SandboxError:
            tally.replays += 1
    tally.given_up += 1


async def trouble(hosts, rng, seconds):
    """Kills, pauses and restarts hosts until the time is over; in the end all are up."""
    loop, helpers = asyncio.get_running_loop(), set()
    end = loop.time() + seconds

    async def kill(host):
        await host.kill_9()
        await asyncio.sleep(rng.uniform(5, 60))
        host.start()

    async def pause(host):
        host.pause()
        await asyncio.sleep(rng.uniform(5, 90))
        host.resume()

    while loop.time() < end:
        await asyncio.sleep(rng.expovariate(1 / 5))
        host = rng.choice(hosts)
        if host.is_up and not any(task.get_name() == host.address for task in helpers if not task.done()):
            helpers.add(asyncio.create_task(rng.choice((kill, pause))(host), name=host.address))
    await asyncio.wait(helpers)
    return len(helpers)


async def simulate(task_set, *, hosts, sessions, clients, troubled_s):
    """Plays `sessions` episodes at once while hosts fail; returns what `check` looks at."""
    rng, tally = random.Random(7), Tally()
    random.seed(7)
    fleet, ledger = make_fleet(hosts, task_set, capacity=sessions * 13 // (10 * hosts), loss=0.003)
    all_clients = [client_of(fleet, lease_ttl_s=120.0) for _ in range(clients)]
    playing = [
        asyncio.create_task(play(all_clients[i % clients], task_set.digest, f"e{i}", tally, rng))
        for i in range(sessions)
    ]
    await asyncio.sleep(10)
    peak = [len(host.sessions) for host in fleet]
    faults = await trouble(fleet, rng, troubled_s)
    await asyncio.gather(*playing)
    for client in all_clients:
        await client.close()
    await asyncio.sleep(130)
    left = sum(len(host.sessions) for host in fleet)
    for host in fleet:
        await host.stop()
    return fleet, ledger, tally, faults, peak, left


def check(result, sessions):
    fleet, ledger, tally, faults, peak, left = result
    assert tally.finished + tally.given_up == sessions
    assert tally.given_up <= sessions // 200
    # Nothing ran twice, and what was answered ran.
    assert max(ledger.runs.values()) == 1
    assert all(ledger.runs[command] == 1 for command in tally.answered)
    # Before the faults every host has its share: the bound is 1.25 of the mean, and each client sees others' late.
    assert sum(peak) > 0.9 * sessions
    assert max(peak) <= 1.35 * sessions / len(fleet)
    # No storm of repeats, heartbeats included.
    assert sum(host.attempts for host in fleet) < 3 * tally.calls
    assert faults > 5
    assert left == 0, "leases end what clients have lost"


def test_a_small_fleet_under_fire(task_set):
    check(virtual_time.run(simulate(task_set, hosts=6, sessions=240, clients=3, troubled_s=100)), 240)


@pytest.mark.deep
def test_ten_thousand_sessions_on_forty_hosts_under_fire(task_set):
    check(virtual_time.run(simulate(task_set, hosts=40, sessions=10_000, clients=8, troubled_s=150)), 10_000)


def on_fleet(task_set, test, count=3, capacity=100, **options):
    async def run():
        fleet, ledger = make_fleet(count, task_set, capacity=capacity)
        async with client_of(fleet, **options) as client:
            await test(client, fleet, ledger)
        for host in fleet:
            await host.stop()

    virtual_time.run(run())


def test_sessions_of_a_task_share_a_host_until_it_has_its_share(task_set):
    async def test(client, fleet, ledger):
        first = [await client.open(task_set.digest, "t-editing", "editing") for _ in range(2)]
        assert len({s.service.address for s in first}) == 1
        many = [await client.open(task_set.digest, "t-editing", "editing") for _ in range(58)]
        loads = [len(h.sessions) for h in fleet]
        assert sum(loads) == len(first) + len(many) == 60
        assert max(loads) <= 26  # 1.25 of the mean of 20, rounded up

    on_fleet(task_set, test)


def test_a_full_host_spills_and_a_full_fleet_is_overload(task_set):
    async def test(client, fleet, ledger):
        for _ in range(6):
            await client.open(task_set.digest, "t-editing", "editing")
        assert [len(h.sessions) for h in fleet] == [2, 2, 2]
        started, attempts = asyncio.get_running_loop().time(), sum(h.attempts for h in fleet)
        with pytest.raises(Overloaded, match="all 2 sessions are open"):
            await client.open(task_set.digest, "t-editing", "editing")
        waited_s = asyncio.get_running_loop().time() - started
        assert 60 < waited_s < 75
        # Each round asks three hosts, waits for the pushback of a second and its own growing pause.
        assert sum(h.attempts for h in fleet) - attempts < 3 * 60

    on_fleet(task_set, test, capacity=2, patience=Patience(busy_s=60.0))


def test_a_dead_host_is_left_alone_and_found_again(task_set):
    async def test(client, fleet, ledger):
        victim = fleet[0]
        await victim.kill_9()
        for _ in range(20):
            await client.open(task_set.digest, "t-editing", "editing")
        assert victim.attempts <= 3, "two failures open its breaker"
        victim.start()
        await asyncio.sleep(120)
        for _ in range(20):
            await client.open(task_set.digest, "t-editing", "editing")
        assert len(victim.sessions) > 0

    on_fleet(task_set, test)


def test_a_host_that_cannot_open_loses_no_task(task_set):
    async def test(client, fleet, ledger):
        broken = fleet[0]
        broken.is_broken = True
        for _ in range(40):
            await client.open(task_set.digest, "t-editing", "editing")
        assert len(broken.sessions) == 0 and sum(len(h.sessions) for h in fleet) == 40
        assert broken.attempts <= 6, "its breaker opens, though it answers"
        for host in fleet:
            host.is_broken = True
        started = asyncio.get_running_loop().time()
        with pytest.raises(SandboxError, match="zygote died"):
            await client.open(task_set.digest, "t-editing", "editing")
        assert asyncio.get_running_loop().time() - started < 1

    on_fleet(task_set, test)


def test_a_paused_host_costs_its_sessions_and_no_others(task_set):
    async def test(client, fleet, ledger):
        sessions = [await client.open(task_set.digest, "t-editing", "editing") for _ in range(12)]
        paused = fleet[0] if len(fleet[0].sessions) else fleet[1]
        paused.pause()
        results = await asyncio.gather(*(s.exec(s.session_id) for s in sessions), return_exceptions=True)
        for session, result in zip(sessions, results, strict=True):
            if session.service.address == paused.address:
                assert isinstance(result, SandboxError)
            else:
                assert result.output == session.session_id
        paused.resume()
        assert max(ledger.runs.values()) == 1

    on_fleet(task_set, test, patience=Patience(unreachable_s=10.0))


def test_a_session_whose_host_restarted_is_not_found(task_set):
    async def test(client, fleet, ledger):
        session = await client.open(task_set.digest, "t-editing", "editing")
        host = next(h for h in fleet if len(h.sessions))
        running = asyncio.create_task(session.exec("once"))
        await asyncio.sleep(0.05)
        await host.kill_9()
        await asyncio.sleep(2)
        host.start()
        with pytest.raises(NotFound, match="open a new one"):
            await running
        assert ledger.runs["once"] == 1

    on_fleet(task_set, test)


def test_a_fleet_that_is_gone_is_unreachable(task_set):
    async def test(client, fleet, ledger):
        for host in fleet:
            await host.kill_9()
        with pytest.raises(ServiceUnreachable):
            await client.open(task_set.digest, "t-editing", "editing")
        assert 30 < asyncio.get_running_loop().time() < 60

    on_fleet(task_set, test)


def test_leases_are_renewed_in_batches_whatever_other_hosts_do(task_set):
    async def test(client, fleet, ledger):
        sessions = [await client.open(task_set.digest, "t-editing", "editing") for _ in range(60)]
        paused = sessions[0].service.address
        host = next(h for h in fleet if h.address == paused)
        host.pause()
        attempts = sum(h.attempts for h in fleet)
        await asyncio.sleep(600)
        assert sum(h.attempts for h in fleet) - attempts < 3 * 2 * 600 / 15 + 50
        for session in sessions:
            if session.service.address != paused:
                assert (await session.exec("alive")).output == "alive"
        host.resume()

    on_fleet(task_set, test, lease_ttl_s=60.0)
