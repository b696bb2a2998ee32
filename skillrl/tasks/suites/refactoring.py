"""Work of the kind refactoring: names, places, signatures and copies in generated packages."""

import functools
import json
import random
from collections.abc import Callable, Iterator, Mapping

from sandbox_service.graders.structure import check
from sandbox_service.tasks import Environment, HiddenTask, Instance, apply_overlay
from skillrl.tasks.suites.case import Case
from skillrl.tasks.suites.refactoring_calls import change_signature
from skillrl.tasks.suites.refactoring_names import move_symbol, rename_symbol, split_module
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
    family, seed, _ = instance.instance_id.partition("__")[2].split(".")
    work, _, _ = _work(family, int(seed))
    for name, overlay in work.wrong.items():
        if overlay:
            yield name, {path: None if text is None else text.encode() for path, text in overlay.items()}
    finished = {path: work.files.get(path) for path in work.undo}
    emptied = {path: text and '"""Nothing."""\n' for path, text in finished.items()}
    yield "behaviour deleted", {path: text and text.encode() for path, text in emptied.items()}
    tests = {path: b"def test_nothing():\n    assert True\n" for path in files if is_test(path)}
    yield "tests changed", {**tests, "tests/conftest.py": _FORGING_CONFTEST.encode(), "conftest.py": b""}


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
