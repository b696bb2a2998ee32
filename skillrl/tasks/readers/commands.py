"""Test commands and parsers of rows that do not bring their own, and what to take of an evaluation script.

The commands are those of the swebench package 4.1 for the repositories of SWE-bench; where they changed between
versions of a repository, the latest.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from skillrl.tasks.readers.diffs import FileDiff
from skillrl.tasks.readers.record import Unusable

CONDA = "source /opt/miniconda3/bin/activate\nconda activate testbed"
START, END = ">>>>> Start Test Output", ">>>>> End Test Output"
_PYTEST = "pytest -rA"
# Repository -> command and parser.
SWEBENCH = {
    "astropy/astropy": ("pytest -rA -vv -o console_output_style=classic --tb=no", "pytest_v2"),
    "django/django": ("./tests/runtests.py --verbosity 2 --settings=test_sqlite --parallel 1", "django"),
    "marshmallow-code/marshmallow": (_PYTEST, "pytest"),
    "matplotlib/matplotlib": (_PYTEST, "matplotlib"),
    "mwaskom/seaborn": ("pytest --no-header -rA", "seaborn"),
    "pallets/flask": (_PYTEST, "pytest"),
    "psf/requests": (_PYTEST, "pytest_options"),
    "pvlib/pvlib-python": (_PYTEST, "pytest"),
    "pydata/xarray": (_PYTEST, "pytest"),
    "pydicom/pydicom": (_PYTEST, "pytest_options"),
    "pylint-dev/astroid": (_PYTEST, "pytest"),
    "pylint-dev/pylint": (_PYTEST, "pytest_options"),
    "pytest-dev/pytest": (_PYTEST, "pytest"),
    "pyvista/pyvista": (_PYTEST, "pytest"),
    "scikit-learn/scikit-learn": (_PYTEST, "pytest_v2"),
    "sphinx-doc/sphinx": ("tox --current-env -epy39 -v --", "pytest_v2"),
    "sqlfluff/sqlfluff": (_PYTEST, "pytest"),
    "sympy/sympy": ("PYTHONWARNINGS='ignore::UserWarning,ignore::SyntaxWarning' bin/test -C --verbose", "sympy"),
}
SWE_GYM = {
    "bokeh/bokeh": ("pytest -rA -n0", "pytest"),
    "conan-io/conan": ("pytest -n0 -rA", "pytest"),
    "dask/dask": ("pytest -n0 -rA --color=no", "pytest"),
    "facebookresearch/hydra": ("pytest -rA --tb=long", "pytest"),
    "getmoto/moto": ("pytest -n0 -rA", "pytest"),
    "iterative/dvc": (_PYTEST, "pytest"),
    "modin-project/modin": ("pytest -n0 -rA", "pytest"),
    "pandas-dev/pandas": ("pytest -rA --tb=long", "pytest"),
    "project-monai/monai": (_PYTEST, "pytest"),
    "pydantic/pydantic": ("pytest -rA --tb=short -vv -o console_output_style=classic --no-header", "pytest"),
    "python/mypy": ("pytest -rA -n0", "pytest"),
}
R2E = "PYTHONWARNINGS='ignore::UserWarning,ignore::SyntaxWarning' .venv/bin/python -W ignore -m pytest -rA r2e_tests"
SWE_SMITH = "pytest --disable-warnings --color=no --tb=no --verbose"
# What the agent's machine must not depend on: the dataset's own way to put the tests in.
_DROPPED = re.compile(r"#!|set -|git |: '|echo '>>>>>|SWEBENCH_TEST_EXIT_CODE|cd /")
_NOT_CODE = (".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml")


@dataclass(frozen=True)
class Commands:
    setup: str
    test_command: str
    parser: str


def directives(repository: str, test_diffs: Sequence[FileDiff]) -> list[str]:
    """What a test command is pointed at: the files of the test patch; django's runner wants dotted labels."""
    paths = [d.new for d in test_diffs if d.new and not d.new.endswith(_NOT_CODE)]
    if repository.lower() == "django/django":
        return [p.removesuffix(".py").removeprefix("tests/").replace("/", ".") for p in paths]
    return paths


def known(repository: str, test_diffs: Sequence[FileDiff]) -> Commands:
    """Raises Unusable for a repository that is not in the tables."""
    for table in (SWEBENCH, SWE_GYM):
        by_name = {name.lower(): value for name, value in table.items()}
        if repository.lower() in by_name:
            command, parser = by_name[repository.lower()]
            return Commands(CONDA, shlex_join(command, directives(repository, test_diffs)), parser)
    raise Unusable("no test command: neither in the row nor known for its repository")


def shlex_join(command: str, arguments: Sequence[str]) -> str:
    return " ".join([command, *map(shlex.quote, arguments)])


def of_script(script: str) -> tuple[str, str]:
    """(setup, test command) of a swebench 5.x `eval_script`.

    Left out are what git does in it (the service puts the test files in, and its trees have no history), the marks
    around the test output, and what follows them. Raises Unusable without the marks.
    """
    before, start, rest = script.partition(START)
    inside, end, _ = rest.partition(END)
    if not start or not end:
        raise Unusable("no test output marked in its eval_script")
    setup, _, _ = before.rpartition("\n")
    command = "\n".join(_kept(_without_heredocs(inside.partition("\n")[2].rpartition("\n")[0])))
    if not command.strip():
        raise Unusable("no test command in its eval_script")
    return "\n".join(_kept(_without_heredocs(setup))), f"set -x\n{command}"


def _without_heredocs(text: str) -> str:
    """Without `git apply ... <<'EOF' ... EOF`; other heredocs stay."""
    return re.sub(r"^git [^\n]*<<-?\s*(['\"]?)(\w+)\1[^\n]*\n.*?^\2\n?", "", text, flags=re.MULTILINE | re.DOTALL)


def _kept(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip() and not _DROPPED.match(line.strip())]


def without_image(setup: str) -> str:
    """The setup without what only the image has: its conda, its paths, and installations, which need a network."""
    foreign = re.compile(r"source /opt|conda |\. /opt|cd /|python3? -m pip |pip |apt|npm |make |tox ")
    return "\n".join(line for line in setup.split("\n") if not foreign.match(line.strip()))
