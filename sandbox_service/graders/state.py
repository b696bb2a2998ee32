"""Tasks whose submission is the state of the agent's container: how it is made, taken out, cleaned and put back.

Their image comes from `skillrl.tasks.readers.build_images`: the folder that the task works in is a link to the
workspace, its content at the start stands below START, and what the harness brings is looked for below HARNESS, which
is read-only and there only while it is needed. All else of the image is read-only at all times, so the workspace is
the whole state that an agent can leave.
"""

import asyncio
import contextlib
import io
import os
import shlex
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from sandbox_service.backends.base import PACKAGES, WORKSPACE, Ended, ExecResult, Limits, Workspace
from sandbox_service.errors import SandboxError, TaskSetError
from sandbox_service.graders.base import GradeRequest
from sandbox_service.graders.paths import HARNESS_NAMES, RUNNER_MODULES
from sandbox_service.runner import Runner
from sandbox_service.tasks import Environment

RULES = frozenset({"reward_file", "sanitizer"})
START = "/skillrl/start"
# The proof of a fault, where a task has one: what stands there at the start, and where the image's link to it leads.
PROOF_START, PROOF = "/skillrl/testcase", "/tmp/testcase"
HARNESS = f"{PACKAGES}/harness"
BASH = "/bin/bash"
MAX_BYTES = 32 << 20
_RESTORED = "/tmp/state.tar"
_TIMEOUT_S = 120.0
# Where a link may not lead: what the harness brings, and ways around it.
_CLOSED = ("/tests", "/solution", "/logs", PACKAGES, "/proc", "/dev", "/sys")
# Bash: the image's search path without folders that the agent can write to.
CLEAN_PATH = """\
given=$PATH PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin kept=
IFS=:
for each in $given; do
  real=$(readlink -f -- "$each") || continue
  case "$each$real/" in
    /*/workspace/*|/*/tmp/*|/*/dev/*|/*/proc/*|/*/packages/*|[!/]*) ;;
    *) kept=$kept${kept:+:}$each ;;
  esac
done
unset IFS PYTHONPATH
export PATH=$kept
"""


@dataclass(frozen=True)
class Cleaned:
    """A state without what may not count. `left_out` are the paths of that."""

    archive: bytes
    left_out: tuple[str, ...]


async def fill(workspace: Workspace, environment: Environment) -> None:
    """Makes an empty workspace the start of its task, where the rule is one of these; else does nothing."""
    if environment.rule not in RULES:
        return
    copy = "cp -R -d --preserve=mode,timestamps,links"
    script = (
        f"{copy} {START}/. {WORKSPACE}/ || exit 1\n"
        f"[ ! -d {PROOF_START} ] || {{ {copy} {PROOF_START} {PROOF} && chmod -R u+w {PROOF}; }}"
    )
    done = await bash(workspace, script, _TIMEOUT_S)
    if done.ended is not Ended.EXITED or done.exit_code:
        raise TaskSetError(
            f"{environment.environment_id}: its image has no start ({done.output.decode(errors='replace')[-300:]}); "
            "make it with python -m skillrl.tasks.readers.build_images SOURCE, and serve that"
        )


async def capture(workspace: Workspace) -> bytes:
    """The workspace as an archive.

    Raises ValueError when it cannot be read or is larger than MAX_BYTES, SandboxError where the host was too slow.
    """
    limits = replace(Limits(), output_kept_bytes=2 * MAX_BYTES, output_stop_bytes=2 * MAX_BYTES)
    done = await bash(workspace, f"tar -C {WORKSPACE} -cf - . 2>/dev/null", _TIMEOUT_S, limits)
    if done.ended is Ended.TIMEOUT:
        raise SandboxError(f"the state was not read within {_TIMEOUT_S:.0f} s; give the host fewer sessions")
    if done.ended is not Ended.EXITED or done.exit_code or done.omitted_bytes:
        raise ValueError(f"it cannot be read ({done.ended.value}, exit status {done.exit_code})")
    if len(done.output) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return done.output


async def restore(workspace: Workspace, environment: Environment, archive: bytes | None) -> None:
    """Makes an empty workspace that state; None: the task's start. What cannot be unpacked is left out."""
    if archive is None:
        await fill(workspace, environment)
        return
    await workspace.write_file(_RESTORED, archive)
    done = await bash(workspace, f"tar -C {WORKSPACE} -xpf {_RESTORED}; rm -f {_RESTORED}", _TIMEOUT_S)
    if done.ended is Ended.TIMEOUT:
        raise SandboxError(f"the state was not unpacked within {_TIMEOUT_S:.0f} s; give the host fewer sessions")


