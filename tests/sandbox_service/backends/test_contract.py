"""What every backend does the same way, safe or not."""

import asyncio
import json
import random
import socket

import pytest
from bench import SMALL, TREE, make_bench, write_tree
from engine import IMAGE

from sandbox_service.backends.base import WORKSPACE, Ended, Limits
from sandbox_service.backends.docker import DockerBackend
from sandbox_service.backends.jail import JailBackend
from sandbox_service.backends.output import HeadTail
from sandbox_service.backends.selftest import ATTACKS
from sandbox_service.backends.unsafe import UnsafeBackend
from sandbox_service.errors import BadRequest, SandboxError

RANDOM_EDITS = """
import json, os, random, shutil
r = random.Random(SEED)
def entries():
    return sorted(os.path.join(d, n) for d, ds, fs in os.walk(".") for n in ds + fs)
for i in range(40):
    p = r.choice(entries() + [f"new{i}", f"docs/new{i}", f"pkg/sub/new{i}"])
    action = r.choice("write write delete move link replace chmod".split())
    try:
        if action == "write":
            os.makedirs(os.path.dirname(p) or ".", exist_ok=True)
            open(p, "w").write(r.choice(["alpha\\n", "x\\n", str(i)]))
        elif action == "delete":
            shutil.rmtree(p) if os.path.isdir(p) and not os.path.islink(p) else os.remove(p)
        elif action == "move":
            shutil.move(p, r.choice(["moved", "docs/moved", "pkg"]))
        elif action == "link":
            os.remove(p); os.symlink("/etc/passwd", p)
        elif action == "replace":
            shutil.rmtree(p); os.mkdir(p); open(p + "/again", "w").write("again")
        elif action == "chmod":
            os.chmod(p, 0o755)
    except (OSError, shutil.Error):
        pass
files = [p for p in entries() if os.path.isfile(p) and not os.path.islink(p)]
print(json.dumps({os.path.normpath(p): open(p).read() for p in files}))
"""


DOCKER = pytest.param("docker", marks=pytest.mark.deep)
# What only a backend that isolates can promise.
ISOLATED = pytest.mark.parametrize("bench", ["jail", DOCKER], indirect=True)


@pytest.fixture(scope="module", params=["jail", "unsafe", DOCKER])
def bench(request, tmp_path_factory):
    def make(state):
        if request.param == "docker":
            return DockerBackend(state, IMAGE, socket_path=request.getfixturevalue("engine").socket, pool=1)
        return {"jail": JailBackend, "unsafe": UnsafeBackend}[request.param](state)

    if request.param == "docker":
        request.getfixturevalue("engine")
    with asyncio.Runner() as loop:
        made = make_bench(loop, make, tmp_path_factory.mktemp("contract"))
        yield made
        loop.run(made.backend.stop())


@pytest.fixture
def workspace(bench):
    made = bench.workspace()
    yield made
    bench.do(made.close())


@pytest.mark.parametrize(
    ("argv", "ended", "code", "output"),
    [
        (["true"], Ended.EXITED, 0, b""),
        (["bash", "-c", "echo one; echo two >&2; exit 3"], Ended.EXITED, 3, b"one\ntwo\n"),
        (["cat"], Ended.EXITED, 0, b""),
        (["no-such-program"], Ended.EXITED, 127, b"no-such-program: No such file or directory\n"),
        (["bash", "-c", "kill -9 $$"], Ended.SIGNALED, 9, b""),
        (["bash", "-c", "kill -SEGV $$"], Ended.SIGNALED, 11, b""),
    ],
)
def test_ends(bench, workspace, argv, ended, code, output):
    result = bench.do(workspace.run(argv, timeout_s=20.0))
    assert (result.ended, result.exit_code, result.output) == (ended, code, output)
    assert result.omitted_bytes == 0


def test_timeout_covers_the_whole_script_and_keeps_its_output(bench, workspace):
    result = bench.sh(workspace, "echo before; true && sleep 30", timeout_s=0.5)
    assert (result.ended, result.exit_code, result.output) == (Ended.TIMEOUT, -1, b"before\n")
    assert 0.5 <= result.wall_s < 5


