"""What comes out of a command: pipes that are always drained, into bounded memory."""

import asyncio
import os
from collections.abc import Callable

_READ_BYTES = 1 << 18


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

    def read(self, offset: int) -> tuple[int, bytes]:
        """What is kept from `offset` of the whole output on, and where it begins: later when the middle was dropped."""
        if offset < len(self._head):
            return offset, bytes(self._head[offset:])
        start = self.total_bytes - len(self._tail)
        return max(offset, start), bytes(self._tail[max(0, offset - start) :])

    def result(self) -> tuple[bytes, int]:
        """What was kept, and how many bytes between head and tail were left out."""
        self._trim()
        kept = bytes(self._head + self._tail)
        return kept, self.total_bytes - len(kept)


def read_kept(output: bytes, omitted_bytes: int, offset: int) -> tuple[int, bytes]:
    """As HeadTail.read, from a HeadTail's result."""
    if not omitted_bytes:
        return offset, output[offset:]
    head = len(output) - len(output) // 2
    if offset < head:
        return offset, output[offset:head]
    offset = max(offset, head + omitted_bytes)
    return offset, output[offset - omitted_bytes :]


class DrainedPipe:
    """A pipe whose read end is always drained into `sink`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Callable[[bytes], None]):
        self._loop, self._sink = loop, sink
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self.closed: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._read_end, self._drain)

    def take_write_end(self) -> int:
        """The caller closes it."""
        fd, self._write_end = self._write_end, -1
        return fd

    def _drain(self) -> None:
        try:
            data = os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._sink(data)
        else:
            self.close()

    def close(self) -> None:
        if self._read_end >= 0:
            self._loop.remove_reader(self._read_end)
            os.close(self._read_end)
            self._read_end = -1
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1
        if not self.closed.done():
            self.closed.set_result(None)

    def drain_rest(self) -> None:
        """Reads what is there now, for a pipe whose writers may live on."""
        while self._read_end >= 0:
            try:
                data = os.read(self._read_end, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                return
            self._sink(data)
