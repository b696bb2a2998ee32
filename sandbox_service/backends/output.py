"""Keeps the head and the tail of a stream of unknown length in bounded memory."""


class HeadTail:
    """Half of `kept_bytes` from the head, half from the tail, the middle counted."""

    def __init__(self, kept_bytes: int):
        self._head_room = kept_bytes - kept_bytes // 2
        self._tail_room = kept_bytes // 2
        self._head, self._tail = bytearray(), bytearray()
        self.total_bytes = 0

    def add(self, data: bytes) -> None:
        self.total_bytes += len(data)
        missing = self._head_room - len(self._head)
        self._head += data[:missing]
        self._tail += data[missing:]
        # Trimmed rarely, so that many small writes stay cheap.
        if len(self._tail) > 2 * self._tail_room + 65536:
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_room)]

    def result(self) -> tuple[bytes, int]:
        """What was kept, and how many bytes between head and tail were left out."""
        self._trim()
        kept = bytes(self._head + self._tail)
        return kept, self.total_bytes - len(kept)
