"""The breaker and the pause watch as state machines, and placement as a pure function."""

import asyncio
import collections

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox_service.breaker import Breaker, BreakerConfig
from sandbox_service.pauses import HostPaused, PauseWatch
from sandbox_service.placement import FEW, Placement

CONFIG = BreakerConfig(window=4, least=3, failed_share=0.5, pause_s=2.0, max_pause_s=5.0)


def opened(at=0.0):
    breaker = Breaker(CONFIG)
    for _ in range(3):
        breaker.record(False, at)
    return breaker


def test_it_opens_when_more_than_the_share_has_failed():
    breaker = Breaker(CONFIG)
    for success in (False, False):
        breaker.record(success, 0.0)
    assert not breaker.is_open, "too few results"
    breaker.record(True, 0.0)
    assert breaker.is_open, "2 of 3"
    even = Breaker(CONFIG)
    for success in (True, False, True, False, False):
        even.record(success, 0.0)
    assert even.is_open, "3 of the last 4"
    half = Breaker(CONFIG)
    for success in (True, False, True, False):
        half.record(success, 0.0)
    assert not half.is_open


def test_one_trial_at_a_time_and_longer_pauses_after_each_failure():
    breaker = opened()
    assert (breaker.wait_s(0.5), breaker.begin(0.5)) == (1.5, False)
    assert breaker.begin(2.0)
    assert not breaker.begin(2.0), "the trial is under way"
    breaker.record(False, 3.0)
    assert breaker.wait_s(3.0) == 4.0
    assert breaker.begin(7.0)
    breaker.record(False, 7.0)
    assert breaker.wait_s(7.0) == 5.0, "max_pause_s"
    assert breaker.begin(12.0)
    breaker.record(True, 12.0)
    assert not breaker.is_open and breaker.begin(12.0) and breaker.begin(12.0)
    assert breaker.open_s(12.0) == 0.0


def test_a_late_failure_does_not_prolong_and_a_late_success_closes():
    breaker = opened()
    breaker.record(False, 1.0)
    assert breaker.wait_s(1.0) == 1.0
    breaker.record(True, 1.0)
    assert not breaker.is_open


def test_a_trial_that_never_ends_is_forgotten():
    breaker = opened()
    assert breaker.begin(2.0)
    assert not breaker.begin(6.9)
    assert breaker.begin(7.0)


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["ok", "failed", "begin"])), max_size=60))
@example([(0.0, "ok"), (1.0999999999999996, "failed"), (6.942363392184421, "failed"), (3.4158646691042853, "begin")])
def test_it_never_locks_for_ever(steps):
    breaker, now = Breaker(CONFIG), 0.0
    for step_s, what in steps:
        now += step_s
        if what == "begin":
            breaker.begin(now)
        else:
            breaker.record(what == "ok", now)
        assert 0.0 <= breaker.wait_s(now) <= CONFIG.max_pause_s
    assert breaker.begin(now + CONFIG.max_pause_s)


def test_only_the_keys_of_a_host_that_goes_move():
    keys, hosts = [f"task-{i}" for i in range(2000)], [f"host-{i}" for i in range(5)]
    before = {k: Placement(hosts).order(k, 0.0)[0].address for k in keys}
    after = {k: Placement(hosts[:-1]).order(k, 0.0)[0].address for k in keys}
    assert all(after[k] == before[k] for k in keys if before[k] != "host-4")
    # 400 of each host expected, with a standard deviation of 18.
    assert all(300 < n < 500 for n in collections.Counter(before.values()).values())


def test_order_puts_full_loaded_and_resting_hosts_behind():
    placement = Placement(["a", "b", "c", "d"])
    free = [h.address for h in placement.order("key", 0.0)]
    first, second, third, fourth = (placement.hosts[a] for a in free)
    first.own = FEW * 10
    assert [h.address for h in placement.order("key", 0.0)][-1] == first.address
    second.told_open = second.told_most = 4
    assert [h.address for h in placement.order("key", 0.0)][0] == third.address
    third.full_until = 5.0
    assert placement.order("key", 4.9)[0] is fourth
    assert placement.order("key", 5.0)[0] is third
    for _ in range(2):
        third.breaker.record(False, 5.0)
    assert placement.order("key", 5.0)[-1] is third
    with pytest.raises(ValueError, match="different addresses"):
        Placement(["a", "a"])


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_pause_voids_what_ran_through_it_and_nothing_else():
    clock = Clock()
    watch = PauseWatch(1.0, clock)

    async def work(seconds, ticks):
        for _ in range(ticks):
            clock.now += seconds / ticks
            if ticks > 1:
                watch.tick()
        return "done"

    guarded = watch.guard(work, "the work")
    assert asyncio.run(guarded(60.0, 1)) == "done", "nothing ticks yet"
    watch.tick()
    assert asyncio.run(guarded(60.0, 50)) == "done", "slow is no pause"
    with pytest.raises(HostPaused, match="the work is void: this host stood still for 19 s"):
        asyncio.run(guarded(20.0, 1))
    watch.tick()
    assert asyncio.run(guarded(1.0, 1)) == "done"


def test_a_pause_in_the_services_first_second_is_seen():
    clock = Clock()
    watch = PauseWatch(1.0, clock)

    async def test():
        ticking = asyncio.create_task(watch.keep_ticking())
        await asyncio.sleep(0)
        clock.now += 0.5
        watch.check(0.0, "the work")
        clock.now += 20.0
        with pytest.raises(HostPaused, match="stood still for 20 s"):
            watch.check(0.0, "the work")
        ticking.cancel()

    asyncio.run(test())
