"""Which host gets a session: rendezvous hashing with bounded load, and a breaker for each host.

Sessions on the same tree prefer the same host, whose cache then holds it; a host that has more than its share, has
just said that it is full, or does not answer comes last. Pure: the caller brings the clock and tells what it saw.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from sandbox_service.breaker import Breaker, BreakerConfig

# A host may have this many times the mean number of sessions before others are preferred.
BOUND = 1.25
# A host with so few is never too full to keep a group of episodes together.
FEW = 8
# A host that does not answer is left alone after two failures.
HOST_BREAKER = BreakerConfig(window=2, least=2, failed_share=0.9, pause_s=2.0, max_pause_s=30.0)


def weight(key: str, address: str) -> int:
    """Rendezvous weight (Thaler and Ravishankar 1998): each key has its own random order of hosts."""
    return int.from_bytes(hashlib.blake2b(f"{key}\0{address}".encode(), digest_size=8).digest(), "big")


@dataclass
class Host:
    """What a client knows of one service."""

    address: str
    breaker: Breaker = field(default_factory=lambda: Breaker(HOST_BREAKER))
    # Sessions that this client holds there.
    own: int = 0
    # Sessions of all clients and the most it takes, as last told; 0 when it has told nothing.
    told_open: int = 0
    told_most: int = 0
    # It said that it is full and asked not to be asked before this time.
    full_until: float = 0.0

    @property
    def open(self) -> int:
        return max(self.own, self.told_open)


class Placement:
    """The hosts of a fleet, in the order in which a session should try them."""

    def __init__(self, addresses: Sequence[str]):
        if not addresses or len(set(addresses)) != len(addresses):
            raise ValueError(f"give one or more different addresses of services, not {list(addresses)}")
        self.hosts = {address: Host(address) for address in addresses}

    def order(self, key: str, now: float) -> list[Host]:
        """All hosts, best first: those that may be tried, then those with room, each by weight."""
        hosts = self.hosts.values()
        mean = (sum(h.open for h in hosts) + 1) / len(self.hosts)
        most = max(FEW, math.ceil(BOUND * mean))

        def rank(host: Host) -> tuple:
            resting = host.breaker.wait_s(now)
            full = host.full_until > now or bool(host.told_most and host.open >= host.told_most)
            return resting > 0, resting, full, host.open >= most, -weight(key, host.address)

        return sorted(hosts, key=rank)