def test_a_background_program_does_not_delay_the_end(bench, workspace):
    result = bench.sh(workspace, "sleep 30 & echo done")
    assert (result.ended, result.output) == (Ended.EXITED, b"done\n")
    assert result.wall_s < 10


def test_output_keeps_head_and_tail_and_counts_the_middle(bench, workspace):
    result = bench.python(
        workspace, "for i in range(100000): print(f'{i:09d}')", limits=Limits(memory_mib=64, output_kept_bytes=1000)
    )
    expected = "".join(f"{i:09d}\n" for i in range(100000)).encode()
    assert result.output == expected[:500] + expected[-500:]
    assert result.omitted_bytes == len(expected) - 1000


def test_a_flood_is_stopped(bench, workspace):
    limits = Limits(memory_mib=64, output_kept_bytes=4096, output_stop_bytes=1 << 20)
    result = bench.do(workspace.run(["yes"], timeout_s=20.0, limits=limits))
    assert (result.ended, result.exit_code, len(result.output)) == (Ended.OUTPUT_LIMIT, -1, 4096)
    assert result.omitted_bytes > (1 << 20) - 4096


def test_environment_is_fresh(bench, workspace, monkeypatch):
    monkeypatch.setenv("SERVICE_SECRET", "1")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads(bench.python(workspace, code, env={"EXTRA": "2"}).output)
    assert seen["EXTRA"] == "2" and seen["PYTHONHASHSEED"] == "0" and seen["TZ"] == "UTC"
    assert "SERVICE_SECRET" not in seen


def test_a_workspace_is_private_and_its_base_is_left_alone(bench):
    one, other = bench.workspace(), bench.workspace()
    bench.sh(one, "echo changed > a.txt; rm -r docs; touch new")
    assert bench.sh(other, "cat a.txt; ls").output == b"alpha\na.txt\ndocs\npkg\n"
    assert bench.sh(one, "ls").output == b"a.txt\nnew\npkg\n"
    assert (bench.base / "a.txt").read_text() == TREE["a.txt"] and (bench.base / "docs/y.md").exists()
    bench.do(one.close())
    bench.do(other.close())


def test_read_and_write_files(bench, workspace):
    bench.do(workspace.write_file("new/deep/file.bin", b"\0\xff"))
    assert bench.do(workspace.read_file("new/deep/file.bin")) == b"\0\xff"
    assert bench.do(workspace.read_file(f"{WORKSPACE}/a.txt")) == b"alpha\n"
    bench.do(workspace.write_file("a.txt", b"a"))
    assert bench.sh(workspace, "cat a.txt; echo more >> new/deep/file.bin").output == b"a"
    bench.sh(workspace, "chmod 755 a.txt")
    bench.do(workspace.write_file("a.txt", b"b"))
    assert bench.sh(workspace, "stat -c %a a.txt").output == b"755\n"


def test_read_refuses_what_is_no_regular_file_of_the_workspace(bench, workspace):
    bench.sh(workspace, "ln -s /etc/passwd link; ln -s ../../../../etc up; mkfifo fifo; ln -s a.txt fine; ln -s / root")
    for path, error in {
        "missing": FileNotFoundError,
        "docs": IsADirectoryError,
        "fifo": ValueError,
        "link": ValueError,
        "root/etc/passwd": ValueError,
        "/dev/zero": ValueError,
        "/etc/passwd": ValueError,
        "a\0b": ValueError,
    }.items():
        with pytest.raises(error):
            bench.do(workspace.read_file(path))
    with pytest.raises((ValueError, FileNotFoundError)):
        bench.do(workspace.read_file("up/passwd"))
    assert bench.do(workspace.read_file("fine")) == b"alpha\n"
    with pytest.raises(ValueError, match="larger than 5"):
        bench.do(workspace.read_file("a.txt", max_bytes=5))
    assert bench.do(workspace.read_file("a.txt", max_bytes=6)) == b"alpha\n"


