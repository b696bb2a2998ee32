"""A small repository with its own test command, as a task set: what a dataset's record becomes."""

from dataclasses import replace
from pathlib import Path

from sandbox_service.tasks import Environment, HiddenTask, Instance, TaskSet, TaskSetWriter, read_task_set

MONEY = '''\
"""Sums of money in cents."""


def share(total, people):
    """What each of `people` pays of `total`; the first ones pay the rest."""
    each, rest = divmod(total, people)
    return [each + (1 if i < rest else 0) for i in range(people)]


def written(cents):
    """12345 -> "123.45"."""
    return f"{cents // 100}.{cents % 100:02d}"
'''
TESTS = """\
import unittest

from money import share, written


class TestShare(unittest.TestCase):
    def test_even(self):
        self.assertEqual(share(100, 4), [25, 25, 25, 25])

    def test_rest(self):
        self.assertEqual(share(101, 4), [26, 25, 25, 25])

    def test_written(self):
        self.assertEqual(written(1205), "12.05")
"""
# What an agent sees of the tests where a record shows those that passed before.
SEEN_TESTS = TESTS[: TESTS.index("    def test_even")] + TESTS[TESTS.index("    def test_written") :]
SOURCE, TEST = "money.py", "tests/test_money.py"
FILES = {SOURCE: MONEY, TEST: TESTS, "tests/__init__.py": "", "README.md": "# money\n"}
BUG = MONEY.replace("i < rest", "i <= rest")
CLASS = "tests.test_money.TestShare"
EVEN, REST, WRITTEN = (f"{n} ({CLASS}.{n})" for n in ("test_even", "test_rest", "test_written"))

UNITTEST = Environment(
    "money", (), (".",), ("tests",), timeout_s=60.0, parser="unittest", rule="pass_and_fail", setup="export LANG=C"
)
PYTEST = replace(UNITTEST, environment_id="money-pytest", parser="pytest")
UNITTEST_COMMAND = "python3 -m unittest -v tests.test_money"
PYTEST_COMMAND = "python3 -m pytest -rA -p no:cacheprovider tests/test_money.py"


def instance(tree: str, environment: Environment = UNITTEST) -> Instance:
    f2p, p2p, command = (EVEN, REST), (WRITTEN,), UNITTEST_COMMAND
    if environment.parser == "pytest":
        f2p, p2p = (tuple(f"{TEST}::TestShare::{i.split()[0]}" for i in ids) for ids in (f2p, p2p))
        command = PYTEST_COMMAND
    return Instance(
        environment.environment_id, environment.environment_id, tree, {SOURCE: BUG}, f2p, p2p, SOURCE, "share",
        test_command=command, test_files=(TEST, "tests/__init__.py"), origin="by hand",
    )  # fmt: skip


def write_foreign(
    path: Path, *, change=lambda environment, instance: (environment, instance), seen: str | None = None
) -> TaskSet:
    """Task ids are ENVIRONMENT-SKILL. `change` alters environments and instances; `seen` is the test file that agents
    see.
    """
    writer = TaskSetWriter("money")
    tree = writer.add_tree({name: text.encode() for name, text in FILES.items()})
    for environment in (UNITTEST, PYTEST):
        changed, made = change(environment, instance(tree, environment))
        writer.environments[changed.environment_id] = changed
        writer.instances.append(made)
        for skill in ("localization", "editing", "bug_fixing", "reproduction"):
            name = f"{environment.environment_id}-{skill}"
            extra = "tests/test_reproduction.py" if skill == "reproduction" else ""
            writer.tasks.append(HiddenTask(name, skill, made.instance_id, {SOURCE: BUG, TEST: seen}, extra))
            writer.public.append({"task_id": name, "skill": skill})
    writer.write(path)
    return read_task_set(path)
