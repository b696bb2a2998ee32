"""SWE-bench and its relatives: Verified, Multilingual and Lite, SWE-Gym, SWT-Bench, Loc-Bench, SWE-rebench v1.

Old rows have twelve columns and lists as JSON in a text; rows of the swebench package 5.x carry image, eval_script,
log_parser and eval_type. Both forms are read.
"""

import json
from dataclasses import replace

from sandbox_service.graders.parsers import canonical
from skillrl.tasks.readers import commands, images
from skillrl.tasks.readers.commands import Commands
from skillrl.tasks.readers.diffs import DiffError, FileDiff, is_test_path, parse_diff
from skillrl.tasks.readers.record import Record, Unusable
from skillrl.tasks.readers.rows import Row

# Two repositories of Multilingual changed their runner between versions.
_BY_NUMBER = {
    "immutable_js": {"2006": "jest", "2005": "jest_json"},
    "jekyll": {
        "9141": "minitest", "8047": "minitest", "8167": "minitest", "8761": "cucumber", "8771": "cucumber",
    },
}  # fmt: skip


def read_swebench(row: Row) -> Record:
    # Columns that are known and of no use here: hints would tell the answer.
    for name in ("hints_text", "created_at", "environment_setup_commit", "difficulty", "version", "datasets", "split"):
        row.has(name)
    instance_id, repository = row.text("instance_id"), row.text("repo")
    test_patch = row.text("test_patch", "")
    fail_to_pass = row.texts("FAIL_TO_PASS", ())
    if row.has("image_assets"):
        raise Unusable("its tests need files that a diff cannot carry")
    made = _commands(row, instance_id, repository, test_patch) if fail_to_pass else Commands("", "", "")
    return Record(
        dataset="swebench",
        instance_id=instance_id,
        repository=repository,
        base_commit=row.text("base_commit"),
        issue=row.text("problem_statement"),
        patch=row.text("patch"),
        test_patch=test_patch,
        fail_to_pass=fail_to_pass,
        pass_to_pass=row.texts("PASS_TO_PASS", ()),
        image=row.text("image", "") or images.swebench(instance_id),
        setup=made.setup,
        test_command=made.test_command,
        parser=made.parser,
        language=_language(test_patch, row.text("patch")),
    )


def read_swe_gym(row: Row) -> Record:
    record = read_swebench(row)
    return replace(record, dataset="swe_gym", image=images.swe_gym(record.instance_id))


def read_swt_bench(row: Row) -> Record:
    """SWE-bench's rows; what is asked for are the tests.

    Its copies on the hub come with a prompt, `text`, and the diffs change places: `patch` has the tests, within tags.
    """
    row.has("text")
    patch, tests = row.text("patch"), row.text("test_patch")
    if patch.startswith("<patch>\n"):
        patch = patch.removeprefix("<patch>\n").removesuffix("\n</patch>")
        if all(is_test_path(diff.path) for diff in parsed(patch)):
            patch, tests = f"{tests}\n", patch
    columns = {**row.columns, "patch": patch, "test_patch": tests}
    return replace(read_swebench(replace(row, columns=columns)), dataset="swt_bench")


def read_loc_bench(row: Row) -> Record:
    """SWE-bench's columns and edit_functions; most rows have no tests and give localization alone."""
    functions = row.texts("edit_functions")
    for function in functions:
        path, _, name = function.partition(":")
        if not path or not name:
            raise row.damaged(f"column 'edit_functions[]' must be path:function, not {function[:40]!r}")
    row.texts("added_functions", ())
    row.has("category")
    return replace(read_swebench(row), dataset="loc_bench", expected={"edit_functions": json.dumps(functions)})


