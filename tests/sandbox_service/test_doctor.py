"""The report of what works on a host: the probes here for real, and their failures where something is taken away."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sandbox_service import doctor
from sandbox_service.doctor import MISSING, OK, WARNING, Finding

INFO = {
    "ServerVersion": "20.10",
    "Driver": "overlay2",
    "CgroupVersion": "2",
    "SecurityOptions": ["name=seccomp,profile=default"],
    "MemoryLimit": True,
    "PidsLimit": True,
    "Runtimes": {"runc": {}, "runsc": {}},
}


class FakeEngine:
    """Answers each connection with one reply."""

    def __init__(self, folder: Path, status: str, body: dict):
        self.path = str(folder / "engine.sock")
        reply = json.dumps(body).encode()
        self._reply = f"HTTP/1.0 {status}\r\nContent-Length: {len(reply)}\r\n\r\n".encode() + reply
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                asked = connection.recv(4096)
                if not asked:
                    return
                connection.sendall(self._reply)

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)
        self._thread.join()
        self._socket.close()


def engine_findings(folder: Path, **changes) -> dict[str, Finding]:
    with FakeEngine(folder, "200 OK", INFO | changes) as path:
        return {f.name: f for f in doctor._engine(path)}


def test_a_whole_engine(tmp_path):
    found = engine_findings(tmp_path)
    assert {name: f.state for name, f in found.items()} == {"container engine": OK, "gVisor": OK}
    assert "overlay2, cgroup v2" in found["container engine"].found


@pytest.mark.parametrize(
    ("changes", "name", "state", "says"),
    [
        ({"SecurityOptions": None}, "container engine", WARNING, "seccomp"),
        ({"Runtimes": {"runc": {}}}, "gVisor", WARNING, "runsc"),
        ({"MemoryLimit": False}, "limits of containers", MISSING, "control groups"),
    ],
)
def test_what_an_engine_lacks(tmp_path, changes, name, state, says):
    finding = engine_findings(tmp_path, **changes)[name]
    assert finding.state == state and says in finding.remedy


def test_an_engine_without_limits_is_not_usable(tmp_path):
    findings = [*engine_findings(tmp_path, PidsLimit=False).values()]
    docker = doctor._docker(findings)
    assert docker.state == MISSING and "PidsLimit" in docker.found
    assert doctor.usable([*findings, docker]) == []


def test_no_engine_and_one_that_refuses(tmp_path):
    (nothing,) = doctor._engine(str(tmp_path / "nothing"))
    assert nothing.state == MISSING and "DOCKER_HOST" in nothing.remedy
    with FakeEngine(tmp_path, "500 Internal Server Error", {}) as path:
        (broken,) = doctor._engine(path)
    assert broken.state == MISSING and "500" in broken.found


def test_a_probe_that_dies_is_a_finding(monkeypatch):
    answer = doctor.ask("no-such-probe")
    assert "KeyError" in answer["error"]


def test_the_report_names_every_remedy():
    findings = [Finding("a", OK, "fine"), Finding("backend jail", MISSING, "broken", "mend it")]
    assert doctor.render(findings).splitlines() == [
        "     ok  a             fine",
        "missing  backend jail  broken",
        "                       -> mend it",
        "",
        "usable here: nothing that isolates",
    ]


def run_doctor(tmp_path: Path, *prefix: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/none", "PYTHONPATH": os.getcwd()}
    command = [*prefix, sys.executable, "-m", "sandbox_service", "doctor", f"--state={tmp_path}"]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_this_host(tmp_path):
    done = run_doctor(tmp_path)
    states = {
        line[9:].partition("  ")[0].strip(): line.split()[0] for line in done.stdout.splitlines() if line[:7].strip()
    }
    assert (states["backend jail"], states["backend docker"]) == ("ok", "missing"), done.stdout
    assert {states[name] for name in ("namespaces", "overlay file system", "seccomp")} == {"ok"}
    assert done.returncode == 0 and done.stdout.endswith("usable here: jail\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="takes rights away from root")
def test_a_host_that_forbids_namespaces(tmp_path):
    """As in an ordinary container: root without CAP_SYS_ADMIN, user namespaces forbidden."""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    done = run_doctor(tmp_path, "unshare", "-Ur", "sh", "-c", forbid, "sh")
    assert done.returncode == doctor.EXIT_NONE_USABLE, done.stdout + done.stderr
    assert "usable here: nothing that isolates" in done.stdout
    lines = done.stdout.splitlines()
    jail = next(i for i, line in enumerate(lines) if "backend jail" in line)
    assert lines[jail].startswith("missing") and "->" in lines[jail + 1]


def test_a_socket_elsewhere_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine:2375")
    assert doctor.main([f"--state={tmp_path}"]) == 2
    assert "only unix sockets" in capsys.readouterr().err
