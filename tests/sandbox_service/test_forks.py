"""A process with gRPC calls in flight starts others."""

import subprocess
import sys

# `preexec_fn` makes Python fork where it would else use vfork, as `user=` does.
PROGRAM = """
import asyncio
import sandbox_service
import grpc

async def echo(request, context):
    return request

async def call_for_ever(channel):
    while True:
        await channel.unary_unary("/echo/back")(b"x")

async def child():
    process = await asyncio.create_subprocess_exec("/bin/true", preexec_fn=int)
    return await process.wait()

async def main(socket):
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"back": handler}),))
    server.add_insecure_port(socket)
    await server.start()
    async with grpc.aio.insecure_channel(socket) as channel:
        calls = [asyncio.create_task(call_for_ever(channel)) for _ in range(4)]
        ends = [end for _ in range(50) for end in await asyncio.gather(*(child() for _ in range(4)))]
        for task in calls:
            task.cancel()
        await asyncio.wait(calls)
    await server.stop(0)
    print(ends)

asyncio.run(main("unix:" + __import__("sys").argv[1]))
"""


def test_children_live_while_calls_are_in_flight(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == str([0] * 200).split(), done.stdout + done.stderr[-2000:]
