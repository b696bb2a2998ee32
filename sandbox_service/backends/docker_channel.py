"""The service's end of the stream to process 1 of a container: frames there, frames back.

The engine's attach call turns a connection to its socket into the container's stdin and stdout. A frame is two
lengths (big-endian, 32 bits), a JSON object and a payload. The engine puts its own header before each piece of stdout.
"""

import asyncio
import json
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from sandbox_service.errors import SandboxError

_PIECE = 1 << 18
Sink = Callable[[dict, bytes], None]


class ContainerGone(SandboxError):
    """The container ended or the engine let go of it."""


class Channel:
    """One attached container. Not reusable."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self._sinks: dict[int, Sink] = {}
        self._ids = count(1)
        self._failure: str | None = None
        self.ready: asyncio.Future[dict] = asyncio.get_running_loop().create_future()
        self._sinks[0] = lambda message, _: self.ready.done() or self.ready.set_result(message)
        self.closed = asyncio.create_task(self._receive())

    @classmethod
    async def attach(cls, socket_path: str, container_id: str) -> "Channel":
        """Of a container that runs. Raises SandboxError."""
        try:
            reader, writer = await asyncio.open_unix_connection(socket_path, limit=1 << 20)
            request = (
                f"POST /containers/{container_id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n"
                "Host: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
            )
            writer.write(request.encode())
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError) as e:
            raise SandboxError(f"cannot attach to a container through {socket_path}: {e}") from e
        if head.split()[1] not in (b"101", b"200"):
            writer.close()
            raise SandboxError(f"the engine refused to attach: {head.splitlines()[0].decode(errors='replace')}")
        return cls(reader, writer)

    def write_raw(self, data: bytes) -> None:
        """For what comes before the first frame."""
        self._writer.write(data)

    def open(self, sink: Sink) -> int:
        """A new id, whose messages go to `sink` until `forget`. A lost container gives it {"lost": why}."""
        self._check()
        number = next(self._ids)
        self._sinks[number] = sink
        return number

    def forget(self, number: int) -> None:
        self._sinks.pop(number, None)

    def send(self, number: int, op: str, payload: bytes = b"", **fields) -> None:
        self._check()
        head = json.dumps({"op": op, "id": number, **fields}).encode()
        self._writer.write(struct.pack(">II", len(head), len(payload)) + head)
        if payload:
            self._writer.write(payload)

    async def send_data(self, number: int, data: bytes) -> None:
        """In pieces, at the speed at which they are taken; an empty piece ends them."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), _PIECE):
                self.send(number, "data", bytes(view[start : start + _PIECE]))
                await self._writer.drain()
            self.send(number, "data")
        except ConnectionError as e:
            raise ContainerGone("the container ended while its files were sent") from e

    async def ping(self, patience_s: float) -> bool:
        """Whether process 1 answers."""
        answered = asyncio.get_running_loop().create_future()
        try:
            number = self.open(lambda message, _: answered.done() or answered.set_result("lost" not in message))
        except ContainerGone:
            return False
        try:
            self.send(number, "ping")
            return await asyncio.wait_for(answered, patience_s)
        except (TimeoutError, ContainerGone):
            return False
        finally:
            self.forget(number)

    async def close(self) -> None:
        """Ends the stream, and with it the container. Safe to repeat."""
        self.closed.cancel()
        await asyncio.wait([self.closed])
        self._fail("the container was closed")
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def _check(self) -> None:
        if self._failure:
            raise ContainerGone(self._failure)

    async def _receive(self) -> None:
        received = bytearray()
        try:
            while True:
                stream, length = struct.unpack(">BxxxI", await self._reader.readexactly(8))
                piece = await self._reader.readexactly(length)
                if stream == 1:
                    received += piece
                    self._dispatch(received)
        except (asyncio.IncompleteReadError, OSError):
            self._fail("the container ended")

    def _dispatch(self, received: bytearray) -> None:
        while len(received) >= 8:
            head, body = struct.unpack_from(">II", received)
            end = 8 + head + body
            if len(received) < end:
                return
            message = json.loads(received[8 : 8 + head])
            payload = bytes(received[8 + head : end])
            del received[:end]
            sink = self._sinks.get(message.get("id", 0))
            if sink:
                sink(message, payload)

    def _fail(self, why: str) -> None:
        if self._failure:
            return
        self._failure = why
        for sink in list(self._sinks.values()):
            sink({"lost": why}, b"")