def test_write_refuses_to_leave_the_workspace(bench, workspace):
    bench.sh(workspace, "ln -s /etc/evil link; ln -s / root; mkfifo fifo")
    for path in ("link", "root/evil", "fifo", "/evil", "../evil"):
        with pytest.raises((ValueError, OSError)):
            bench.do(workspace.write_file(path, b"evil"))
    with pytest.raises(IsADirectoryError):
        bench.do(workspace.write_file("docs", b"x"))
    with pytest.raises(OSError):
        bench.do(workspace.write_file("a.txt/below", b"x"))


def test_changed_files_by_hand(bench, workspace):
    assert bench.do(workspace.changed_files()) == {}
    bench.sh(
        workspace,
        "echo beta > a.txt; echo new > n; mkdir -p e/f; echo g > e/f/g; rm pkg/mod.py; touch pkg/__init__.py;"
        "rm -r docs; mkdir docs; echo z > docs/z.md; ln -s a.txt l; mkfifo p",
    )
    assert bench.do(workspace.changed_files()) == {
        "a.txt": b"beta\n",
        "n": b"new\n",
        "e/f/g": b"g\n",
        "pkg/mod.py": None,
        "docs/deep/x.md": None,
        "docs/y.md": None,
        "docs/z.md": b"z\n",
    }


def test_a_file_and_a_folder_may_change_places(bench, workspace):
    bench.sh(workspace, "rm a.txt; mkdir a.txt; echo 1 > a.txt/b; rm -r docs; echo 2 > docs; ln -sf /x pkg/mod.py")
    assert bench.do(workspace.changed_files()) == {
        "a.txt": None,
        "a.txt/b": b"1\n",
        "docs": b"2\n",
        "docs/deep/x.md": None,
        "docs/y.md": None,
        "pkg/mod.py": None,
    }


@pytest.mark.parametrize("seed", range(6))
def test_base_plus_changes_is_what_the_sandbox_sees(bench, workspace, seed):
    seen = json.loads(bench.python(workspace, RANDOM_EDITS.replace("SEED", str(seed))).output)
    changes = bench.do(workspace.changed_files())
    assert changes
    rebuilt = {name: text.encode() for name, text in TREE.items()}
    for path, data in changes.items():
        if data is None:
            del rebuilt[path]
        else:
            assert rebuilt.get(path) != data, "an unchanged file was reported"
            rebuilt[path] = data
    assert {name: data.decode() for name, data in rebuilt.items()} == seen


def test_a_change_that_is_too_large_is_refused(bench, workspace):
    bench.sh(workspace, "head -c 100000 /dev/zero > big")
    with pytest.raises(ValueError, match="larger than 50000"):
        bench.do(workspace.changed_files(max_bytes=50000))
    assert len(bench.do(workspace.changed_files())["big"]) == 100000


def test_commands_overlap(bench, workspace):
    async def both():
        waiting = workspace.run(["bash", "-c", "until [ -e flag ]; do sleep 0.02; done; echo seen"], timeout_s=20.0)
        return await asyncio.gather(waiting, workspace.run(["touch", "flag"], timeout_s=20.0))

    waited, _ = bench.do(both())
    assert waited.output == b"seen\n"


def test_cancelling_a_command_kills_it(bench, workspace, command_lines):
    marker = f"{86400 + random.random():.9f}"

    async def cancel():
        task = asyncio.create_task(workspace.run(["sleep", marker], timeout_s=60.0))
        while not command_lines(marker):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while command_lines(marker):
            await asyncio.sleep(0.01)

    bench.do(asyncio.wait_for(cancel(), 20.0))
    assert bench.sh(workspace, "echo usable").output == b"usable\n"


def test_close_ends_running_commands_and_may_be_repeated(bench, command_lines):
    marker = f"{86400 + random.random():.9f}"
    workspace = bench.workspace()

    async def close():
        task = asyncio.create_task(workspace.run(["sleep", marker], timeout_s=60.0))
        while not command_lines(marker):
            await asyncio.sleep(0.01)
        await asyncio.gather(workspace.close(), workspace.close())
        with pytest.raises(SandboxError, match="closed"):
            await task

    bench.do(asyncio.wait_for(close(), 20.0))
    assert not command_lines(marker)
    bench.do(workspace.close())
    with pytest.raises(SandboxError, match="closed"):
        bench.sh(workspace, "true")
    with pytest.raises(SandboxError, match="closed"):
        bench.do(workspace.read_file("a.txt"))


