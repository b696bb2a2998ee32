"""Tasks that are folders: task repositories of swebench 5.x, Harbor, MLE-bench; and the rows of SEC-bench."""

import csv
import hashlib
import io
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from sandbox_service.graders.leaderboard_metrics import metric_of
from skillrl.tasks.readers import images
from skillrl.tasks.readers.record import Record, Unusable
from skillrl.tasks.readers.rows import ReaderError, Row, read_rows

MAX_FILES_BYTES = 32 << 20
HAND_IN = (
    "The data is in /workspace/data. Write what you predict to /workspace/submission.csv, in the form of the sample "
    "submission there: the same columns, and one row for each id."
)
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
        columns = {**_mapping(folder / "task.yaml"), **_json_object(folder / "tests.json")}
        columns |= {column: _text(folder / name) for column, name in _COLUMN_FILES.items()}
        if any(p.is_file() for p in (folder / "test_assets").rglob("*")):
            columns["image_assets"] = ["test_assets"]
        if not split or columns.get("split") == split:
            yield Row(columns, str(folder))


def harbor_rows(source: str, *, split: str = "") -> Iterator[Row]:
    """One row a folder that holds task.toml and instruction.md."""
    yield from _folders(source, "task.toml")


def mle_rows(source: str, *, split: str = "") -> Iterator[Row]:
    """One row a folder that holds config.yaml and description.md."""
    yield from _folders(source, "config.yaml")


def _folders(source: str, name: str) -> Iterator[Row]:
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
        issue=_text(folder / "instruction.md").strip(),
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
        config = Row(tomllib.loads(_text(folder / "task.toml")), str(folder / "task.toml"))
    except tomllib.TOMLDecodeError as e:
        raise row.damaged(f"task.toml: {e}") from None
    files = _files(folder, ("tests", "solution", "environment"))
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


def read_mle_bench(row: Row) -> Record:
    """A Kaggle competition: the submitted predictions earn a medal by the leaderboard.

    Its data comes from Kaggle: what `mlebench prepare` made of it must stand beside config.yaml, as prepared/.
    """
    folder = Path(row.text("folder"))
    config = Row(_mapping(folder / "config.yaml"), str(folder / "config.yaml"))
    name, metric = config.text("id"), config.mapping("grader").text("name")
    if metric_of(metric) is None:
        raise Unusable(f"its metric {metric!r} is not here")
    scores = _scores(folder / "leaderboard.csv")
    thresholds = dict(zip(("gold", "silver", "bronze"), (scores[r - 1] for r in medal_ranks(len(scores))), strict=True))
    dataset = config.mapping("dataset")
    answers, sample = (_prepared(folder, dataset.text(key)) for key in ("answers", "sample_submission"))
    shown = _files(folder / "prepared/public", (".",))
    return Record(
        dataset="mle_bench",
        instance_id=name,
        repository=f"kaggle/{name}",
        base_commit="",
        issue=f"{_text(folder / 'description.md').strip()}\n{HAND_IN}",
        patch="",
        hidden_files={p: (folder / p).read_bytes() for p in ("config.yaml", "leaderboard.csv")},
        shown_files={f"data/{p}": data for p, data in shown.items()},
        submission_path="submission.csv",
        image="mlebench-env",
        workdir="/home",
        rule="leaderboard",
        expected={
            "metric": metric,
            "better": "higher" if float(scores[0]) >= float(scores[-1]) else "lower",
            "gold_submission": _perfect(answers, sample),
            **thresholds,
        },
        timeout_s=24 * 3600.0,
        kind="ml_engineering",
    )


def _prepared(folder: Path, named: str) -> Path:
    """A file of the prepared data, by its name in config.yaml: ID/prepared/private/test.csv."""
    path = folder / "prepared" / named.partition("prepared/")[2]
    if not path.is_file():
        raise Unusable(f"no {path.relative_to(folder)}: run `mlebench prepare` and put its folder prepared/ here")
    return path


def _perfect(answers: Path, sample: Path) -> str:
    """The answers in the form of the sample submission."""
    (header, _), (columns, rows) = _table(sample), _table(answers)
    if len(header) < 2 or not rows:
        raise Unusable("its sample submission or its answers are empty")
    if missing := [column for column in header if column not in columns]:
        raise Unusable(f"its answers lack the column {missing[0]} of a submission: only its own grade.py can score it")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *([row.text(c) for c in header] for row in rows)])
    return out.getvalue()


def medal_ranks(teams: int) -> tuple[int, int, int]:
    """The last places that earn gold, silver and bronze, by Kaggle's rule (openai/mle-bench)."""
    if teams < 100:
        ranks = 0.1 * teams, 0.2 * teams, 0.4 * teams
    elif teams < 250:
        ranks = 10, 0.2 * teams, 0.4 * teams
    elif teams < 1000:
        ranks = 10 + 0.002 * teams, 50, 100
    else:
        ranks = 10 + 0.002 * teams, 0.05 * teams, 0.1 * teams
    gold, silver, bronze = (max(1, int(rank)) for rank in ranks)
    return gold, silver, bronze


def _scores(path: Path) -> Sequence[str]:
    scores = []
    for row in _table(path)[1]:
        # A team may be there without one.
        if row.has("score"):
            scores.append(row.text("score"))
            if not _is_number(scores[-1]):
                raise row.damaged(f"column 'score' must be a number, not {scores[-1][:40]!r}")
    if not scores:
        raise ReaderError(f"{path}: damaged row: no column 'score' with a value")
    return scores


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _table(path: Path) -> tuple[Sequence[str], Sequence[Row]]:
    """Header and rows of a CSV file."""
    lines = csv.DictReader(io.StringIO(_text(path), newline=""))
    rows: list[Row] = []
    try:
        for columns in lines:
            rows.append(Row(columns, f"{path}:{lines.line_num}"))
            if None in columns:
                raise rows[-1].damaged("more cells than the header")
    except csv.Error as e:
        raise ReaderError(f"{path}:{lines.line_num}: damaged row: {e}") from e
    return lines.fieldnames or (), rows


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


def _files(folder: Path, parts: Sequence[str], without: Sequence[str] = ()) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in parts:
        for path in sorted((folder / part).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not path.is_symlink() and name not in without:
                found[name] = path.read_bytes()
    if sum(map(len, found.values())) > MAX_FILES_BYTES:
        raise Unusable("files of more than 32 MiB")
    return found


def _text(path: Path) -> str:
    try:
        # Line ends as they are: a diff may need them.
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as e:
        raise ReaderError(f"{path}: damaged row: {getattr(e, 'strerror', None) or e}") from e


def _mapping(path: Path) -> Mapping[str, object]:
    try:
        value = yaml.safe_load(_text(path))
    except yaml.YAMLError as e:
        raise ReaderError(f"{path}: damaged row: {e}") from e
    if not isinstance(value, dict):
        raise ReaderError(f"{path}: damaged row: it must be a mapping")
    return value


def _json_object(path: Path) -> Mapping[str, object]:
    try:
        value = json.loads(_text(path))
    except ValueError as e:
        if isinstance(e, ReaderError):
            raise
        raise ReaderError(f"{path}: damaged row: {e}") from e
    if not isinstance(value, dict):
        raise ReaderError(f"{path}: damaged row: it must be an object")
    return value
