"""Renamed demonstrations stay consistent and never use a held-out name."""

import random
import re

import pytest

from skillrl.renaming import renamed
from skillrl.tasks.world import WORDS
from skillrl.tasks.world.words import pool

REPRODUCTION = [
    "Reproduction. kind_bridge(3, 8) should be 44 and kind_bridge(0, 1) should be 1.\nWrite tests/test_x.py.\n",
    '<|call|>bash<|arg|>grep -rl "def kind_bridge" *<|end|>',
    "nutmeg/maple.py\n",
    "<|call|>str_replace<|arg|>create<|arg|>tests/test_x.py<|arg|>from nutmeg.maple import kind_bridge\n\n\n"
    "def test_kind_bridge():\n    assert kind_bridge(3, 8) == 44\n<|end|>",
]
EDITING = [
    "Editing. In ivy/poppy.py, cold_road must return m times n.\n",
    '<|call|>bash<|arg|>grep -A 2 "def cold_road" ivy/poppy.py<|end|>',
    'def cold_road(m, n):\n    """Return m times n."""\n    return m + n\n',
    "<|call|>str_replace<|arg|>replace<|arg|>ivy/poppy.py<|arg|>return m + n<|arg|>return m * n<|end|>",
]


@pytest.mark.parametrize("seed", range(20))
def test_copied_numbers_and_names_change_alike(seed):
    prompt, search, found, test = renamed("reproduction", REPRODUCTION, random.Random(seed))
    name, first, second, value = re.search(r"(\w+)\((\d+), (\d+)\) should be (\d+)", prompt).groups()
    assert f'grep -rl "def {name}" *' in search
    assert f"from {found.strip()[:-3].replace('/', '.')} import {name}\n" in test
    assert f"    assert {name}({first}, {second}) == {value}\n" in test
    left, right = name.split("_")
    assert left in WORDS["first"] and right in WORDS["second"] and pool(name) == "train"
    assert pool(found.strip()[:-3]) == "train"


@pytest.mark.parametrize("seed", range(20))
def test_parameters_change_alike_and_options_stay(seed):
    prompt, search, shown, edit = renamed("editing", EDITING, random.Random(seed))
    a, b = re.search(r"must return (\w) times (\w)\.", prompt).groups()
    assert "grep -A 2 " in search
    assert f'({a}, {b}):\n    """Return {a} times {b}."""\n    return {a} + {b}\n' in shown
    assert f"return {a} + {b}<|arg|>return {a} * {b}<|end|>" in edit


def test_renaming_varies_and_is_seeded():
    once, again, other = (renamed("editing", EDITING, random.Random(s)) for s in (1, 1, 2))
    assert once == again != other
