"""What a foreign test command printed -> test id -> status, one function for each format.

Statuses are the runner's: "passed", "failed", "error", "skipped", "xfailed". The ids are those of the public datasets,
so the formats are read as the `swebench` package 5.0.2 (MIT) reads them, whose names the datasets use; where it reads
several results of one test, the last one counts, here too. Parsers never raise: what they do not know they leave out,
and an absent test is a failed one (`rules`).
"""

from collections.abc import Callable, Mapping

from sandbox_service.graders.parsers import compiled, javascript, jvm, python, scripting

Parser = Callable[[str], dict[str, str]]

PARSERS: Mapping[str, Parser] = {
    "pytest": python.pytest,
    "pytest_options": python.pytest_options,
    "pytest_v2": python.pytest_v2,
    "pytest_verbose": python.pytest_verbose,
    "pytest_names": python.pytest_names,
    "unittest": python.unittest,
    "django": python.django,
    "seaborn": python.seaborn,
    "sympy": python.sympy,
    "matplotlib": python.matplotlib,
    "gotest": compiled.gotest,
    "cargo": compiled.cargo,
    "googletest": compiled.googletest,
    "ctest": compiled.ctest,
    "doctest": compiled.doctest,
    "redis": compiled.redis,
    "jq": compiled.jq,
    "micropython_test": compiled.micropython,
    "maven": jvm.maven,
    "ant": jvm.ant,
    "gradle_custom": jvm.gradle,
    "jest": javascript.jest,
    "jest_json": javascript.jest_json,
    "vitest": javascript.vitest,
    "mocha": javascript.mocha,
    "karma": javascript.karma,
    "tap": javascript.tap,
    "phpunit": scripting.phpunit,
    "minitest": scripting.minitest,
    "cucumber": scripting.cucumber,
    "ruby_unit": scripting.ruby_unit,
    "rspec_transformed_json": scripting.rspec,
}

# Names under which the datasets ask for the same format.
_SAME = {
    "pytest": ("astroid", "flask", "marshmallow", "pvlib", "pyvista", "sqlfluff", "xarray"),
    "pytest_options": ("pydicom", "requests", "pylint"),
    "pytest_v2": ("astropy", "scikit", "sphinx"),
    "mocha": ("highlightjs",),
}
_CANONICAL = {alias: name for name, aliases in _SAME.items() for alias in aliases}


def canonical(name: str) -> str | None:
    """This package's name of a dataset's parser (`parse_log_pytest`, `parse_log_astropy`); None when it has none."""
    short = name.removeprefix("parse_log_")
    short = _CANONICAL.get(short, short)
    return short if short in PARSERS else None
