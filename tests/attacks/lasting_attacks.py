"""Assaults by one command on the next of its session: all but files must end with the command that made it.

Each leaves something behind and ends; a second program then looks for it from a command of its own.
"""

from attack import Assault, Field

STAY = """
import signal, time
def stay():
    for n in range(3):
        os.close(n)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {9, 19})
    while True:
        time.sleep(1)
"""
# What the second program calls: whoever else is in its process namespace.
ALONE = """
import time
def others():
    return sorted({int(n) for n in os.listdir("/proc") if n.isdigit()} - {1, os.getpid()})
for _ in range(20):
    attempt("others", lambda: others() or None)
    time.sleep(0.02)
"""
BEATS = """
def beats():
    return os.path.getsize("/tmp/beats") if os.path.exists("/tmp/beats") else 0
before = beats()
time.sleep(0.3)
attempt("it goes on", lambda: beats() > before)
"""

# name: what it aims for, the first program, the second.
PROGRAMS = {
    "every signal at process 1": (
        "a guard that is dead, stopped or slow when the next command comes",
        """
        import signal, time
        numbers = [n for n in range(1, 65) if n not in (32, 33)]
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            for number in numbers:
                try:
                    os.kill(1, number)
                    libc.syscall(62 if os.uname().machine == "x86_64" else 129, 1, number)
                except OSError:
                    pass
        if os.fork() == 0:
            while True:
                os.kill(1, signal.SIGALRM)
                os.kill(1, signal.SIGCHLD)
        """,
        "import time\nattempt('state', lambda: open('/proc/1/stat').read().split()[2] in 'TtZX')\n" + ALONE,
    ),
    "process 1's memory, descriptors and knobs": (
        "control over the guard of the next command",
        """
        for name in ("mem", "fd/0", "fd/1", "fd/3", "fd/5", "oom_score_adj", "comm", "coredump_filter", "sched",
                     "timerslack_ns", "autogroup", "loginuid", "clear_refs", "attr/exec", "uid_map", "setgroups"):
            try:
                fd = os.open("/proc/1/" + name, os.O_WRONLY)
                os.write(fd, b"1")
                open("/tmp/won", "a").write(name + " ")
            except OSError:
                pass
        """,
        """
        attempt("written", lambda: open("/tmp/won").read())
        for name in ("mem", "maps", "environ", "fd", "map_files", "cwd", "root", "exe", "io", "stack", "syscall"):
            attempt(name, lambda name=name: os.listdir("/proc/1/" + name) if name in ("fd", "map_files")
                    else os.readlink("/proc/1/" + name) if name in ("cwd", "root", "exe")
                    else open("/proc/1/" + name, "rb").read(1) or None)
        """,
    ),
    "a fork bomb that outruns the end": (
        "a process that is born after everything was killed",
        """
        import time
        def breed():
            while True:
                try:
                    if os.fork() == 0:
                        os.setsid()
                    else:
                        os._exit(0)
                except OSError:
                    pass
        for _ in range(12):
            if os.fork() == 0:
                breed()
        time.sleep(0.3)
        """,
        ALONE,
    ),
    "a fork bomb with vfork and threads": (
        "a process that is born after everything was killed",
        """
        import subprocess, threading, time
        def breed():
            while True:
                try:
                    os.posix_spawn("/bin/true", ["true"], {})
                except OSError:
                    pass
        for _ in range(4):
            if os.fork() == 0:
                os.setsid()
                for _ in range(3):
                    threading.Thread(target=breed, daemon=True).start()
                breed()
        time.sleep(0.3)
        """,
        ALONE,
    ),
    "a survivor that waits for the command's end": (
        "a process that acts between two commands",
        STAY
        + """
main = os.getpid()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(1)
            os.close(2)
            while True:
                try:
                    os.kill(main, 0)
                    gone = "Z" in open(f"/proc/{main}/stat").read().rpartition(")")[2][:3]
                except OSError:
                    gone = True
                if gone:
                    open("/tmp/beats", "a").write("x")
                    time.sleep(0.005)
        os._exit(0)
time.sleep(0.3)
        """,
        ALONE + BEATS,
    ),
    "processes that are stopped, and zombies": (
        "a process that cannot be ended or reaped",
        STAY
        + """
for _ in range(5):
    if os.fork() == 0:
        for n in range(3):
            os.close(n)
        os.kill(os.getpid(), signal.SIGSTOP)
for _ in range(5):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        stay()
time.sleep(0.2)
        """,
        ALONE,
    ),
    "a reaper of orphans": (
        "descendants that never come to the guard",
        STAY
        + """
if os.fork() == 0:
    os.setsid()
    libc.prctl(36, 1, 0, 0, 0)
    for _ in range(6):
        if os.fork() == 0:
            if os.fork() == 0:
                stay()
            os._exit(0)
    stay()
time.sleep(0.2)
        """,
        ALONE,
    ),
    "every place among the processes": (
        "a next command that cannot start anything",
        STAY
        + """
try:
    while True:
        if os.fork() == 0:
            os.setsid()
            stay()
except OSError:
    pass
        """,
        """
        pids = []
        for _ in range(24):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        held.append("nothing taken")
        """,
    ),
    "all memory at the end of the command": (
        "a next command without memory",
        STAY
        + """
with open("/tmp/big", "wb") as f:
    for _ in range(12):
        f.write(bytes(1 << 20))
for i in range(4):
    if os.fork() == 0:
        os.setsid()
        taken = bytearray(b"x") * (15 << 20)
        open(f"/tmp/ready{i}", "w").close()
        stay()
for i in range(4):
    for _ in range(300):
        if os.path.exists(f"/tmp/ready{i}"):
            break
        time.sleep(0.01)
        """,
        """
        x = bytearray(b"x") * (70 << 20)
        held.append("nothing taken")
        """,
    ),
    "the guard's turn, processors and priority": (
        "a next command that is slow",
        """
        import json
        mine = [os.getpriority(0, 0), sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0)]
        json.dump(mine, open("/tmp/mine", "w"))
        x86 = os.uname().machine == "x86_64"
        for call in (
            lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
            lambda: os.setpriority(os.PRIO_USER, 0, 19),
            lambda: os.sched_setaffinity(1, {min(os.sched_getaffinity(0))}),
            lambda: libc.syscall(251 if x86 else 30, 1, 1, 3 << 13),
            lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
            lambda: os.sched_setscheduler(1, os.SCHED_BATCH, os.sched_param(0)),
        ):
            try:
                call()
            except OSError:
                pass
        """,
        """
        import json
        mine = [os.getpriority(0, 0), sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0)]
        attempt("changed", lambda: mine != json.load(open("/tmp/mine")) and mine)
        x86 = os.uname().machine == "x86_64"
        attempt("class of I/O", lambda: libc.syscall(252 if x86 else 31, 1, 0) >> 13 == 3)
        """,
    ),
    "limits, mask and folder": (
        "a next command with other limits, another mask or another folder",
        """
        import json, resource
        kinds = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
        json.dump([resource.getrlimit(kind) for kind in kinds], open("/tmp/limits", "w"))
        for kind in kinds:
            for pid in (0, 1, os.getppid()):
                try:
                    resource.prlimit(pid, kind, (1, 1)) if pid else None
                except OSError:
                    pass
        os.umask(0o777)
        os.mkdir("/tmp/elsewhere")
        os.chdir("/tmp/elsewhere")
        os.rmdir("/tmp/elsewhere")
        os.chmod("/workspace", 0o755)
        """,
        """
        import json, resource
        kinds = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
        now = [list(resource.getrlimit(kind)) for kind in kinds]
        attempt("limits", lambda: now != json.load(open("/tmp/limits")) and now)
        mask = os.umask(0)
        attempt("mask", lambda: mask != 0o022 and mask)
        attempt("folder", lambda: os.getcwd() != "/workspace")
        """,
    ),
    "memory and messages of the kernel": (
        "a channel past the end of a command",
        """
        check(libc.shmget(0x5EED, 4096, 0o1666))
        check(libc.msgget(0x5EED, 0o1666))
        check(libc.semget(0x5EED, 1, 0o1666))
        """,
        """
        attempt("shm", lambda: check(libc.shmget(0x5EED, 0, 0o666)) >= 0)
        attempt("msg", lambda: check(libc.msgget(0x5EED, 0o666)) >= 0)
        attempt("sem", lambda: check(libc.semget(0x5EED, 0, 0o666)) >= 0)
        """,
    ),
    "a queue of messages": (
        "a channel past the end of a command",
        "check(libc.mq_open(b'/queue', os.O_CREAT | os.O_RDWR, 0o666, None))",
        "attempt('queue', lambda: check(libc.mq_open(b'/queue', os.O_RDWR)) >= 0)",
    ),
    "sockets without a process": (
        "a listener, or a port in use, past the end of a command",
        """
        import array, socket
        listener = socket.create_server(("127.0.0.1", 7001))
        a, b = socket.socketpair()
        # Each holds the other in flight, and the listener with them: nobody's, until the kernel looks for such.
        fds = array.array("i", [listener.fileno(), a.fileno(), b.fileno()])
        for s in (a, b):
            s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        server = socket.create_server(("127.0.0.1", 7002))
        client = socket.create_connection(("127.0.0.1", 7002))
        served = server.accept()[0]
        served.close()
        client.close()
        """,
        """
        import socket
        attempt("listener", lambda: socket.create_connection(("127.0.0.1", 7001), 1) and "connected")
        for port in (7001, 7002):
            s = socket.socket()
            try:
                s.bind(("127.0.0.1", port))
            except OSError as e:
                won.append(f"{port}: {e}")
        """,
    ),
    "a pipe that nobody empties": (
        "a guard that waits for ever",
        STAY
        + """
import fcntl
fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK)
for fd in range(64):
    try:
        while True:
            os.write(fd, bytes(65536))
            if fd == 1:
                break
    except OSError:
        pass
if os.fork() == 0:
    while True:
        time.sleep(1)
        """,
        ALONE,
    ),
}


def _lasting(name: str, aims_for: str, first: str, second: str) -> Assault:
    async def act(field: Field) -> str:
        ended = (await field.python(first, timeout_s=30.0)).ended.value
        return f"ended as {ended}, then {await field.refused(second)}"

    return Assault(name, "lasting", aims_for, act)


ASSAULTS = [_lasting(name, *row) for name, row in PROGRAMS.items()]
