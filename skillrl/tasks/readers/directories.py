"""Tasks that are folders: task repositories of swebench 5.x and Harbor; and the rows of SEC-bench."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from skillrl.tasks.readers import images
from skillrl.tasks.readers.record import Record, Unusable
from skillrl.tasks.readers.rows import ReaderError, Row, read_rows

MAX_FILES_BYTES = 32 << 20
# How a published patch is put on the start.
APPLY = b"patch -s -p1 < /solution/gold.patch || git apply /solution/gold.patch\n"
_COLUMN_FILES = {
    "patch": "gold.patch",
    "test_patch": "test.patch",
    "eval_script": "eval.sh",
    "problem_statement": "problem_statement.md",
}


def swebench_rows(source: str, *, split: str = "") -> Iterator[Row]:
    """Rows of a file or of the hub, or of a task repository: `sweb.yaml` and `tasks/ID/task.yaml`."""
    root = Path(source)
    if not (root / "tasks").is_dir():
        yield from read_rows(source, split=split)
        return
    folders = sorted(p.parent for p in (root / "tasks").glob("*/task.yaml"))
    if not folders:
        raise ReaderError(f"{root}/tasks holds no task.yaml")
    for folder in folders:
        columns = {**read_mapping(folder / "task.yaml"), **_json_object(folder / "tests.json")}
        columns |= {column: read_text(folder / name) for column, name in _COLUMN_FILES.items()}
        if any(p.is_file() for p in (folder / "test_assets").rglob("*")):
            columns["image_assets"] = ["test_assets"]
        if not split or columns.get("split") == split:
            yield Row(columns, str(folder))


def harbor_rows(source: str, *, split: str = "") -> Iterator[Row]:
    """One row a folder that holds task.toml and instruction.md."""
    yield from folders_with(source, "task.toml")


def folders_with(source: str, name: str) -> Iterator[Row]:
    """One row a folder that holds a file of this name; its column `folder` is the path."""
    found = sorted(p.parent for p in Path(source).rglob(name))
    if not found:
        raise ReaderError(f"{source} holds no folder with {name}")
    for folder in found:
        yield Row({"folder": str(folder)}, str(folder))


def read_harbor(row: Row) -> Record:
    """Terminal-Bench 2 and other Harbor tasks: the tests write a reward, after the agent has left."""
    config, image, files = _harbor(row)
    folder = Path(row.text("folder"))
    if "tests/test.sh" not in files:
        raise row.damaged("tests/test.sh is missing")
    if "solution/solve.sh" not in files:
        raise Unusable("no solution/solve.sh, without which nothing proves the tests")
    name = config.mapping("task", {}).text("name", folder.name)
    if image.workdir == "/":
        raise Unusable("its container works in /, which is no folder of its own")
    verifier = config.mapping("verifier", {})
    timeout_s = verifier.number("timeout_sec", 900.0)
    if timeout_s <= 0:
        raise verifier.damaged("column 'timeout_sec' must be above 0")
    return Record(
        dataset="harbor",
        instance_id=name.replace("/", "__"),
        repository=f"harbor/{folder.name}",
        base_commit="",
        issue=read_text(folder / "instruction.md").strip(),
        patch="",
        hidden_files=files,
        image=image.name,
        workdir=image.workdir,
        test_command="bash /tests/test.sh",
        rule="reward_file",
        expected={"reward": "/logs/verifier/reward.txt", "gold_script": "bash /solution/solve.sh"},
        timeout_s=timeout_s,
        language="shell",
        licence="Apache-2.0",
        kind="terminal",
    )


@dataclass(frozen=True)
class StateImage:
    """What `build_images` makes of a task's container; `name` says of what. `published` may be its base."""

    name: str
    workdir: str
    published: str = ""


def harbor_folder(row: Row) -> tuple[StateImage, Mapping[str, bytes]]:
    """The image of a task and its files. Raises ReaderError."""
    _, image, files = _harbor(row)
    return image, files


def _harbor(row: Row) -> tuple[Row, StateImage, Mapping[str, bytes]]:
    folder = Path(row.text("folder"))
    try:
        config = Row(tomllib.loads(read_text(folder / "task.toml")), str(folder / "task.toml"))
    except tomllib.TOMLDecodeError as e:
        raise row.damaged(f"task.toml: {e}") from None
    files = read_files(folder, ("tests", "solution", "environment"))
    published = config.mapping("environment", {}).text("docker_image", "")
    return config, harbor_image(folder.name, published, files), files