def test_a_base_that_is_not_there_is_the_callers_fault(bench, tmp_path):
    with pytest.raises(BadRequest):
        bench.do(bench.backend.open_workspace(tmp_path / "nowhere", limits=SMALL))


def test_pytest_works_inside(bench, workspace):
    bench.do(workspace.write_file("test_it.py", b"from pkg.mod import X\ndef test_it(): assert X == 1\n"))
    result = bench.do(workspace.run(["python", "-m", "pytest", "-q"], timeout_s=60.0))
    assert result.exit_code == 0 and b"1 passed" in result.output


def test_the_harness_reports_over_its_own_channel(bench, workspace):
    bench.do(workspace.write_file("test_it.py", b"def test_good(): print('noise')\ndef test_bad(): assert 0\n"))
    result = bench.harness(workspace, ["test_it.py"])
    report = json.loads(result.report)
    assert (result.exec.ended, result.exec.exit_code, report["exit_code"]) == (Ended.EXITED, 1, 1)
    assert {name: row[0] for name, row in report["results"].items()} == {
        "test_it.py::test_good": "passed",
        "test_it.py::test_bad": "failed",
    }


def test_a_harness_that_is_killed_leaves_no_report(bench, workspace):
    bench.do(workspace.write_file("test_it.py", b"import os\ndef test_it(): os.kill(os.getpid(), 9)\n"))
    result = bench.harness(workspace, ["test_it.py"])
    assert (result.exec.ended, result.exec.exit_code, result.report) == (Ended.SIGNALED, 9, None)


@ISOLATED
def test_the_self_test_finds_everything_enforced(bench):
    isolation = bench.do(bench.backend.self_test())
    assert isolation.unenforced == {}
    assert isolation.enforced.keys() == ATTACKS.keys()


@ISOLATED
def test_a_command_has_no_privileges(bench, workspace):
    script = "id -u; id -un; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
    uid, name, *status = bench.sh(workspace, script).output.decode().splitlines()
    values = dict(line.split(":\t") for line in status)
    assert (uid, name) == ("1000", "agent")
    assert {v for k, v in values.items() if k.startswith("Cap")} == {"0" * 16}
    assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2")


@ISOLATED
def test_only_the_workspace_and_temporary_folders_can_be_written(bench, workspace):
    code = (
        "import os\n"
        "own = ('/proc', '/workspace', '/tmp', '/dev/shm', '/dev/mqueue')\n"
        "for d, ds, fs in os.walk('/'):\n"
        "    ds[:] = [n for n in ds if os.path.join(d, n) not in own]\n"
        "    for p in [d, *(os.path.join(d, n) for n in fs)]:\n"
        "        is_plain = os.path.isdir(p) or os.path.isfile(p)\n"
        "        if os.access(p, os.W_OK) and is_plain and not os.path.islink(p): print(p)\n"
    )
    result = bench.python(workspace, code, timeout_s=60.0)
    assert (result.ended, result.output) == (Ended.EXITED, b"")


@ISOLATED
def test_memory_of_all_processes_counts(bench, workspace):
    code = "x = bytearray(128 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
    result = bench.python(workspace, code)
    assert (result.ended, result.exit_code) == (Ended.OUT_OF_MEMORY, -1)
    child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = bytes(1) * (128 << 20)'], check=True)"
    assert bench.python(workspace, child).ended is Ended.OUT_OF_MEMORY
    assert bench.sh(workspace, "echo usable").output == b"usable\n"


@ISOLATED
def test_processes_are_counted(bench, workspace):
    code = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(60)"
    result = bench.python(workspace, code)
    assert (result.ended, result.exit_code) == (Ended.OUT_OF_PROCESSES, -1)
    popen = f"[subprocess.Popen(['sleep', '0.3']) for _ in range({SMALL.processes - 4})]"
    assert bench.python(workspace, f"import subprocess\nfor p in {popen}: p.wait()").ended is Ended.EXITED


