"""The share of memory that is left, on made-up hosts; and what a service does about it."""

import asyncio

import pytest
from service_support import sessions_on

from sandbox_service.errors import Overloaded
from sandbox_service.host_memory import left_share


@pytest.fixture
def host(tmp_path):
    """Writes files below proc and groups; 30 of 100 KiB are available."""

    def make(cgroup, files):
        made = {"proc/self/cgroup": cgroup, "proc/meminfo": "MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable: 30 kB\n"}
        for name, text in (made | files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        (tmp_path / "groups").mkdir(exist_ok=True)
        return left_share(tmp_path / "proc", tmp_path / "groups")

    return make


def test_without_groups_it_is_the_hosts(host):
    assert host("0::/\n", {}) == 0.3


def test_a_group_of_version_2_with_less(host):
    files = {"memory.max": "1000\n", "memory.current": "950\n", "memory.stat": "anon 800\ninactive_file 100\n"}
    below = {f"groups/a/b/{name}": text for name, text in files.items()}
    assert host("0::/a/b\n", below) == pytest.approx(0.15)


def test_a_containers_own_root_counts_though_its_path_is_the_hosts(host):
    files = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "inactive_file 0\n"}
    assert host("0::/docker/x\n", {f"groups/{name}": text for name, text in files.items()}) == pytest.approx(0.1)


def test_the_limit_of_a_group_above(host):
    files = {"memory.max": "1000\n", "memory.current": "930\n", "memory.stat": "inactive_file 0\n"}
    own = {"groups/a/b/memory.max": "max\n", "groups/a/b/memory.current": "10\n"}
    assert host("0::/a/b\n", own | {f"groups/a/{name}": text for name, text in files.items()}) == pytest.approx(0.07)


def test_a_group_of_version_1(host):
    files = {
        "memory.limit_in_bytes": "1000\n",
        "memory.usage_in_bytes": "990\n",
        "memory.stat": "cache 500\ntotal_inactive_file 190\n",
    }
    below = {f"groups/memory/x/{name}": text for name, text in files.items()}
    assert host("5:cpu:/\n4:memory:/x\n", below) == pytest.approx(0.2)


def test_a_group_without_a_limit_says_nothing(host):
    files = {"memory.max": "max\n", "memory.current": "900\n", "memory.stat": "inactive_file 0\n"}
    assert host("0::/x\n", {f"groups/x/{name}": text for name, text in files.items()}) == 0.3


def test_here():
    assert 0 < left_share() <= 1


def test_a_full_host_opens_no_session_and_goes_on_with_those_it_has(tmp_path):
    left = [0.5]

    async def test():
        async with sessions_on(tmp_path, memory_left=lambda: left[0]) as (sessions, _, digest):
            await sessions.open("first", "run", digest, "t-editing", "editing")
            left[0] = 0.09
            with pytest.raises(Overloaded, match="9 % of the memory is left"):
                await sessions.open("second", "run", digest, "t-editing", "editing")
            assert (await sessions.exec("first", "r", "echo on")).output == b"on\n"
            left[0] = 0.2
            await sessions.open("second", "run", digest, "t-editing", "editing")

    asyncio.run(test())
