"""Terminal work on a build: a script that does not make what it must."""

import hashlib
import random
from collections.abc import Mapping

from sandbox_service.graders.terminal_probes import Probe
from skillrl.tasks.suites.terminal_work import Work, encoded

_README = """\
# A book from its parts

`bash build.sh`, run in this folder, makes dist/ anew:

- dist/{book} holds the parts that src/order.txt names, one a line, in that order. Empty lines and lines that begin with
  `#` do not count. Part NAME is the file src/NAME.part. Before every part comes the line `{rule} NAME {rule}`.
- In the parts (not in the lines between them) every `@KEY@` with a KEY of settings.env is replaced by its value.
  settings.env has a line KEY=value for each: a KEY is of capital letters, the value is all that follows the first `=`,
  whatever it holds, and holds no `@`. Every other `@WORD@` stays as it is.
- dist/SHA256SUMS is what `sha256sum {book}` prints in dist/.
- Nothing else is in dist/: what was there before is gone.

Every part and settings.env end with a newline. When a part is missing the script ends with status {status} and leaves
neither of the two files behind; else with status 0.
"""

_INSTRUCTION = """\
The script build.sh does not do what README.md says it must: repair it or write it anew, in Bash with the usual tools \
(coreutils, sed, awk) or Python 3. `bash build.sh` is tried in /workspace with the given parts and with others, with \
other settings and with an old dist/. Only build.sh is taken from your workspace, all else is graded as it was."""

_WORDS = ("harbour", "lantern", "meadow", "orchard", "quarry", "ridge", "spring", "thicket", "valley", "winter")
_KEYS = ("TITLE", "AUTHOR", "PLACE", "LINK", "PRICE")
_VALUES = (
    "A/B & C",
    "50% off",
    "back\\slash",
    'it\'s "so"',
    "http://example.org/?a=1&b=2",
    "*",
    "plain",
    "a=b",
    "$HOME",
)


def build(rng: random.Random) -> Work:
    facts = {"book": rng.choice(("book.txt", "guide.txt", "all.md")), "rule": rng.choice(("==", "--", "~~"))}
    facts["status"] = rng.choice((3, 4, 7))
    sources = _sources(rng)
    texts = {"README.md": _README.format(**facts), **sources}
    pieces = {name: good.format(**facts) for name, (good, _) in _PIECES.items()}
    bad = {name: text.format(**facts) for name, (_, text) in _PIECES.items()}
    faults = rng.sample(sorted(_PIECES), 4)
    right = "".join(pieces.values())
    broken = "".join(bad[name] if name in faults else text for name, text in pieces.items())
    fresh = _sources(rng)
    # What the given parts would leave over must not turn up.
    stale = {path: None for path in sources if path not in fresh} | {"dist/old.txt": "old\n"}
    gone = f"src/{_ordered(sources)[1]}.part"
    command = ("bash", "build.sh")
    probes = (
        Probe(command, after=_outputs(facts, sources)),
        Probe(command, files={**stale, **fresh}, after={**_outputs(facts, fresh), "dist/old.txt": None}),
        Probe(
            command,
            files={gone: None, f"dist/{facts['book']}": "old\n"},
            exit_code=facts["status"],
            after={f"dist/{facts['book']}": None, "dist/SHA256SUMS": None},
        ),
    )
    wrong = {f"all but one ({name})": {"build.sh": right.replace(pieces[name], bad[name])} for name in faults}
    wrong["hard-coded"] = {"build.sh": _hard_coded(_outputs(facts, sources))}
    start, done = encoded({**texts, "build.sh": broken}), encoded({**texts, "build.sh": right})
    return Work(start, done, _INSTRUCTION, ("build.sh",), probes, wrong)