@ISOLATED
def test_a_fork_bomb_ends_and_leaves_the_workspace_usable(bench, workspace):
    bench.sh(workspace, ":(){ :|:& };:; sleep 1", timeout_s=5.0)
    assert bench.sh(workspace, "echo usable").output == b"usable\n"


@ISOLATED
@pytest.mark.parametrize("place", ["/workspace/big", "/tmp/big", "/dev/shm/big"])
def test_a_full_disk_is_told(bench, workspace, place):
    result = bench.sh(workspace, f"head -c 40M /dev/zero > {place}")
    assert (result.ended, result.exit_code) == (Ended.OUT_OF_DISK, -1)
    assert bench.sh(workspace, f"rm {place}; head -c 8M /dev/zero > {place}").ended is Ended.EXITED


@ISOLATED
def test_many_small_files_fill_the_disk_too(bench, workspace):
    result = bench.python(workspace, "for i in range(100000): open(f'/tmp/{i}', 'w').close()", timeout_s=60.0)
    assert result.ended is Ended.OUT_OF_DISK
    assert bench.do(workspace.changed_files()) == {}


@ISOLATED
def test_a_program_in_its_own_session_dies_with_the_command(bench, workspace, command_lines):
    marker = f"{86400 + random.random():.9f}"
    result = bench.sh(workspace, f"setsid setsid sleep {marker} & trap '' TERM; sleep 30", timeout_s=0.5)
    assert result.ended is Ended.TIMEOUT
    assert command_lines(marker) == []
    bench.sh(workspace, f"setsid sleep {marker} & sleep 0.1")
    assert command_lines(marker) == []


@ISOLATED
def test_the_end_of_a_command_spares_those_beside_it(bench, workspace, command_lines):
    """Its own descendants die wherever they have gone; another command's live on."""
    marker = f"{86400 + random.random():.9f}"
    orphans = f"for i in 1 2 3; do (setsid setsid sleep {marker} &) ; done; sleep 0.3"

    async def both():
        beside = workspace.run(["bash", "-c", "until [ -e go ]; do sleep 0.02; done; echo alive"], timeout_s=60.0)
        task = asyncio.create_task(beside)
        await workspace.run(["bash", "-c", orphans], timeout_s=30.0)
        assert command_lines(marker) == []
        await workspace.run(["bash", "-c", f"sleep {marker} & exec sleep {marker}"], timeout_s=0.3)
        assert command_lines(marker) == []
        await workspace.run(["touch", "go"], timeout_s=30.0)
        return await task

    assert bench.do(both()).output == b"alive\n"


@ISOLATED
def test_a_command_that_kills_whatever_it_can_ends_itself(bench, workspace):
    result = bench.sh(workspace, "kill -9 1; kill -STOP 1; kill -9 -1; sleep 1")
    assert result.ended in (Ended.SIGNALED, Ended.EXITED)
    assert bench.sh(workspace, "echo usable").output == b"usable\n"


@ISOLATED
def test_taking_its_own_rights_away_changes_nothing(bench, workspace):
    """What the agent did is still found, and counts."""
    bench.sh(workspace, "echo beta > a.txt; chmod 000 a.txt docs .")
    assert bench.do(workspace.changed_files()) == {"a.txt": b"beta\n"}
    assert bench.sh(workspace, "echo usable").output == b"usable\n"


@ISOLATED
def test_folders_nested_without_end_are_refused(bench, workspace):
    bench.python(workspace, "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')")
    with pytest.raises(ValueError, match="levels deep"):
        bench.do(workspace.changed_files())