async def bash(workspace: Workspace, script: str, timeout_s: float, limits: Limits | None = None) -> ExecResult:
    return await workspace.run([BASH, "-c", script], timeout_s=timeout_s, limits=limits)


async def state_after(request: GradeRequest, runner: Runner, script: str, *, with_solution: bool = False) -> bytes:
    """The state that a script leaves when it is run as an agent's commands are. Raises ValueError as `capture` does."""
    files = await runner.tree_files(request.task_set, request.instance.tree)
    environment = request.environment
    with runner.folder_for_one() as folder:
        if with_solution:
            brought = {p: data for p, data in files.items() if p.startswith("solution/")}
            await asyncio.to_thread(place, folder / "harness", brought)
        async with workspace_of(request, runner, folder) as workspace:
            await fill(workspace, environment)
            await bash(workspace, f"cd {shlex.quote(environment.workdir)}\n{script}", environment.timeout_s)
            return await capture(workspace)


def workspace_of(
    request: GradeRequest, runner: Runner, packages: Path | None = None
) -> contextlib.AbstractAsyncContextManager[Workspace]:
    """An empty workspace for the request's task."""
    overlays = (request.task.visible,)
    return runner.workspace(request.task_set, request.instance.tree, overlays, request.environment, packages=packages)


def place(root: Path, files: Mapping[str, bytes]) -> None:
    """Writes what the harness brings, for all to read."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755)
    for folder in (root.parent, root, *(p for p in root.rglob("*") if p.is_dir())):
        folder.chmod(0o755)


def names(archive: bytes) -> frozenset[str]:
    """Paths of all that is in a state of ours. Raises ValueError."""
    return frozenset(PurePosixPath(m.name).as_posix() for m in _members(archive)[0])


def files(archive: bytes) -> dict[str, bytes]:
    """The regular files of a state. Raises ValueError when the archive is damaged."""
    return _members(archive)[1]


def cleaned(archive: bytes, own: Collection[str], workdir: str) -> Cleaned:
    """The state without files that configure or replace what runs the tests, but for the paths in `own`, and without
    links that lead to what the harness brings. Raises ValueError when the archive is damaged.
    """
    members, data = _members(archive)
    buffer, left_out = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for member in members:
            path = PurePosixPath(member.name).as_posix()
            if path not in own and (_is_harness_name(path) or _leads_away(member, path, workdir)):
                left_out.append(path)
                continue
            # Rights of the owner are needed to write below it; no other user's matter.
            member.mode = (member.mode & 0o777) | 0o200
            member.pax_headers = {}
            out.addfile(member, io.BytesIO(data[path]) if member.isreg() else None)
    return Cleaned(buffer.getvalue(), tuple(left_out))


def _members(archive: bytes) -> tuple[list[tarfile.TarInfo], dict[str, bytes]]:
    """Files, folders and links, and the contents of the files."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = [m for m in tar if m.isreg() or m.isdir() or m.issym() or m.islnk()]
            data = {PurePosixPath(m.name).as_posix(): tar.extractfile(m).read() for m in members if m.isreg()}
    except (tarfile.TarError, OSError, EOFError, OverflowError) as e:
        raise ValueError(f"the state is damaged: {e}") from e
    return members, data


def _is_harness_name(path: str) -> bool:
    parts = PurePosixPath(path).parts
    is_module = len(parts) == 1 and parts[0].partition(".")[0] in RUNNER_MODULES
    return bool(parts) and (parts[-1] in HARNESS_NAMES or parts[-1].endswith(".pth") or is_module)


def _leads_away(member: tarfile.TarInfo, path: str, workdir: str) -> bool:
    if not member.issym():
        return False
    place = os.path.dirname(os.path.join(WORKSPACE, path))
    target = os.path.normpath(os.path.join(place, member.linkname)).replace("//", "/")
    if target == workdir or target.startswith(workdir + "/"):
        return False
    # A link to the root, or to any folder that holds a closed place, would open it by another name.
    return target == "/" or any(
        target == c or target.startswith(c + "/") or c.startswith(target + "/") for c in _CLOSED
    )