def harbor_image(task: str, published: str, files: Mapping[str, bytes]) -> StateImage:
    """`files` are the task's own; of them environment/ counts."""
    whole = hashlib.sha256(published.encode())
    for path, data in sorted(files.items()):
        if path.startswith("environment/"):
            whole.update(f"\0{path}\0{len(data)}\0".encode() + data)
    dockerfile = files.get("environment/Dockerfile", b"").decode(errors="replace")
    workdir = "/app"
    for line in re.findall(r"(?mi)^\s*WORKDIR\s+(\S+)", dockerfile):
        workdir = str(PurePosixPath(workdir) / line.strip("'\""))
    name = re.sub(r"[^a-z0-9._-]+", "-", task.lower()).strip("._-") or "task"
    return StateImage(f"skillrl/harbor-{name}:{whole.hexdigest()[:12]}", workdir, published)


def read_sec_bench(row: Row) -> Record:
    """Faults in C and C++ that a sanitizer reports; the repaired program must run the proof without a report.

    The repository is in the image alone. Its `secb` builds it and runs the proof.
    """
    for name in ("project_name", "dockerfile", "sanitizer_report"):
        row.has(name)
    instance_id, description = row.text("instance_id"), row.text("bug_description", "")
    return Record(
        dataset="sec_bench",
        instance_id=instance_id,
        repository=row.text("repo"),
        base_commit=row.text("base_commit"),
        issue=row.text("bug_report", "") or description,
        patch=row.text("patch"),
        image=sec_bench_image(row).name,
        workdir=row.text("work_dir"),
        test_command="secb build && secb repro",
        rule="sanitizer",
        expected={
            "sanitizer": row.text("sanitizer"),
            "exit_code": str(row.integer("exit_code", 0)),
            "gold_script": "bash /solution/solve.sh",
            "build_sh": row.text("build_sh"),
            "secb_sh": row.text("secb_sh"),
        },
        solution={"solve.sh": APPLY, "gold.patch": row.text("patch").encode()},
        language=row.text("lang", "c"),
        kind="security",
    )


def sec_bench_image(row: Row) -> StateImage:
    """What `build_images` makes of the published image of a row."""
    instance_id = row.text("instance_id")
    published = images.sec_bench(instance_id, "patch")
    digest = hashlib.sha256(f"{published} {row.text('work_dir')}".encode()).hexdigest()
    name = re.sub(r"[^a-z0-9._-]+", "-", instance_id.lower()).strip("._-")
    return StateImage(f"skillrl/sec-{name}:{digest[:12]}", row.text("work_dir"), published)


def read_files(folder: Path, parts: Sequence[str]) -> dict[str, bytes]:
    """The files below these parts of a folder, by their paths in it; links are left out."""
    found: dict[str, bytes] = {}
    for part in parts:
        for path in sorted((folder / part).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not path.is_symlink():
                found[name] = path.read_bytes()
    if sum(map(len, found.values())) > MAX_FILES_BYTES:
        raise Unusable("files of more than 32 MiB")
    return found


def read_text(path: Path) -> str:
    """Raises ReaderError, as all of these do."""
    try:
        # Line ends as they are: a diff may need them.
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as e:
        raise ReaderError(f"{path}: damaged row: {getattr(e, 'strerror', None) or e}") from e


def read_mapping(path: Path) -> Mapping[str, object]:
    try:
        value = yaml.safe_load(read_text(path))
    except yaml.YAMLError as e:
        raise ReaderError(f"{path}: damaged row: {e}") from e
    if not isinstance(value, dict):
        raise ReaderError(f"{path}: damaged row: it must be a mapping")
    return value


def _json_object(path: Path) -> Mapping[str, object]:
    try:
        value = json.loads(read_text(path))
    except ValueError as e:
        if isinstance(e, ReaderError):
            raise
        raise ReaderError(f"{path}: damaged row: {e}") from e
    if not isinstance(value, dict):
        raise ReaderError(f"{path}: damaged row: it must be an object")
    return value
