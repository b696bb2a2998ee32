"""Assaults that aim to take the host, the service or another sandbox down. All are bounded, should one get through."""

from attack import Assault, Field, Succeeded, denial

from sandbox_service.backends.base import Ended, Limits

EXITED, SIGNALED, TIMEOUT = Ended.EXITED, Ended.SIGNALED, Ended.TIMEOUT
MEMORY, PROCESSES, DISK, OUTPUT = Ended.OUT_OF_MEMORY, Ended.OUT_OF_PROCESSES, Ended.OUT_OF_DISK, Ended.OUTPUT_LIMIT
SHORT_S = 1.0

FILL = """
def fill(place, mib):
    with open(place, "wb") as f:
        for _ in range(mib):
            f.write(bytes(1 << 20))
            f.flush()
"""

ASSAULTS = [
    denial(
        "a fork bomb",
        "every process number of the host",
        """
        import time
        while True:
            if os.fork() == 0:
                time.sleep(20)
        """,
        # Without control groups memory is counted process by process: on a slow host that may come first.
        *(PROCESSES, MEMORY),
    ),
    denial(
        "a fork bomb that hides its faults",
        "every process number of the host",
        """
        import time
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                os.fork()
            except OSError:
                pass
        """,
        # By memory as above.
        *(TIMEOUT, PROCESSES, EXITED, SIGNALED, MEMORY),
        timeout_s=SHORT_S,
        deep=True,
    ),
    denial(
        "threads without end",
        "every thread of the host",
        """
        import threading, time
        for _ in range(2000):
            threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        """,
        *(PROCESSES, EXITED, MEMORY),
    ),
    denial("memory", "the host's memory", "x = b'x' * (400 << 20)", MEMORY),
    denial(
        "memory of many children",
        "the host's memory",
        """
        import time
        for _ in range(8):
            if os.fork() == 0:
                x = b"x" * (40 << 20)
                time.sleep(2)
                os._exit(0)
        time.sleep(2)
        """,
        *(MEMORY, SIGNALED, EXITED),
        deep=True,
    ),
    denial(
        "memory that no process owns",
        "the host's memory by way of files without a name",
        """
        fds = []
        for _ in range(64):
            fds.append(os.memfd_create("hidden"))
            for _ in range(15):
                os.write(fds[-1], bytes(1 << 20))
        os.abort()  # it got them all
        """,
        *(MEMORY, DISK, EXITED),
    ),
    denial(
        "memory of the kernel by pipes and sockets",
        "the host's memory",
        """
        import socket
        pairs = []
        try:
            while True:
                a, b = socket.socketpair()
                a.setblocking(False)
                pairs.append((a, b))
                try:
                    while True:
                        a.send(bytes(65536))
                except BlockingIOError:
                    pass
        except OSError as e:
            print(len(pairs), "pairs, then", e)
        """,
        *(EXITED, MEMORY),
    ),
    denial("the disk", "the host's disk", FILL + 'fill("big", 64)', DISK),
    denial("the disk by /tmp", "the host's disk", FILL + 'fill("/tmp/big", 64)', DISK),
    denial("the disk by /dev/shm", "the host's disk", FILL + 'fill("/dev/shm/big", 64)', *(DISK, MEMORY)),
    denial(
        "the disk by files that are deleted but open",
        "the host's disk",
        """
        files = []
        for i in range(64):
            files.append(open(f"/tmp/{i}", "wb"))
            os.unlink(f"/tmp/{i}")
            files[-1].write(bytes(1 << 20))
            files[-1].flush()
        """,
        *(DISK, MEMORY, EXITED),
    ),
    denial("inodes", "every inode of the host's disk", "for i in range(200000): open(f'/tmp/{i}', 'w').close()", DISK),
    denial(
        "a file of a terabyte with nothing in it",
        "the reader of its changes",
        'open("big", "wb").truncate(1 << 40)',
        *(EXITED, SIGNALED, DISK),
    ),
    denial("a flood of output", "the service's memory", "while True: os.write(1, bytes(65536))", OUTPUT),
    denial(
        "a flood of single bytes",
        "the service's time",
        "while True: os.write(1, b'x')",
        *(OUTPUT, TIMEOUT),
        timeout_s=SHORT_S,
    ),
    denial(
        "output that is closed while it goes on",
        "a command without a deadline",
        """
        import time
        os.close(1)
        os.close(2)
        time.sleep(60)
        """,
        TIMEOUT,
        timeout_s=SHORT_S,
        deep=True,
    ),
    denial(
        "a child keeps the output open",
        "a command that never ends",
        """
        import time
        if os.fork() == 0:
            os.setsid()
            time.sleep(60)
        """,
        *(EXITED, TIMEOUT),
        timeout_s=8.0,
    ),
    denial("sleep past the deadline", "a slot for ever", "import time; time.sleep(60)", TIMEOUT, timeout_s=SHORT_S),
    denial(
        "signals are ignored",
        "a command that cannot be stopped",
        """
        import signal, time
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        time.sleep(60)
        """,
        TIMEOUT,
        timeout_s=SHORT_S,
    ),
    denial(
        "it stops itself",
        "a command whose clock stands still",
        """
        import signal, time
        if os.fork() == 0:
            os.kill(os.getppid(), signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)
        """,
        TIMEOUT,
        timeout_s=SHORT_S,
        deep=True,
    ),
    denial(
        "a storm of signals",
        "the guard, and everything else that can be reached",
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGCHLD, signal.SIGWINCH):
                try:
                    os.kill(-1, number)
                except OSError:
                    pass
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD):
                try:
                    os.kill(1, number)
                except OSError:
                    pass
        """,
        *(EXITED, SIGNALED),
    ),
    denial(
        "children that nobody reaps",
        "every process number of the host",
        """
        import time
        made = 0
        try:
            for made in range(20000):
                if os.fork() == 0:
                    os._exit(0)
        except OSError as e:
            print(made, e)
        """,
        *(EXITED, PROCESSES),
    ),
    denial(
        "orphans that the guard must reap",
        "every process number of the host",
        """
        for _ in range(400):
            if os.fork() == 0:
                for _ in range(3):
                    if os.fork() == 0:
                        os._exit(0)
                os._exit(0)
            os.wait()
        """,
        *(EXITED, PROCESSES),
    ),
    denial(
        "a program in a session of its own",
        "a process that outlives its command",
        """
        import time
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    for n in range(3):
                        os.close(n)
                    time.sleep(60)
                os._exit(0)
        """,
        *(EXITED, TIMEOUT),
        timeout_s=8.0,
    ),
    denial(
        "open files",
        "every open file of the host",
        "files = [open('/dev/null') for _ in range(100000)]",
        EXITED,
    ),
    denial(
        "endless recursion",
        "the guard, by a fault in its child",
        """
        import sys
        sys.setrecursionlimit(1 << 30)
        def f(): f()
        f()
        """,
        *(SIGNALED, EXITED, MEMORY),
    ),
    denial(
        "a dump of its memory",
        "the host's disk, or a program of the host that takes dumps",
        "import signal; x = bytes(32 << 20); os.kill(os.getpid(), signal.SIGABRT)",
        SIGNALED,
    ),
    denial(
        "all processors",
        "the time of other sandboxes",
        """
        import time
        for _ in range(6):
            if os.fork() == 0:
                while True:
                    pass
        time.sleep(60)
        """,
        TIMEOUT,
        timeout_s=SHORT_S,
        deep=True,
    ),
    denial(
        "locks on shared files",
        "other sandboxes, which wait for the lock",
        """
        import fcntl, time
        for place in ("/packages/pytest/__init__.py", "/usr/bin/env", "/etc/passwd", "/workspace", "/packages"):
            try:
                fcntl.flock(os.open(place, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                print(e)
        """,
        EXITED,
    ),
]


async def _read(field: Field, path: str) -> str:
    try:
        data = await field.workspace.read_file(path, max_bytes=1 << 16)
    except (OSError, ValueError) as e:
        return f"{type(e).__name__}"
    return f"{len(data)} bytes"


async def _files_that_block(field: Field) -> str:
    await field.python("""
        import socket
        os.mkfifo("fifo")
        os.mkfifo("docs/fifo")
        os.remove("a.txt")
        os.mkfifo("a.txt")
        socket.socket(socket.AF_UNIX).bind("socket")
        os.symlink("loop", "loop")
        os.symlink("/dev/zero", "zero")
        os.symlink("/proc/self/fd/1", "stdout")
        os.symlink("/dev/random", "random")
    """)
    for path in ("fifo", "a.txt", "socket", "loop", "zero", "random", "stdout", "/dev/zero", "/proc/kmsg"):
        seen = await _read(field, path)
        if not seen.endswith("Error"):
            raise Succeeded(f"{path} was read: {seen}")
    changed = await field.workspace.changed_files()
    if changed != {"a.txt": None}:
        raise Succeeded(f"taken for changes: {sorted(changed)}")
    return "refused: only regular files are read"


async def _files_that_cannot_be_read(field: Field) -> str:
    await field.python("""
        os.makedirs("dark/inner")
        open("dark/inner/file", "w").write("x")
        open("secret", "w").write("y")
        os.chmod("secret", 0)
        os.chmod("dark/inner", 0)
        os.chmod("dark", 0)
        os.chmod("docs", 0)
        os.chmod(".", 0)
    """)
    changed = await field.workspace.changed_files()
    if changed != {"dark/inner/file": b"x", "secret": b"y"}:
        raise Succeeded(f"changes were hidden: {sorted(changed)}")
    return "ended as seen all the same"


async def _deep_folders(field: Field) -> str:
    """Deeper than any path can be, than a recursion may go, and than there are descriptors."""
    result = await field.python("""
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
        open("bottom", "w").write("x")
    """)
    if result.ended is not EXITED:
        return f"ended as {result.ended.value}"
    try:
        await field.workspace.changed_files()
    except ValueError as e:
        return f"refused: {e}"
    raise Succeeded("a tree of 3000 levels was taken for an ordinary change")


async def _many_files(field: Field) -> str:
    await field.python(
        """
        for folder in range(20):
            os.mkdir(str(folder))
            for i in range(500):
                open(f"{folder}/{'x' * 200}{i}", "w").close()
    """,
        limits=None,
    )
    try:
        changed = await field.workspace.changed_files(max_bytes=1 << 20)
    except ValueError as e:
        return f"refused: {e}"
    raise Succeeded(f"{len(changed)} files were read beyond the limit")


async def _odd_names(field: Field) -> str:
    await field.python("""
        names = [b"\\xff\\xfe.py", b"new\\nline", b"-rf", b"$(id)", b"a" * 255, b"{}", b"null"]
        for name in [*names, b"\\x1b[2J", b"\\xe2\\x80"]:
            open(name, "w").write("x")
    """)
    changed = await field.workspace.changed_files()
    if len(changed) != 9 or any(data != b"x" for data in changed.values()):
        raise Succeeded(f"changes were lost: {sorted(changed)}")
    return "ended as names are data"


ASSAULTS += [
    Assault("files that block their reader", "denial", "a service that hangs", _files_that_block),
    Assault("files without permissions", "denial", "changes that nobody sees", _files_that_cannot_be_read),
    Assault("folders without a bottom", "denial", "a fault of the service instead of a grade", _deep_folders),
    Assault("more files than can be taken", "denial", "the service's memory", _many_files, Limits(disk_mib=128)),
    Assault("names that are no text", "denial", "a fault of the service instead of a grade", _odd_names),
]
