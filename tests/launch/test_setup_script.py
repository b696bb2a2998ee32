"""launch/setup.sh on machines that are not here: every command it finds is a stand-in that writes down its calls."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASH = shutil.which("bash")
TOOLS = ("dirname", "cksum", "cut", "touch", "grep", "mkdir", "cp")
# Evaluates the script's questions as a python of another version, and makes venvs of itself.
PYTHON = """#!{bash}
case "$1 $2" in
  "--version ") echo "Python {version}" ;;
  "-c "*) exec {real} -c 'import sys
sys.version_info = ({comma}, "final", 0)
sys.modules |= dict.fromkeys({lacks})
exec(sys.argv[1])' "$2" ;;
  "-m venv") echo "{version} $*" >>"$LOG"; eval "made=\\${{$#}}"; mkdir -p "$made/bin"; touch "$made/pyvenv.cfg"
    cp "$0" "$made/bin/python" ;;
  *) echo "{version} $*" >>"$LOG" ;;
esac
"""


class Machine:
    """A folder for PATH and a copy of the project's setup."""

    def __init__(self, root: Path, *, user_id: int):
        self.bin, self.project, self.log = root / "bin", root / "project", root / "log"
        self.bin.mkdir()
        (self.project / "launch").mkdir(parents=True)
        shutil.copy(ROOT / "launch/setup.sh", self.project / "launch")
        shutil.copy(ROOT / "setup.py", self.project)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for tool in ("git", "patch"):
            self.command(tool, "exit 0")
        self.command("id", f"echo {user_id}")
        self.command("apt-get", 'echo "apt-get $*" >>"$LOG"')

    def command(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!{BASH}\n{script}\n")
        (self.bin / name).chmod(0o755)

    def python(self, name: str, version: str, lacks: tuple[str, ...] = ()) -> None:
        comma = version.replace(".", ", ")
        text = PYTHON.format(bash=BASH, real=sys.executable, version=version, comma=comma, lacks=json.dumps(lacks))
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def set_up(self, **environment: str) -> tuple[int, str, list[str]]:
        """Exit status, standard error, and the calls that change something."""
        self.log.write_text("")
        done = subprocess.run(
            [BASH, "launch/setup.sh", ".venv", "cpu", "torch"],
            cwd=self.project,
            env={"PATH": str(self.bin), "LOG": str(self.log), **environment},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr, self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path, user_id=1000)


def installed(version: str) -> list[str]:
    pip = f"{version} -m pip --disable-pip-version-check --quiet install"
    return [f"{pip} torch", f"{pip} --editable .[cpu]"]


def test_the_second_call_does_nothing(machine):
    machine.python("python3", "3.12.3")
    assert machine.set_up() == (0, "", ["3.12.3 -m venv .venv", *installed("3.12.3")])
    assert machine.set_up() == (0, "", [])
    # Its python needs no other one beside it.
    (machine.bin / "python3").unlink()
    assert machine.set_up() == (0, "", [])


@pytest.mark.parametrize("version", ["3.10.12", "3.14.0"])
def test_a_python_of_another_version_is_refused_before_anything_is_made(machine, version):
    machine.python("python3", version)
    code, error, calls = machine.set_up()
    assert (code, calls) == (1, [])
    assert f"needs Python 3.11, 3.12 or 3.13, and 'python3' is Python {version}" in error
    assert "sudo apt-get install python3.11 python3.11-venv" in error and "PYTHON=" in error
    assert not (machine.project / ".venv").exists()


def test_the_first_python_that_suits_is_taken(machine):
    machine.python("python3", "3.10.12")
    machine.python("python3.12", "3.12.3")
    machine.python("mine", "3.13.1")
    assert machine.set_up(PYTHON=str(machine.bin / "mine"))[2][0] == "3.13.1 -m venv .venv"
    shutil.rmtree(machine.project / ".venv")
    assert machine.set_up()[2][0] == "3.12.3 -m venv .venv"


@pytest.mark.parametrize("broken", [False, True])
def test_a_venv_whose_python_does_not_suit_is_made_again(machine, broken):
    """Too old, as an earlier version of the script left it, or gone with an upgrade of the system."""
    machine.python("python3.11", "3.11.9")
    machine.set_up()
    inside = machine.project / ".venv/bin/python"
    inside.unlink()
    if not broken:
        machine.python("python3", "3.10.12")
        shutil.copy(machine.bin / "python3", inside)
    code, error, calls = machine.set_up()
    assert (code, error, calls[0]) == (0, "", "3.11.9 -m venv --clear .venv")


def test_the_venv_module_of_that_very_python_is_installed_or_named(tmp_path):
    for user_id, expected in ((0, 0), (1000, 1)):
        folder = tmp_path / str(user_id)
        folder.mkdir()
        machine = Machine(folder, user_id=user_id)
        machine.python("python3.11", "3.11.2", lacks=("ensurepip",))
        code, error, calls = machine.set_up()
        assert code == expected
        if user_id:
            assert "run: sudo apt-get install python3.11-venv\n" in error and calls == []
        else:
            assert calls[:2] == ["apt-get update -qq", "apt-get install -qq -y --no-install-recommends python3.11-venv"]
            assert calls[2] == "3.11.2 -m venv .venv"
