"""A circuit breaker: after too many failures nothing is tried for a while, then one try at a time until one succeeds.

A pure state machine; the caller brings the clock.
"""

import collections
from dataclasses import dataclass


@dataclass(frozen=True)
class BreakerConfig:
    """When a breaker opens, and how long it stays so; times in seconds."""

    # It looks at the last `window` results, and opens when `least` of them are there and this share has failed.
    window: int = 20
    least: int = 10
    failed_share: float = 0.5
    # The first pause; each failed trial doubles it.
    pause_s: float = 2.0
    max_pause_s: float = 30.0


class Breaker:
    """closed -> open (too many failures) -> half open (the pause is over: one trial) -> closed, or open for longer."""

    def __init__(self, config: BreakerConfig):
        self.config = config
        self._results: collections.deque[bool] = collections.deque(maxlen=config.window)
        self._pause_s = config.pause_s
        self._opened_at: float | None = None
        self._retry_at = 0.0
        self._trial_since: float | None = None

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    def open_s(self, now: float) -> float:
        """How long it has been open; 0 when it is closed."""
        return 0.0 if self._opened_at is None else now - self._opened_at

    def wait_s(self, now: float) -> float:
        """How long until a try may be made; 0 for at once."""
        if self._opened_at is None:
            return 0.0
        # A trial that never reports must not keep the breaker open for ever.
        retry_at = self._retry_at if self._trial_since is None else self._trial_since + self.config.max_pause_s
        # Rounding: (a + b) - a can be a little more than b.
        return min(max(0.0, retry_at - now), self.config.max_pause_s)

    def begin(self, now: float) -> bool:
        """Asks for a try. True: make it and `record` its result. In the open state this is the one trial."""
        if self.wait_s(now) > 0:
            return False
        if self._opened_at is not None:
            self._trial_since = now
        return True

    def record(self, success: bool, now: float) -> None:
        """The result of a try, of the trial or of one that began before the breaker opened."""
        if self._opened_at is not None:
            if success:
                self._close()
            elif self._trial_since is not None:
                self._pause_s = min(2 * self._pause_s, self.config.max_pause_s)
                self._retry_at, self._trial_since = now + self._pause_s, None
            return
        self._results.append(success)
        failed = self._results.count(False)
        if len(self._results) >= self.config.least and failed > self.config.failed_share * len(self._results):
            self._opened_at, self._retry_at = now, now + self._pause_s

    def _close(self) -> None:
        self._results.clear()
        self._pause_s, self._opened_at, self._trial_since = self.config.pause_s, None, None
