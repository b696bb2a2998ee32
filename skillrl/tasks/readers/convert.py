"""A record -> environment, instance and tasks. Pure functions of the record and, where it is at hand, of its tree."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from sandbox_service.graders.paths import is_source
from sandbox_service.tasks import Environment, HiddenTask, Instance, Overlay, apply_overlay
from skillrl.tasks.contamination import repository_key
from skillrl.tasks.derive import make_task_id
from skillrl.tasks.hiding import without_tests
from skillrl.tasks.readers.commands import without_image
from skillrl.tasks.readers.diffs import DiffError, apply_diff, is_doc_path, is_test_path
from skillrl.tasks.readers.record import Parts, Record, Trees, Unusable
from skillrl.tasks.readers.skills import gold_lines, skills_of, target_of
from skillrl.tasks.readers.swebench import parsed

MAX_COMMAND_BYTES = 100_000
LEVEL = 3
_TEST_ROOTS = frozenset({"test", "tests", "testing", "__tests__", "spec", "r2e_tests"})


@dataclass(frozen=True)
class Options:
    """How records become tasks."""

    # "record": the dataset's image; "local": the sandbox's own interpreter and `packages`.
    image: str = "record"
    # NAME==VERSION, for "local".
    packages: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """What a record gave. `files` is the correct tree, empty where it stands in the image alone."""

    environment: Environment
    instance: Instance
    files: Mapping[str, bytes]
    tasks: Sequence[tuple[dict, HiddenTask]]
    # Skill -> why the record does not give it.
    left_out: Mapping[str, str] = field(default_factory=dict)


def convert(record: Record, base: Mapping[str, bytes] | None, options: Options, split: str) -> Converted:
    """`base` is the repository at the record's base commit, None where only the image has it. Raises Unusable."""
    if record.hidden_files:
        return _convert_whole(record, options, split)
    parts = _parts(record)
    environment = _environment(record, parts, options, base or ())
    trees = _trees(record, parts, base) if base is not None and not record.solution else None
    _check_gradable(record, environment, trees)
    instance = _instance(record, environment, parts, trees)
    if any(line in record.issue for line in gold_lines(record, parts)):
        raise Unusable("its text quotes the gold change")
    found = skills_of(record, parts, environment, trees)
    kept = {f"solution/{path}": data for path, data in record.solution.items()}
    if kept:
        inputs, *_ = found[record.kind]
        found = {s: v if isinstance(v, str) else "its repository is in the image alone" for s, v in found.items()}
        found[record.kind] = inputs, dict.fromkeys(kept), ""
    left_out = {skill: why for skill, why in found.items() if isinstance(why, str)}
    made = [
        _task(record, skill, split, *value)
        for skill, value in found.items()
        if not isinstance(value, str) and (not options.skills or skill in options.skills)
    ]
    if trees and not isinstance(found.get("unit_tests", ""), str):
        # The bug is killed by the fail-to-pass tests: a proven mutant.
        path, symbol, _ = target_of(trees)
        instance = replace(instance, mutants=(trees.bug,), target_path=path, target_symbol=symbol)
    return Converted(environment, instance, trees.correct if trees else kept, made, left_out)


def _convert_whole(record: Record, options: Options, split: str) -> Converted:
    """A composite task that is no change of a repository: of its files the agent gets those that are shown."""
    environment = _environment(record, Parts((), ()), options)
    instance = _instance(record, environment, Parts((), ()), None)
    hidden = dict.fromkeys(record.hidden_files)
    task = _task(record, record.kind, split, {"instruction": record.issue}, hidden, record.submission_path)
    wanted = not options.skills or record.kind in options.skills
    return Converted(environment, instance, {**record.hidden_files, **record.shown_files}, [task] if wanted else [])


def _parts(record: Record) -> Parts:
    gold, tests = parsed(record.patch), parsed(record.test_patch)
    if any(d.is_binary for d in (*gold, *tests)):
        raise Unusable("a diff of a binary file")
    source = tuple(d for d in gold if not is_test_path(d.path) and not is_doc_path(d.path))
    # A gold change may bring tests of its own; documents only repeat what changed.
    return Parts(source, (*tests, *(d for d in gold if is_test_path(d.path))))


def _environment(record: Record, parts: Parts, options: Options, base: Collection[str] = ()) -> Environment:
    is_local = "local" in (options.image, record.image)
    setup = without_image(record.setup) if is_local else record.setup
    if record.language == "python" and not is_local:
        # The image has the package installed from its own copy; what is tested stands in the workspace.
        setup += '\nexport PYTHONPATH="$PWD:$PWD/src${PYTHONPATH:+:$PYTHONPATH}"'
    environment = Environment(
        environment_id="",
        packages=options.packages if is_local else (),
        source_roots=(".",),
        test_roots=_test_roots(record, parts, base),
        timeout_s=record.timeout_s,
        image="" if is_local else record.image,
        workdir="" if is_local else record.workdir,
        setup=setup,
        parser=record.parser,
        rule=record.rule,
        licence=record.licence,
    )
    digest = hashlib.sha256(json.dumps(asdict(environment), sort_keys=True).encode()).hexdigest()
    return replace(environment, environment_id=f"{record.dataset}-{digest[:16]}")


