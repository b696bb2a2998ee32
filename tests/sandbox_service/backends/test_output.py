import asyncio
import os

from hypothesis import given
from hypothesis import strategies as st

from sandbox_service.backends.output import DrainedPipe, HeadTail


@given(st.lists(st.binary(max_size=40)), st.integers(0, 60))
def test_head_and_tail_of_any_stream(chunks, kept):
    whole = b"".join(chunks)
    stream = HeadTail(kept)
    for chunk in chunks:
        stream.add(chunk)
    head, tail = kept - kept // 2, kept // 2
    expected = whole if len(whole) <= kept else whole[:head] + whole[len(whole) - tail :]
    assert stream.result() == (expected, len(whole) - len(expected))
    assert stream.total_bytes == len(whole)


def test_memory_stays_bounded():
    stream = HeadTail(1000)
    for _ in range(1000):
        stream.add(bytes(10_000))
    assert len(stream._tail) < 100_000
    assert stream.result() == (bytes(1000), 10_000_000 - 1000)


def test_a_pipe_is_drained_until_its_writers_are_gone():
    async def main():
        got = bytearray()
        pipe = DrainedPipe(asyncio.get_running_loop(), got.extend)
        fd = pipe.take_write_end()
        await asyncio.to_thread(os.write, fd, bytes(1 << 20))
        assert not pipe.closed.done()
        os.close(fd)
        await asyncio.wait_for(pipe.closed, 5.0)
        return len(got)

    assert asyncio.run(main()) == 1 << 20
