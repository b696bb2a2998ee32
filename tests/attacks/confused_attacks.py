"""Assaults in which somebody outside of the sandbox is to do the work: the service that reads, another sandbox."""

import asyncio
import os
import socket

from attack import Assault, Field, Succeeded

from sandbox_service.backends.base import Ended


async def _links(field: Field) -> str:
    """Links that lead outside are followed by who reads the workspace from outside, not by the sandbox itself."""
    folder = os.path.dirname(field.secret)
    await field.python(f"""
        os.symlink(SECRET, "link")
        os.symlink({folder!r}, "folder")
        os.symlink("../../../../../../../.." + SECRET, "climbing")
        os.symlink("/proc/self/root" + SECRET, "magic")
        os.symlink("/proc/1/cwd", "process")
    """)
    name = os.path.basename(field.secret)
    for path in ("link", f"folder/{name}", "climbing", "magic", "process/a.txt", "../" * 9 + str(field.secret)[1:]):
        try:
            data = await field.workspace.read_file(path)
        except (OSError, ValueError):
            continue
        if field.token.encode() in data:
            raise Succeeded(f"read the host's secret by {path}")
    for path in ("folder/written", "link", "climbing"):
        try:
            await field.workspace.write_file(path, b"attack")
        except (OSError, ValueError):
            continue
    if field.secret.read_text() != field.token or (field.secret.parent / "written").exists():
        raise Succeeded("wrote to the host through a link")
    changed = await field.workspace.changed_files()
    if any(field.token.encode() in (data or b"") for data in changed.values()):
        raise Succeeded("the secret was taken for a change of the workspace")
    return "refused: links lead nowhere"


async def _race(field: Field) -> str:
    """A file becomes a link between the check and the read."""
    program = field.python(
        """
        import time
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            open("new", "w").close()
            os.rename("new", "file")
            os.symlink(SECRET, "new")
            os.rename("new", "file")
        """
    )
    racing, reads = asyncio.create_task(program), 0
    while not racing.done():
        try:
            data = await field.workspace.read_file("file")
        except (OSError, ValueError):
            data = b""
        changed = await field.workspace.changed_files()
        if field.token.encode() in data or any(field.token.encode() in (d or b"") for d in changed.values()):
            raise Succeeded("won the race for the secret")
        reads += 1
    await racing
    return "refused: every read stayed inside" if reads else "refused: no read"


async def _host_sockets(field: Field) -> str:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        unix.bind("\0" + field.marker)
        unix.listen()
        program = f"""
        import socket
        attempt("tcp", lambda: socket.create_connection({tcp.getsockname()!r}, 1) and "connected")
        attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect({chr(0) + field.marker!r}) or "connected")
        try:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", {udp.getsockname()!r})
        except OSError as e:
            held.append(e.strerror)
        """
        evidence = await field.refused(program)
        try:
            udp.recv(1)
        except BlockingIOError:
            return evidence
        raise Succeeded("a datagram reached the host")


async def _neighbour(field: Field) -> str:
    """What another sandbox left and still runs."""
    left = "touch /tmp/neighbour /dev/shm/neighbour /workspace/neighbour; (sleep 3 &) ; sleep 0.5"
    program = """
        for folder in ("/tmp", "/dev/shm", "/workspace", "/var/tmp", "/proc/1/root/tmp"):
            attempt(folder, lambda folder=folder: [n for n in os.listdir(folder) if n == "neighbour"] or None)
        attempt("process", lambda: [n for n in os.listdir("/proc") if n not in ("1", str(os.getpid())) and n.isdigit()
                                    and b"sleep" in open(f"/proc/{n}/cmdline", "rb").read()] or None)
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(field.neighbour.run(["bash", "-c", left], timeout_s=20.0))
        attacking = group.create_task(field.refused(program))
    return attacking.result()


async def _base_tree(field: Field) -> str:
    """Changes of a shared file, by every way of writing, must not reach the next sandbox."""
    await field.python("""
        import mmap
        with open("a.txt", "r+b") as f:
            f.write(b"EVIL")
        with open("a.txt", "r+b") as f:
            mmap.mmap(f.fileno(), 0)[:4] = b"EVIL"
        os.rename("pkg", "gone")
        os.truncate("docs/y.md", 0)
        for name in ("redirect", "opaque"):
            try:
                os.setxattr("docs", "user.overlay." + name, b"/../../../../etc" if name == "redirect" else b"y")
            except OSError:
                pass
        try:
            os.mknod("docs/y.md", 0o20000, 0)
        except OSError:
            pass
    """)
    await field.workspace.changed_files()
    for path, text in (("a.txt", b"alpha\n"), ("pkg/mod.py", b"X = 1\n"), ("docs/y.md", b"y\n")):
        if await field.neighbour.read_file(path) != text:
            raise Succeeded(f"{path} of another sandbox was changed")
    return "refused: another sandbox sees the old files"


async def _evil_programs(field: Field) -> str:
    """Programs of the sandbox's own that somebody privileged might run."""
    await field.python("""
        import stat
        os.makedirs("/workspace/bin", exist_ok=True)
        text = "#!/bin/sh\\nexec /usr/bin/touch /tmp/who-$(/usr/bin/id -u)\\n"
        for name in ("sh", "bash", "python3", "python", "setpriv", "nsenter", "tar", "find"):
            open("/workspace/bin/" + name, "w").write(text)
            os.chmod("/workspace/bin/" + name, 0o755)
    """)
    env = {"PATH": "/workspace/bin:/usr/bin:/bin", "LD_PRELOAD": "/workspace/evil.so", "PYTHONSTARTUP": "/workspace/x"}
    await field.workspace.run(["bash"], timeout_s=20.0, env=env)
    await field.workspace.changed_files()
    result = await field.workspace.run(["/bin/sh", "-c", "ls /tmp"], timeout_s=20.0)
    if result.ended is not Ended.EXITED or b"who-0" in result.output:
        raise Succeeded(result.output.decode(errors="replace"))
    return "refused: they run as the sandbox's user"


ASSAULTS = [
    Assault("links that lead outside", "escape", "the service follows them", _links),
    Assault("a link in the moment between check and use", "escape", "the service follows it", _race, deep=True),
    Assault("servers on the host's loopback", "escape", "a connection to the host", _host_sockets),
    Assault("another sandbox's files and processes", "escape", "work of another agent", _neighbour),
    Assault("the tree that all sandboxes stand on", "escape", "a change that others see", _base_tree),
    Assault("programs in place of the system's", "escape", "to be run with privileges", _evil_programs),
]