def _test_roots(record: Record, parts: Parts, base: Collection[str]) -> tuple[str, ...]:
    """Outermost folders of tests that hold no source file of the change; else the record's test files themselves."""
    own = {p for d in parts.tests for p in (d.old, d.new) if p} | set(record.test_texts)
    own |= {i.partition("::")[0] for i in (*record.fail_to_pass, *record.pass_to_pass) if "::" in i and "/" in i}
    touched = [p for d in parts.source for p in (d.old, d.new) if p]
    folders = {path: _outermost(path) for path in (*own, *base)}
    folders = {p: f for p, f in folders.items() if f and not any(t.startswith(f + "/") for t in touched)}
    roots = {folders.get(path, path) for path in own} | set(folders.values())
    return tuple(sorted(r for r in roots if not any(r.startswith(o + "/") for o in roots))) or ("tests",)


def _outermost(path: str) -> str:
    """The outermost folder of tests that holds the path; empty when none does."""
    folders = path.split("/")[:-1]
    depth = next((n for n, folder in enumerate(folders, 1) if folder in _TEST_ROOTS), 0)
    return "/".join(folders[:depth])


def _trees(record: Record, parts: Parts, base: Mapping[str, bytes]) -> Trees:
    try:
        if record.base_is_correct:
            return _trees_of_bug(record, parts, base)
        fix = apply_diff(base, parts.source)
        tests = {**apply_diff(base, parts.tests), **record.test_texts}
    except DiffError:
        raise Unusable("its diff does not fit its base commit") from None
    if taken := sorted(fix.keys() & tests.keys()):
        raise Unusable(f"{taken[0]} is source and test at once")
    correct = apply_overlay(base, fix, tests)
    bug = _undone(fix, base)
    return Trees(correct, bug, {**bug, **_undone(tests, base)})


def _trees_of_bug(record: Record, parts: Parts, base: Mapping[str, bytes]) -> Trees:
    """The base commit may be the mirror's main branch, or the instance's own with the bug in it."""
    try:
        bug, correct = apply_diff(base, parts.source), dict(base)
    except DiffError:
        correct = apply_overlay(base, apply_diff(base, parts.source, reverse=True))
        bug = apply_diff(correct, parts.source)
    paths = {i.partition("::")[0] for i in record.fail_to_pass}
    hidden: Overlay = {}
    if all(p in correct and p.endswith(".py") for p in paths):
        try:
            hidden = without_tests(correct, record.fail_to_pass)
        except (SyntaxError, ValueError):
            raise Unusable("its tests cannot be hidden") from None
    return Trees(correct, bug, {**bug, **hidden})


def _undone(change: Overlay, base: Mapping[str, bytes]) -> Overlay:
    """What leads back from the changed files to the base."""
    try:
        return {path: base[path].decode() if path in base else None for path in sorted(change)}
    except UnicodeDecodeError:
        raise Unusable("a changed file is not UTF-8 text") from None


def _check_gradable(record: Record, environment: Environment, trees: Trees | None) -> None:
    """What the grader would not take from an agent must not be needed."""
    if len(record.test_command.encode()) + len(record.setup.encode()) > MAX_COMMAND_BYTES:
        raise Unusable("a test command of more than 100 kB")
    touched = trees.bug if trees else [d.path for d in _parts(record).source]
    if not touched:
        raise Unusable("its gold change touches no source file")
    if record.fail_to_pass and (refused := [p for p in touched if not is_source(p, environment)]):
        raise Unusable(f"its gold change needs {refused[0].rpartition('/')[2]}, which is the harness's own")


def _instance(record: Record, environment: Environment, parts: Parts, trees: Trees | None) -> Instance:
    return Instance(
        instance_id=f"{record.dataset}__{record.instance_id}",
        environment_id=environment.environment_id,
        tree="",
        bug=trees.bug if trees else {},
        fail_to_pass=record.fail_to_pass,
        pass_to_pass=record.pass_to_pass,
        target_path="",
        target_symbol="",
        origin=record.dataset,
        base_commit=record.base_commit,
        test_command=record.test_command,
        test_files=_test_files(record, parts, trees),
        expected=record.expected,
        gold_patch="" if trees else record.patch,
        test_patch="" if trees else record.test_patch,
    )


def _test_files(record: Record, parts: Parts, trees: Trees | None) -> tuple[str, ...]:
    """Files that every graded run starts from: the tests' own."""
    if not trees:
        return ()
    named = {d.new for d in parts.tests if d.new} | set(record.test_texts)
    named |= {i.partition("::")[0] for i in (*record.fail_to_pass, *record.pass_to_pass)}
    return tuple(sorted(p for p in named if p in trees.correct))


def _task(
    record: Record, skill: str, split: str, inputs: Mapping[str, str], visible: Overlay, path: str
) -> tuple[dict, HiddenTask]:
    instance_id = f"{record.dataset}__{record.instance_id}"
    task_id = make_task_id(instance_id, skill, "")
    public = {
        "task_id": task_id,
        "skill": skill,
        "instance_id": instance_id,
        "repository": repository_key(record.repository),
        "family": record.repository.rpartition("/")[2].lower(),
        "split": split,
        "level": LEVEL,
        "inputs": dict(inputs),
    }
    return public, HiddenTask(task_id, skill, instance_id, visible, path)