@ISOLATED
def test_no_network_but_its_own_loopback(bench, workspace):
    with socket.create_server(("127.0.0.1", 0)) as server:
        places = [(2, server.getsockname()), (2, ("192.0.2.1", 80)), (10, ("::1", server.getsockname()[1]))]
        code = f"""
import socket
for family, place in {places!r}:
    s = socket.socket(family)
    s.settimeout(2)
    try:
        s.connect(place)
        print("connected", place)
    except OSError:
        print("refused")
s = socket.create_server(("127.0.0.1", 8080))
c = socket.create_connection(("localhost", 8080))
c.send(b"hello")
print(s.accept()[0].recv(5))
print(*(line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]))
"""
        assert bench.python(workspace, code).output == b"refused\n" * 3 + b"b'hello'\nlo\n"


@ISOLATED
def test_tmp_lasts_as_long_as_the_workspace_and_is_its_own(bench, workspace):
    other = bench.workspace()
    bench.sh(workspace, "echo kept > /tmp/f; echo kept > $HOME/g; touch /dev/shm/h")
    assert bench.sh(workspace, "cat /tmp/f /tmp/g").output == b"kept\nkept\n"
    assert bench.do(workspace.read_file("/tmp/f")) == b"kept\n"
    assert bench.sh(other, "ls /tmp /dev/shm | grep -E '^[fgh]$'").exit_code == 1
    bench.do(other.close())


@ISOLATED
def test_limits_of_a_process(bench, workspace):
    result = bench.python(workspace, "x = [open('a.txt') for _ in range(2000)]")
    assert result.exit_code == 1 and b"Too many open files" in result.output
    result = bench.sh(workspace, "ulimit -c; kill -ABRT $$")
    assert (result.ended, result.exit_code, result.output) == (Ended.SIGNALED, 6, b"0\n")


@ISOLATED
def test_own_packages_replace_the_default(bench, tmp_path):
    packages = write_tree(tmp_path / "packages", {"only.py": "X = 42\n"})
    tmp_path.chmod(0o755)
    workspace = bench.do(bench.backend.open_workspace(bench.base, packages=packages, limits=SMALL))
    assert bench.python(workspace, "import only; print(only.X)").output == b"42\n"
    assert bench.python(workspace, "import pytest").exit_code == 1
    assert bench.sh(workspace, "touch /packages/x").exit_code == 1
    bench.do(workspace.close())


@ISOLATED
def test_large_requests_and_output(bench):
    workspace = bench.workspace(Limits(memory_mib=256, disk_mib=64))
    data = random.Random(0).randbytes(6 << 20)
    bench.do(workspace.write_file("big", data))
    assert bench.do(workspace.read_file("big")) == data
    assert bench.do(workspace.changed_files()) == {"big": data}
    assert bench.do(workspace.run(["true", "x" * 200_000], timeout_s=20.0)).exit_code == 126
    result = bench.sh(workspace, "head -c 50M /dev/zero", timeout_s=60.0)
    assert (result.ended, len(result.output) + result.omitted_bytes) == (Ended.EXITED, 50 << 20)
    bench.do(workspace.close())


@ISOLATED
def test_output_can_be_read_while_a_command_runs(bench, workspace):
    async def watch():
        output = HeadTail(1000)
        waits = ["bash", "-c", "echo first; until [ -e go ]; do sleep 0.02; done; echo last"]
        task = asyncio.create_task(workspace.run(waits, timeout_s=60.0, output=output))
        while output.read(0)[1] != b"first\n":
            await asyncio.sleep(0.01)
        await workspace.run(["touch", "go"], timeout_s=30.0)
        await task
        return output.read(6)

    assert bench.do(asyncio.wait_for(watch(), 60.0)) == (6, b"last\n")


@ISOLATED
def test_tested_code_finds_no_channel_to_the_service(bench, workspace):
    """The harness is forked and not executed anew: it holds its own report's descriptor alone."""
    test = b"""
import os

def test_it():
    for n in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{n}"):
            print("open:", os.readlink(f"/proc/self/fd/{n}").split(":")[0])
    import importlib.util
    print("found:", importlib.util.find_spec("sandbox_service"), importlib.util.find_spec("grpc"))
    assert 0
"""
    bench.do(workspace.write_file("test_it.py", test))
    output = bench.harness(workspace, ["test_it.py"]).exec.output.decode()
    assert "found: None None" in output
    assert "open: pipe" in output and "socket" not in output and "memfd" not in output
