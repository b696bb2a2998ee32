"""Work of the kind refactoring: names, places, signatures and copies in generated packages."""

import functools
import json
import random
from collections.abc import Callable, Iterator, Mapping

from sandbox_service.graders.structure import check
from sandbox_service.tasks import Environment, HiddenTask, Instance, Overlay, apply_overlay, gold_overlay
from skillrl.tasks.suites.case import ORIGIN, Case
from skillrl.tasks.suites.refactoring_calls import change_signature
from skillrl.tasks.suites.refactoring_names import half_renamed, move_symbol, rename_symbol, split_module
from skillrl.tasks.suites.refactoring_shared import name_constant, remove_duplication
from skillrl.tasks.suites.refactoring_work import Draw, Undrawable, Work, draw, is_test, split_tests

FAMILIES: dict[str, Callable[[Draw], Work]] = {
    make.__name__: make
    for make in (rename_symbol, move_symbol, split_module, change_signature, remove_duplication, name_constant)
}
_ENVIRONMENT = Environment("", packages=(), source_roots=(".",), test_roots=("tests",), timeout_s=60.0)
_ATTEMPTS = 100
_PLAIN = " Write plain imports and definitions: nothing may make or look up names while the program runs."
_FORGING_CONFTEST = """\
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True
"""


def cases(seed: int) -> list[Case]:
    made = []
    for family in FAMILIES:
        work, failing, passing = _work(family, seed)
        made.append(
            Case(
                name="work",
                family=family,
                level=work.level,
                files={path: text.encode() for path, text in work.files.items()},
                undo=work.undo,
                hide=work.hide,
                instruction=work.instruction + _PLAIN,
                environment=_ENVIRONMENT,
                fail_to_pass=failing,
                pass_to_pass=passing,
                expected=_expected(work),
            )
        )
    return made


def wrong(
    task: HiddenTask, instance: Instance, files: Mapping[str, bytes]
) -> Iterator[tuple[str, Mapping[str, bytes | None]]]:
    finished = {path: text and text.encode() for path, text in gold_overlay(instance.bug, files).items()}
    for name, overlay in _almost(instance, files).items():
        if overlay:
            yield name, {path: None if text is None else text.encode() for path, text in overlay.items()}
    yield "behaviour deleted", {path: data and b'"""Nothing."""\n' for path, data in finished.items()}
    paths = {test_id.partition("::")[0] for test_id in (*instance.fail_to_pass, *instance.pass_to_pass)}
    tests = dict.fromkeys(sorted(paths), b"def test_nothing():\n    assert True\n")
    yield "tests changed", {**tests, "tests/conftest.py": _FORGING_CONFTEST.encode(), "conftest.py": b""}


def _almost(instance: Instance, files: Mapping[str, bytes]) -> Mapping[str, Overlay]:
    """Name -> work that falls short of the instance's: the generated one's own, or of a renaming in a real package."""
    if instance.origin == ORIGIN:
        family, seed, _ = instance.instance_id.partition("__")[2].split(".")
        return _work(family, int(seed))[0].wrong
    rule = json.loads(instance.expected["renamed"])
    path = next(path for path in instance.bug if f"/{path}".endswith(f"/{rule['path']}"))
    return half_renamed(gold_overlay(instance.bug, files), instance.bug, path, rule["old"], rule["new"])


@functools.lru_cache(maxsize=64)
def _work(family: str, seed: int) -> tuple[Work, tuple[str, ...], tuple[str, ...]]:
    """The work, and its fail-to-pass and pass-to-pass tests."""
    for attempt in range(_ATTEMPTS):
        try:
            work = FAMILIES[family](draw(random.Random(f"refactoring|{family}|{seed}|{attempt}")))
            _check_rules(work)
            return work, *split_tests(work)
        except Undrawable as e:
            reason = e
    raise AssertionError(f"no {family} of seed {seed} in {_ATTEMPTS} attempts; the last: {reason}")


def _expected(work: Work) -> dict[str, str]:
    return {name: json.dumps(rule, sort_keys=True) for name, rule in work.rules.items()}


def _check_rules(work: Work) -> None:
    """Raises Undrawable unless every rule holds of the finished tree, and none of the start."""
    after = {path: text.encode() for path, text in work.files.items() if not is_test(path)}
    start = apply_overlay(after, work.undo)
    broken = {rule for rule, why in check(_expected(work), after, start, after).items() if why}
    held = {rule for rule, why in check(_expected(work), start, start, after).items() if not why}
    if broken or held != {"plain"}:
        raise Undrawable(f"finished, {sorted(broken)} do not hold; before, {sorted(held)} do")
