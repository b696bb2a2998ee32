"""Training sets with schemas of their own: SWE-smith, R2E-Gym, Nemotron / NeMo-Gym."""

import json
import re
from collections.abc import Callable
from dataclasses import replace

from sandbox_service.graders.parsers import PARSERS
from skillrl.tasks.derive import unified_diff
from skillrl.tasks.readers import commands, images
from skillrl.tasks.readers.diffs import is_test_path
from skillrl.tasks.readers.record import Record, Unusable
from skillrl.tasks.readers.rows import Row
from skillrl.tasks.readers.swebench import read_swe_gym, read_swe_rebench, read_swe_rebench_v2, read_swebench

# R2E-Gym's short names.
R2E_REPOSITORIES = {
    "aiohttp": "aio-libs/aiohttp",
    "bokeh": "bokeh/bokeh",
    "coveragepy": "nedbat/coveragepy",
    "datalad": "datalad/datalad",
    "numpy": "numpy/numpy",
    "orange3": "biolab/orange3",
    "pandas": "pandas-dev/pandas",
    "pillow": "python-pillow/Pillow",
    "pyramid": "Pylons/pyramid",
    "scrapy": "scrapy/scrapy",
    "statsmodels": "statsmodels/statsmodels",
    "sympy": "sympy/sympy",
    "tornado": "tornadoweb/tornado",
}


def read_swe_smith(row: Row) -> Record:
    """`patch` makes the bug; only the files of the fail-to-pass tests are run."""
    row.has("created_at")
    fail_to_pass, repository = row.texts("FAIL_TO_PASS"), row.text("repo")
    files = sorted({i.partition("::")[0] for i in fail_to_pass if "::" in i})
    if not files:
        raise Unusable("tests of a language whose command is not known")
    # Only what is run can be wanted: absent is failed.
    pass_to_pass = tuple(i for i in row.texts("PASS_TO_PASS", ()) if i.partition("::")[0] in files)
    statement = row.text("problem_statement", "")
    if not statement.strip():
        raise Unusable("no problem statement")
    owner, _, name = repository.rpartition("/")[2].rpartition(".")[0].partition("__")
    return Record(
        dataset="swe_smith",
        instance_id=row.text("instance_id"),
        repository=f"{owner}/{name}" if name else repository,
        base_commit=row.text("base_commit", "") or row.text("instance_id"),
        issue=statement,
        patch=row.text("patch"),
        base_is_correct=True,
        fail_to_pass=fail_to_pass,
        pass_to_pass=pass_to_pass,
        image=row.text("image_name", "") or images.swe_smith(repository),
        setup=commands.CONDA,
        test_command=commands.shlex_join(commands.SWE_SMITH, files),
        parser="pytest_verbose",
        timeout_s=120.0,
    )


def read_r2e(row: Row) -> Record:
    """The commit's own new tests, in a folder that only the grader has; the results must equal the expected map."""
    for name in ("prompt", "modified_files", "modified_entity_summaries", "relevant_files"):
        row.has(name)
    for name in ("num_non_test_files", "num_non_test_func_methods", "num_non_test_lines"):
        row.has(name)
    repo_name, commit = row.text("repo_name"), row.text("commit_hash")
    run = row.mapping("execution_result_content")
    names, codes = run.texts("test_file_names"), run.texts("test_file_codes")
    if len(names) != len(codes):
        raise run.damaged(f"{len(names)} test_file_names but {len(codes)} test_file_codes")
    wanted = row.mapping("expected_output_json")
    statuses = {name: wanted.text(name).lower() for name in wanted.columns}
    before = PARSERS["pytest_names"](run.text("old_commit_res_stdout", ""))
    passing = [i for i, status in statuses.items() if status == "passed"]
    return Record(
        dataset="r2e",
        instance_id=f"{repo_name}__{commit[:12]}",
        repository=R2E_REPOSITORIES.get(repo_name, repo_name),
        # The image stands at the commit's parent.
        base_commit=f"{commit}^",
        issue=_between_tags(row.text("problem_statement")),
        patch=_commit_diff(row.mapping("parsed_commit_content")),
        test_texts={
            "r2e_tests/__init__.py": "",
            **{f"r2e_tests/{n}": c for n, c in zip(names, codes, strict=True)},
        },
        fail_to_pass=tuple(i for i in passing if before.get(i) != "passed"),
        pass_to_pass=tuple(i for i in passing if before.get(i) == "passed"),
        expected={i: status for i, status in statuses.items() if status != "passed"},
        image=row.text("docker_image", "") or images.r2e(repo_name, commit),
        test_command=commands.R2E,
        parser="pytest_names",
        rule="exact_map",
        timeout_s=300.0,
    )


def _between_tags(text: str) -> str:
    match = re.search(r"\[ISSUE\](.*?)\[/ISSUE\]", text, re.DOTALL)
    return (match[1] if match else text).strip()


def _commit_diff(commit: Row) -> str:
    """The commit's change of files that are no tests, made anew from the old and the new text."""
    before, after = {}, {}
    for change in commit.rows("file_diffs"):
        path = change.mapping("header").mapping("file").text("path")
        if is_test_path(path):
            continue
        old, new = change.text("old_file_content", ""), change.text("new_file_content", "")
        if old:
            before[path] = old.encode()
        after[path] = new or None
    return unified_diff(before, {path: text for path, text in after.items() if text is not None or path in before})


def read_nemo_gym(row: Row) -> Record:
    """A row of another dataset within one of NeMo-Gym: `instance_dict` holds it, `dataset_name` says whose it is."""
    row.has("agent_ref")
    metadata = row.mapping("responses_create_params").mapping("metadata")
    name = metadata.text("dataset_name")
    inner = dict(metadata.mapping("instance_dict").columns)
    for column, key in (("instance_id", "instance_id"), ("base_commit", "base_commit"), ("patch", "golden_patch")):
        if not inner.get(column) and metadata.has(key):
            inner[column] = metadata.text(key)
    if metadata.has("problem_statement"):
        inner["problem_statement"] = metadata.text("problem_statement")
    read = _reader_of(name.lower(), inner)
    return replace(read(Row(inner, f"{metadata.where}: instance_dict")), dataset="nemo_gym")


def _reader_of(name: str, inner: dict) -> Callable[[Row], Record]:
    if "r2e" in name:
        return read_r2e
    if "smith" in name:
        return read_swe_smith
    if "gym" in name:
        return read_swe_gym
    if "rebench" in name:
        is_second = "v2" in name or isinstance(_test_command(inner), list)
        return read_swe_rebench_v2 if is_second else read_swe_rebench
    if "swe-bench" in name or "swebench" in name:
        return read_swebench
    raise Unusable(f"rows of {name} are not known here")


def _test_command(inner: dict) -> object:
    config = inner.get("install_config")
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except (ValueError, RecursionError):
            return None
    return config.get("test_cmd") if isinstance(config, dict) else None
