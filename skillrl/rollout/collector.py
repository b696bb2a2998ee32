"""Many episodes at once: groups of episodes of the same task, bounded in flight, none lost for another's fault."""

import asyncio
import collections
import hashlib
import logging
from collections.abc import Callable, Sequence

from sandbox_service.client import Breaker, BreakerConfig
from skillrl.chat import ChatFormat
from skillrl.rollout.agents import Agents
from skillrl.rollout.episode import Attempt, Budgets, lost_episode, run_episode
from skillrl.rollout.sandbox import Sandbox
from skillrl.types import Episode, Task

logger = logging.getLogger(__name__)

# Of the last 32 episodes: when more than half were lost to the service, new ones wait until one succeeds again.
BREAKER = BreakerConfig(window=32, least=16, failed_share=0.5, pause_s=2.0, max_pause_s=30.0)
# By the reason of the loss. A fleet under repair may lose the same episode twice; a grader's bug comes again.
MAX_TRIES = {"infra": 3, "grader": 2}
# How often a waiting episode looks whether it may go on.
_LOOK_S = 1.0


class ServiceFault(RuntimeError):
    """Too many episodes could not be graded; going on would learn from noise."""


def check_faults(groups: Sequence[Sequence[Episode]], max_share: float) -> None:
    """Raises ServiceFault when more than `max_share` of the episodes were lost to faults that are not the agent's."""
    episodes = [e for group in groups for e in group]
    lost = [e for e in episodes if e.outcome.reason == "infra"]
    if len(lost) > max_share * len(episodes):
        raise ServiceFault(
            f"{len(lost)} of {len(episodes)} episodes were lost to faults of the service, more than "
            f"sandbox.max_infra_share={max_share:g}; the last one said: {lost[-1].outcome.detail}. Repair that and run "
            "the same command: the run goes on from what it has kept"
        )


def episode_seed(seed: int, group_id: str, member: int) -> int:
    """A 31-bit random seed that depends on nothing but its arguments, whatever else runs."""
    digest = hashlib.blake2b(f"{seed}/{group_id}/{member}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


class Collector:
    """Plays groups of episodes. The workspaces of episodes in flight are bounded by `max_in_flight`.

    While most episodes are lost to the sandbox service, new ones wait: for at most `max_outage_s` since the outage
    began, after which they are lost without being played.
    """

    def __init__(
        self,
        agents: Agents,
        sandbox: Sandbox,
        chat: ChatFormat,
        budgets: Budgets,
        *,
        max_in_flight: int = 256,
        reward_mode: str = "paper",
        max_outage_s: float = 0.0,
    ):
        self._agents, self._sandbox, self._chat, self._budgets = agents, sandbox, chat, budgets
        self._max_in_flight, self._reward_mode, self._max_outage_s = max_in_flight, reward_mode, max_outage_s
        self._breaker = Breaker(BREAKER)
        self._replays = 0

    async def collect(
        self,
        tasks: Sequence[Task],
        group_size: int,
        *,
        seed: int,
        temperature: float = 1.0,
        on_done: Callable[[Episode], None] = lambda episode: None,
    ) -> list[list[Episode]]:
        """One group of `group_size` episodes for each task, in the order of `tasks`.

        An episode that a fault made ungradable is played again in a fresh session, MAX_TRIES times in all, and more
        often in an outage; then it stays in its group as ungradable. `on_done` is called with each finished episode.
        Cancelling closes all sessions.
        """
        slots = asyncio.Semaphore(self._max_in_flight)
        seen: collections.Counter[str] = collections.Counter()
        members = []
        for task in tasks:
            # The same task may come twice in one call: two groups, with different seeds.
            group_id = f"{task.task_id}/{seed}.{seen[task.task_id]}"
            seen[task.task_id] += 1
            for member in range(group_size):
                attempt = Attempt(
                    task=task,
                    group_id=group_id,
                    episode_id=f"{group_id}/{member}",
                    seed=episode_seed(seed, group_id, member),
                    temperature=temperature,
                    reward_mode=self._reward_mode,
                )
                members.append(self._member(attempt, slots, on_done))
        episodes = await asyncio.gather(*members)
        return [episodes[i : i + group_size] for i in range(0, len(episodes), group_size)]

    def take_replays(self) -> int:
        """How often an episode was played again since this was last asked."""
        replays, self._replays = self._replays, 0
        return replays

    async def _member(self, attempt: Attempt, slots: asyncio.Semaphore, on_done) -> Episode:
        async with slots:
            episode, tries = await self._play(attempt), 1
            while self._may_succeed(episode, tries):
                self._replays += 1
                episode, tries = await self._play(attempt), tries + 1
        try:
            on_done(episode)
        except Exception:
            logger.exception("the progress callback failed on episode %s", episode.episode_id)
        return episode

    def _may_succeed(self, episode: Episode, tries: int) -> bool:
        """Whether to play it again, so that its group stays full. A fault of the task itself would come again."""
        reason = episode.outcome.reason
        in_outage = reason == "infra" and self._breaker.is_open
        return not self._is_given_up() and (in_outage or tries < MAX_TRIES.get(reason, 1))

    def _is_given_up(self) -> bool:
        return self._breaker.open_s(asyncio.get_running_loop().time()) > self._max_outage_s

    async def _play(self, attempt: Attempt) -> Episode:
        loop = asyncio.get_running_loop()
        while not self._breaker.begin(loop.time()):
            if self._is_given_up():
                outage_s = self._breaker.open_s(loop.time())
                return lost_episode(attempt, f"not played: the sandbox service has been failing for {outage_s:.0f} s")
            await asyncio.sleep(min(self._breaker.wait_s(loop.time()), _LOOK_S))
        episode = await run_episode(
            attempt, agents=self._agents, sandbox=self._sandbox, chat=self._chat, budgets=self._budgets
        )
        self._breaker.record(episode.outcome.reason != "infra", loop.time())
        return episode