def read_swe_rebench(row: Row) -> Record:
    """SWE-bench's columns and install_config, which names command and parser."""
    row.has("meta")
    config = row.mapping("install_config")
    diffs = parsed(row.text("test_patch", ""))
    parser = _parser(config.text("log_parser", "parse_log_pytest"))
    command = commands.shlex_join(config.text("test_cmd"), commands.directives(row.text("repo"), diffs))
    image = row.text("image_name", "") or row.text("docker_image", "") or images.swe_rebench(row.text("instance_id"))
    for name in ("hints_text", "created_at", "environment_setup_commit", "version", "requirements", "environment"):
        row.has(name)
    return Record(
        dataset="swe_rebench",
        instance_id=row.text("instance_id"),
        repository=row.text("repo"),
        base_commit=row.text("base_commit"),
        issue=row.text("problem_statement"),
        patch=row.text("patch"),
        test_patch=row.text("test_patch", ""),
        fail_to_pass=row.texts("FAIL_TO_PASS"),
        pass_to_pass=row.texts("PASS_TO_PASS", ()),
        image=image,
        setup=commands.CONDA,
        test_command=command,
        parser=parser,
        licence=row.text("license_name", row.text("license", "")),
    )


def read_swe_rebench_v2(row: Row) -> Record:
    """Twenty languages; the tests that pass must be exactly those of both lists."""
    for name in ("pr_description", "meta", "created_at", "hints_text", "version", "interface"):
        row.has(name)
    config = row.mapping("install_config")
    tests = config.texts("test_cmd") if not config.is_text("test_cmd") else (config.text("test_cmd"),)
    repository, instance_id = row.text("repo"), row.text("instance_id")
    issue, interface = row.text("problem_statement"), row.text("interface", "")
    named = images.swe_rebench_v2(repository, instance_id, row.text("base_commit"))
    return Record(
        dataset="swe_rebench_v2",
        instance_id=instance_id,
        repository=repository,
        base_commit=row.text("base_commit"),
        # Names that the hidden tests use and the issue does not give.
        issue=f"{issue}\n\nInterface:\n{interface}" if interface.strip() else issue,
        patch=row.text("patch"),
        test_patch=row.text("test_patch"),
        fail_to_pass=row.texts("FAIL_TO_PASS"),
        pass_to_pass=row.texts("PASS_TO_PASS", ()),
        image=row.text("image_name", "") or named,
        workdir="/" + repository.rpartition("/")[2],
        test_command="\n".join(["set -e", *tests]),
        parser=_parser(config.text("log_parser")),
        rule="passed_set",
        language=row.text("language", "python"),
        licence=row.text("license", ""),
    )


def parsed(diff: str) -> list[FileDiff]:
    try:
        return parse_diff(diff)
    except DiffError:
        raise Unusable("a damaged diff") from None


def _commands(row: Row, instance_id: str, repository: str, test_patch: str) -> Commands:
    if row.text("eval_type", "pass_and_fail") != "pass_and_fail":
        # Under the published rule a test that is not named has passed.
        raise Unusable("its log names failures alone")
    if not row.has("eval_script"):
        return commands.known(repository, parsed(test_patch))
    name = row.text("log_parser").removeprefix("parse_log_")
    if name in _BY_NUMBER:
        name = _BY_NUMBER[name].get(instance_id.rpartition("-")[2], name)
    setup, command = commands.of_script(row.text("eval_script"))
    return Commands(setup, command, _parser(name))


def _parser(name: str) -> str:
    short = canonical(name)
    if short is None:
        raise Unusable(f"no parser {name.removeprefix('parse_log_')} here")
    return short


_LANGUAGES = {
    ".py": "python", ".go": "go", ".rs": "rust", ".java": "java", ".js": "javascript", ".ts": "javascript",
    ".tsx": "javascript", ".jsx": "javascript", ".mjs": "javascript", ".rb": "ruby", ".php": "php", ".c": "c",
    ".h": "c", ".cc": "c", ".cpp": "c", ".hpp": "c",
}  # fmt: skip


def _language(*diffs: str) -> str:
    """Of the first file with a known suffix, in the tests' diff or in the gold one."""
    for diff in diffs:
        for file in parsed(diff):
            suffix = "." + file.path.rpartition(".")[2]
            if suffix in _LANGUAGES:
                return _LANGUAGES[suffix]
    return "unknown"
