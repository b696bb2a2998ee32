"""Terminal work on a configuration: a program that does not start, or starts and says the wrong things."""

import json
import random
from collections.abc import Mapping

from sandbox_service.graders.terminal_probes import Probe
from skillrl.tasks.suites.terminal_work import Work, encoded

_APP = '''\
"""Prints what stations measured: python3 app.py [STATION ...]

Everything about the data and the output stands in conf/; README.md says what it must be.
"""

import configparser
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def readings(source, station):
    """The numbers of one station, in the order of its file."""
    path = ROOT / source["folder"] / (station + source["suffix"])
    lines = path.read_text().splitlines()
    if source.getboolean("has_header"):
        lines = lines[1:]
    column = source.getint("column")
    return [int(line.split(source["separator"])[column]) / source.getfloat("divisor") for line in lines]


def main():
    settings = configparser.ConfigParser(interpolation=None)
    with open(ROOT / "conf" / "app.ini") as file:
        settings.read_file(file)
    source, report = settings["source"], settings["report"]
    names = json.loads((ROOT / report["names"]).read_text())
    convert = {"celsius": lambda c: c, "fahrenheit": lambda c: c * 9 / 5 + 32}[report["unit"]]
    digits = report.getint("digits")
    for station in sys.argv[1:] or sorted(names):
        values = [convert(value) for value in readings(source, station)]
        figures = [f"{value:.{digits}f}" for value in (values[0], min(values), max(values))]
        print(names[station] + report["mark"] + report["mark"].join(figures))


main()
'''

_README = """\
# Stations

`python3 app.py` prints a line for every station, in the order of their codes; `python3 app.py CODE ...` prints those
that are asked for. A line is the station's name, its first, its lowest and its highest temperature, with `{mark}`
between them and no spaces.
Temperatures are printed in {unit} with {digits} digit{plural} after the point.

The readings of a station are in {folder}/CODE{suffix}. {header} Fields are separated by `{separator}`; the temperature
is field number {column}, counted from 0, a whole number in {divisor_words} of a degree Celsius. ({other}/ has the
readings of another network and must not be used.)

| code | name |
|---|---|
{rows}

conf/app.ini and conf/names.json hold all of this for the program.
"""

_INSTRUCTION = """\
The program app.py cannot do its work: its configuration in conf/ is broken in several ways. README.md describes the \
data and what the program must print. Repair the configuration, so that `python3 app.py` and `python3 app.py CODE ...` \
end with status 0 and print exactly that, also for readings that are added or replaced later in the same form. app.py \
and the data are right: only what is in conf/ is taken from your workspace, everything else is graded as it was."""

_STATIONS = ("Arnfels", "Bad Aue", "Celle", "Dahme", "Emden", "Fulda", "Gotha", "Hof", "Ilmenau", "Jena")
_DIVISORS = {10: "tenths", 100: "hundredths"}


def config(rng: random.Random) -> Work:
    facts = _facts(rng)
    texts = {"app.py": _APP, "README.md": _readme(facts), **_data(rng, facts, facts["folder"])}
    texts |= _data(rng, {**facts, "divisor": 1}, facts["other"])
    right = {"conf/app.ini": _ini(facts), "conf/names.json": json.dumps(facts["names"], indent=2) + "\n"}
    faults = rng.sample(sorted(_FAULTS), 4)
    broken = _break(right, facts, faults)
    fresh = _data(rng, facts, facts["folder"])
    codes = rng.sample(sorted(facts["names"]), 2)
    given = {path: text for path, text in texts.items() if path.startswith(facts["folder"])}
    program = ("python3", "app.py")
    probes = (
        Probe(program, stdout=_output(facts, given, sorted(facts["names"]))),
        Probe(program, files=fresh, stdout=_output(facts, fresh, sorted(facts["names"]))),
        Probe((*program, *codes), files=fresh, stdout=_output(facts, fresh, codes)),
    )
    # Each of the faults alone is enough.
    wrong = {f"all but one ({fault})": _break(right, facts, [fault]) for fault in faults}
    start, done = encoded({**texts, **broken}), encoded({**texts, **right})
    return Work(start, done, _INSTRUCTION, ("conf/",), probes, wrong)


def _facts(rng: random.Random) -> dict:
    names = rng.sample(_STATIONS, 5)
    folder, other = rng.sample(("data/readings", "data/upper", "data/west", "data/hourly"), 2)
    return {
        "names": {f"{name[0].lower()}{rng.randint(10, 99)}": name for name in sorted(names)},
        "folder": folder,
        "other": other,
        "suffix": rng.choice((".csv", ".dat", ".txt")),
        "separator": rng.choice((";", "|", ",")),
        "divisor": rng.choice(sorted(_DIVISORS)),
        "column": rng.choice((1, 2)),
        "has_header": rng.random() < 0.5,
        "unit": rng.choice(("celsius", "fahrenheit")),
        "digits": rng.choice((1, 2)),
        "mark": rng.choice(("/", "..", ":")),
    }