def _sources(rng: random.Random) -> dict[str, str]:
    names = rng.sample(_WORDS, 5)
    keys = rng.sample(_KEYS, 4)
    # Byte order is never the order that is asked for.
    order = sorted(names, reverse=True)
    while order in (sorted(names), sorted(names, reverse=True)):
        rng.shuffle(order)
    files = {}
    for name in names:
        lines = [f"{' '.join(rng.sample(_WORDS, 3))}" for _ in range(rng.randint(1, 3))]
        lines += [f"@{rng.choice(keys)}@ and @{rng.choice(keys)}@ of {name}, mail to me@home or @NOBODY@"]
        rng.shuffle(lines)
        files[f"src/{name}.part"] = "\n".join([*lines, ""])
    # Parts that are not in the order are left out.
    files[f"src/{rng.choice([w for w in _WORDS if w not in names])}.part"] = "not yet\n"
    listed = [order[0], "", f"# {order[1]} comes next", *order[1:]]
    files["src/order.txt"] = "\n".join([*listed, ""])
    # At least one value means something to sed or to the shell.
    values = rng.sample(_VALUES, 4)
    values[0] = _VALUES[0]
    files["settings.env"] = "".join(f"{key}={value}\n" for key, value in zip(keys, values, strict=True))
    used = "".join(text for path, text in files.items() if path.endswith(".part"))
    if f"@{keys[0]}@" not in used:
        files[f"src/{order[0]}.part"] += f"@{keys[0]}@\n"
    return files


def _ordered(sources: Mapping[str, str]) -> list[str]:
    return [line for line in sources["src/order.txt"].splitlines() if line and not line.startswith("#")]


def _outputs(facts: Mapping, sources: Mapping[str, str]) -> dict[str, str]:
    pairs = [line.partition("=")[::2] for line in sources["settings.env"].splitlines()]
    parts = []
    for name in _ordered(sources):
        text = sources[f"src/{name}.part"]
        for key, value in pairs:
            text = text.replace(f"@{key}@", value)
        parts.append(f"{facts['rule']} {name} {facts['rule']}\n{text}")
    book = "".join(parts)
    digest = hashlib.sha256(book.encode()).hexdigest()
    return {f"dist/{facts['book']}": book, "dist/SHA256SUMS": f"{digest}  {facts['book']}\n"}


def _hard_coded(outputs: Mapping[str, str]) -> str:
    """A script that makes the files of the given parts, whatever the parts are."""
    lines = ["rm -rf dist", "mkdir dist"]
    for path, text in outputs.items():
        lines += [f"cat > {path} <<'END_OF_FILE'", text + "END_OF_FILE"]
    return "\n".join([*lines, ""])


# Name -> (right, wrong) text of a piece of the script.
_PIECES = {
    "head": ("#!/usr/bin/env bash\nset -euo pipefail\n", "#!/usr/bin/env bash\nset -euo pipefail\ncd src\n"),
    "clean": ("rm -rf dist\n", ""),
    "folder": ("mkdir -p dist\n", "mkdir dist/parts\n"),
    "order": (
        "names() {{ grep -v -e '^#' -e '^$' src/order.txt || true; }}\n",
        "names() {{ (cd src && ls -- *.part | sed 's/[.]part$//'); }}\n",
    ),
    "values": (
        "fill() {{\n  python3 - \"$1\" <<'END'\nimport sys\ntext = open(sys.argv[1]).read()\n"
        'for line in open("settings.env"):\n    key, _, value = line.rstrip("\\n").partition("=")\n'
        '    text = text.replace("@" + key + "@", value)\nsys.stdout.write(text)\nEND\n}}\n',
        'fill() {{\n  local text key value\n  text=$(cat "$1")\n  while IFS="=" read -r key value; do\n'
        '    text=$(printf "%s" "$text" | sed "s/@$key@/$value/g")\n  done < settings.env\n'
        '  printf "%s\\n" "$text"\n}}\n',
    ),
    "missing": (
        'for name in $(names); do\n  [ -f "src/$name.part" ] || {{ rm -rf dist; exit {status}; }}\ndone\n',
        'for name in $(names); do\n  [ -f "src/$name.part" ] || continue\ndone\n',
    ),
    "rule": (
        'for name in $(names); do\n  echo "{rule} $name {rule}"\n  fill "src/$name.part"\ndone > dist/{book}\n',
        'for name in $(names); do\n  echo "{rule} $name"\n  fill "src/$name.part"\ndone > dist/{book}\n',
    ),
    "sums": ("cd dist && sha256sum {book} > SHA256SUMS\n", "sha256sum dist/{book} > dist/SHA256SUMS\n"),
}