def _readme(facts: Mapping) -> str:
    has_header = facts["has_header"]
    words = {
        "plural": "" if facts["digits"] == 1 else "s",
        "divisor_words": _DIVISORS[facts["divisor"]],
        "unit": {"celsius": "degrees Celsius", "fahrenheit": "degrees Fahrenheit"}[facts["unit"]],
        "header": "The first line of a file names its fields." if has_header else "The files have no line of names.",
        "rows": "\n".join(f"| {code} | {name} |" for code, name in sorted(facts["names"].items())),
    }
    return _README.format(**{**facts, **words})


def _ini(facts: Mapping) -> str:
    source = {key: facts[key] for key in ("folder", "suffix", "separator", "divisor", "column")}
    source["has_header"] = "yes" if facts["has_header"] else "no"
    report = {"names": "conf/names.json", **{key: facts[key] for key in ("unit", "digits", "mark")}}
    sections = {"source": source, "report": report}
    blocks = [[f"[{name}]", *(f"{k} = {v}" for k, v in values.items()), ""] for name, values in sections.items()]
    return "\n".join(line for block in blocks for line in block)


def _data(rng: random.Random, facts: Mapping, folder: str) -> dict[str, str]:
    files = {}
    for code in facts["names"]:
        lines = [["hour", "wind", "temperature"] if facts["column"] == 2 else ["hour", "temperature", "wind"]]
        lines = lines if facts["has_header"] else []
        for hour in range(rng.randint(5, 8)):
            warmth = str(rng.randint(-12 * facts["divisor"], 31 * facts["divisor"]))
            pair = [str(rng.randint(0, 90)), warmth]
            lines.append([str(hour * 3), *(pair if facts["column"] == 2 else pair[::-1])])
        text = "".join(facts["separator"].join(line) + "\n" for line in lines)
        files[f"{folder}/{code}{facts['suffix']}"] = text
    return files


def _output(facts: Mapping, data: Mapping[str, str], codes: list[str]) -> str:
    """What the program must print; by the same arithmetic, for its last digit."""
    lines = []
    for code in codes:
        rows = data[f"{facts['folder']}/{code}{facts['suffix']}"].splitlines()[int(facts["has_header"]) :]
        values = [int(row.split(facts["separator"])[facts["column"]]) / float(facts["divisor"]) for row in rows]
        if facts["unit"] == "fahrenheit":
            values = [value * 9 / 5 + 32 for value in values]
        figures = [f"{value:.{facts['digits']}f}" for value in (values[0], min(values), max(values))]
        lines.append(facts["mark"].join([facts["names"][code], *figures]) + "\n")
    return "".join(lines)


def _in_ini(old: str, new: str):
    """A fault: the first line of app.ini that begins with `old` becomes `new`, which may use the facts."""

    def apply(texts: dict[str, str], facts: Mapping) -> None:
        lines = texts["conf/app.ini"].split("\n")
        place = next(i for i, line in enumerate(lines) if line.startswith(old))
        lines[place] = new.format(**facts, wrong_separator="," if facts["separator"] != "," else ";")
        texts["conf/app.ini"] = "\n".join(lines)

    return apply


def _in_names(change):
    def apply(texts: dict[str, str], facts: Mapping) -> None:
        texts["conf/names.json"] = change(texts["conf/names.json"], sorted(facts["names"].items())[1])

    return apply


def _flag(texts: dict[str, str], facts: Mapping) -> None:
    _in_ini("has_header", f"has_header = {'no' if facts['has_header'] else 'yes'}")(texts, facts)


def _other_unit(texts: dict[str, str], facts: Mapping) -> None:
    _in_ini("unit", "unit = celsius" if facts["unit"] == "fahrenheit" else "unit = fahrenheit")(texts, facts)


_FAULTS = {
    "section not closed": _in_ini("[report]", "[report"),
    "key missing": _in_ini("suffix", "# suffix"),
    "key twice": _in_ini("divisor", "divisor = {divisor}\ndivisor = 1"),
    "other folder": _in_ini("folder", "folder = {other}"),
    "separator": _in_ini("separator", "separator = {wrong_separator}"),
    "column": _in_ini("column", "column = 0"),
    "not a number": _in_ini("digits", "digits = {digits} digits"),
    "header": _flag,
    "unit": _other_unit,
    "mark": _in_ini("mark", "mark = -"),
    "trailing comma": _in_names(lambda text, row: text.replace("\n}", ",\n}")),
    "name misspelt": _in_names(lambda text, row: text.replace(f'"{row[1]}"', f'"{row[1]}x"')),
    "name missing": _in_names(lambda text, row: text.replace(f'  "{row[0]}": "{row[1]}",\n', "")),
}


def _break(right: Mapping[str, str], facts: Mapping, faults: list[str]) -> dict[str, str]:
    """The configuration with these faults, each in a line of its own or in the names."""
    texts = dict(right)
    for fault in faults:
        _FAULTS[fault](texts, facts)
    return texts
