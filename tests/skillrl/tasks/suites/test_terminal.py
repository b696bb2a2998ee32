import gzip
import hashlib
import io
import json
import random
import tarfile
import zipfile

import pytest
from suite_desk import desk_on, family_tasks, write_cases

from sandbox_service.graders.terminal import compare
from sandbox_service.tasks import apply_overlay, gold_overlay
from skillrl.tasks.suites import terminal, terminal_data
from skillrl.tasks.suites.terminal import FAMILIES

SEEDS = range(3)
# Of everything that seed 0 gives. It moves when the work is changed on purpose; figures then do not compare.
DIGEST = "5e3609f0a683db0789881413e6b648a437371a87f10afd4e12630b93ddd0e71f"


@pytest.fixture(scope="module")
def made():
    return {seed: terminal.cases(seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def own(desk, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    return desk_on(desk, write_cases(folder / "set", "terminal", {1: made[1]}), folder)


def everything(cases):
    whole = hashlib.sha256()
    for case in cases:
        parts = [case.name, case.instruction, *map(str, sorted(case.expected.items())), *map(str, case.undo.items())]
        for part in (*map(str.encode, parts), *(f"{p}\0".encode() + d for p, d in sorted(case.files.items()))):
            whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def start_of(case):
    return apply_overlay(case.files, case.undo)


def test_same_seed_same_bytes(made):
    assert everything(terminal.cases(0)) == everything(made[0]) == DIGEST
    assert everything(made[1]) != DIGEST


@pytest.mark.parametrize("name", FAMILIES)
def test_gold_is_the_reverse_of_the_start(made, name):
    for seed in SEEDS:
        case = next(c for c in made[seed] if c.name == name)
        start, gold = start_of(case), gold_overlay(case.undo, case.files)
        assert gold and apply_overlay(start, gold) == dict(case.files)
        changed = {path: None if text is None else text.encode() for path, text in gold.items()}
        assert compare(start, case.files, changed).right == len(gold)
        for wrong in json.loads(case.expected["wrong"]).values():
            assert apply_overlay(start, wrong) != dict(case.files)


@pytest.mark.parametrize("name", FAMILIES)
def test_expected_results_stand_in_the_hidden_half_alone(own, made, name):
    case = next(c for c in made[1] if c.name == name)
    shown = b"\n".join([(own.tasks.path / "tasks.jsonl").read_bytes(), *start_of(case).values()]).decode(
        "utf-8", "replace"
    )
    for probe in json.loads(case.expected.get("probes", "[]")):
        # What programs must say, and files on which they are tried that are not among the given ones.
        texts = [probe["stdout"], *probe["after"].values()]
        texts += [text for path, text in probe["files"].items() if case.files.get(path) != (text or "").encode()]
        assert not any(text in shown for text in texts if text and len(text) > 20)


# The work done by hand, without a look at how it was made: shell and Python that runs inside the sandbox.
SOLUTIONS = {
    "sorting": r"""
set -e
python3 - <<'END'
import os, shutil, collections
best = collections.defaultdict(list)
for name in os.listdir("inbox"):
    head = open(f"inbox/{name}").read().split("\n\n")[0]
    h = dict(line.split(": ", 1) for line in head.splitlines())
    if h.get("Status") == "draft":
        os.makedirs("drafts", exist_ok=True)
        os.rename(f"inbox/{name}", f"drafts/{name}")
    elif h.get("Status") == "final":
        y, m, _ = h["Date"].split("-")
        best[f"archive/{y}/{m}/{h['Kind'].lower()}-{h['Number']}.txt"].append((int(h["Revision"]), f"inbox/{name}"))
for path, found in best.items():
    os.makedirs(os.path.dirname(path), exist_ok=True)
    *old, (_, last) = sorted(found)
    os.rename(last, path)
    for _, name in old:
        os.remove(name)
END
""",
    "cleanup": r"""
set -e
export LC_ALL=C
find store -type f | sort > /tmp/before
find store -type f \( -name '*.tmp' -o -name '*~' -o -size 0 \) -delete
find store -type f -exec sha256sum {} + |
  awk '{ path = substr($0, 67); n = gsub("/", "/", path); printf "%s\t%03d\t%s\n", $1, n, path }' | sort |
  awk -F '\t' 'seen[$1]++ { print $3 }' > /tmp/copies
while IFS= read -r path; do rm -- "$path"; done < /tmp/copies
find store -type f | sort > /tmp/after
comm -23 /tmp/before /tmp/after > removed.txt
""",
    "logs": r"""
export LC_ALL=C
cat logs/*.log | grep -E '^[^ ]+ [^ ]+ [^ ]+ [^ ]+ [0-9]+ [0-9]+$' > /tmp/good
awk '$5 >= 500' /tmp/good | sort > errors.txt
{
  echo service,requests,errors,slowest_ms,mean_ms
  awk '{ n[$2]++; e[$2] += $5 >= 500; t[$2] += $6; if ($6 + 0 > m[$2] + 0) m[$2] = $6 }
       END { for (s in n) printf "%s,%d,%d,%d,%d\n", s, n[s], e[s], m[s], int(t[s] / n[s]) }' /tmp/good |
    sort -t, -k3,3nr -k2,2nr -k1,1
} > report.csv
""",
    "archive": r"""
set -e
mkdir /tmp/x && cp backup/*.tar.gz backup/*.zip /tmp/x
python3 - <<'END'
import base64, glob, hashlib, os, tarfile, zipfile
found, waiting = [], sorted(glob.glob("/tmp/x/*"))
while waiting:
    path = waiting.pop()
    into = path + ".d"
    if path.endswith((".tar", ".tar.gz")):
        tarfile.open(path).extractall(into)
    elif path.endswith(".zip"):
        zipfile.ZipFile(path).extractall(into)
    else:
        found.append(path)
        continue
    waiting += [os.path.join(into, name) for name in os.listdir(into)]
wanted = dict(reversed(line.split("  ")) for line in open("backup/SHA256SUMS").read().splitlines())
os.mkdir("restored")
for path in found:
    name, data = os.path.basename(path), open(path, "rb").read()
    if name.endswith(".b64"):
        name, data = name[:-4], base64.b64decode(data)
    elif name.endswith(".hex"):
        name, data = name[:-4], bytes.fromhex(data.decode())
    if wanted.get(name) == hashlib.sha256(data).hexdigest():
        open(f"restored/{name}", "wb").write(data)
missing = sorted(set(wanted) - set(os.listdir("restored")))
open("restored/MISSING", "w").write("".join(name + "\n" for name in missing))
END
""",
    "config": r"""
python3 - <<'END'
import json, re
readme = " ".join(open("README.md").read().split())
def told(pattern):
    return re.search(pattern, readme)[1]
names = dict(re.findall(r"\| (\w\d\d) \| ([\w ]+?) \|", readme))
folder, suffix = re.search(r"station are in (\S+)/CODE(\.\w+)\.", readme).groups()
values = {
    "folder": folder, "suffix": suffix, "separator": told(r"separated by `(.)`"), "column": told(r"number (\d),"),
    "divisor": {"tenths": 10, "hundredths": 100}[told(r"number in (\w+) of a degree")],
    "has_header": "yes" if "names its fields" in readme else "no",
}
report = {
    "names": "conf/names.json", "unit": told(r"degrees (\w+) with").lower(), "digits": told(r"with (\d) digit"),
    "mark": told(r"with `(\S+)` between"),
}
with open("conf/app.ini", "w") as out:
    for section, pairs in (("source", values), ("report", report)):
        print(f"[{section}]", *(f"{k}: {v}" for k, v in pairs.items()), sep="\n", file=out)
json.dump(names, open("conf/names.json", "w"))
END
""",
    "build": r"""
python3 - <<'END'
import re
readme = open("README.md").read()
book = re.search(r"- dist/(\S+) holds", readme)[1]
rule = re.search(r"`(\S+) NAME", readme)[1]
status = re.search(r"with status (\d)", readme)[1]
program = f'''
import hashlib, os, shutil, sys
shutil.rmtree("dist", ignore_errors=True)
names = [n for n in open("src/order.txt").read().splitlines() if n and n[0] != "#"]
if not all(os.path.exists(f"src/{{n}}.part") for n in names):
    sys.exit({status})
text = ""
for n in names:
    part = open(f"src/{{n}}.part").read()
    for line in open("settings.env").read().splitlines():
        key, value = line.split("=", 1)
        part = part.replace(f"@{{key}}@", value)
    text += f"{rule} {{n}} {rule}\\n" + part
os.mkdir("dist")
open("dist/{book}", "w").write(text)
open("dist/SHA256SUMS", "w").write(hashlib.sha256(text.encode()).hexdigest() + "  {book}\\n")
'''
open("build.sh", "w").write("python3 - <<'END_OF_PROGRAM'\n" + program + "END_OF_PROGRAM\n")
END
""",
    "service": r"""
python3 - <<'END'
import re
readme = open("README.md").read()
things = re.search(r"data/(\w+)\.csv", readme)[1]
thing = re.search(r"one (\w+) a line", readme)[1]
verb = re.search(r"NAME/(\w+)", readme)[1]
short = re.search(r"\| (\d+) \| not enough", readme)[1]
open("server.py", "w").write(f'''
import csv, json, re, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

rows = {{}}
for row in csv.DictReader(open("data/{things}.csv")):
    rows[row["name"]] = {{k: v if k == "name" else int(v) for k, v in row.items()}}

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, value):
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.end_headers()
        self.wfile.write(json.dumps(value, indent=1).encode())

    def error(self, status, text):
        self.answer(status, dict(error=text))

    def do_GET(self):
        if self.path == "/health":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(b"ok\\n")
        elif self.path == "/{things}":
            self.answer(200, sorted(rows))
        elif found := re.fullmatch("/{things}/([^/]+)", self.path):
            if found[1] in rows:
                self.answer(200, rows[found[1]])
            else:
                self.error(404, "unknown {thing}")
        else:
            self.error(404, "not found")

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        found = re.fullmatch("/{things}/([^/]+)/{verb}", self.path)
        if not found:
            return self.error(404, "not found")
        if found[1] not in rows:
            return self.error(404, "unknown {thing}")
        try:
            count = json.loads(data)["count"]
            assert isinstance(count, int) and count > 0
        except Exception:
            return self.error(400, "bad count")
        if count > rows[found[1]]["stock"]:
            return self.error({short}, "not enough")
        rows[found[1]]["stock"] -= count
        self.answer(200, rows[found[1]])

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
''')
END
""",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_instructions_are_enough_to_do_the_work(own, name):
    program = f"import subprocess\nsubprocess.run(['bash', '-c', {SOLUTIONS[name]!r}], check=True)\n"
    got = own.play(family_tasks(own.tasks)[name], program)
    assert (got.reward, got.detail) == (1.0, ""), got


@pytest.mark.deep
@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_is_wrong_gets_nothing(own, name):
    task = own.tasks.task(family_tasks(own.tasks)[name])
    instance = own.tasks.instance_of(task)
    for policy, changed in terminal.wrong(task, instance, own.tasks.tree_files(instance.tree)):
        assert own.grade(task.task_id, changed).reward == 0.0, policy


def test_archives_are_what_other_programs_read():
    data = bytes(random.Random(0).randrange(256) for _ in range(70_000))
    assert gzip.decompress(terminal_data._gzip(data)) == data
    assert gzip.decompress(terminal_data._gzip(b"")) == b""
    with tarfile.open(fileobj=io.BytesIO(terminal_data._tar({"a": data}))) as packed:
        assert packed.extractfile("a").read() == data
    with zipfile.ZipFile(io.BytesIO(terminal_data._zip({"a": data}))) as packed:
        assert packed.read("a") == data


def test_report_by_hand():
    lines = [
        "T1 web GET /a 200 10",
        "T2 web GET /a 500 21",
        "T3 db GET /a 503 7",
        "T4 db GET /a 404 8",
        "T5 mq GET /a 200 9",
    ]
    assert terminal_data._report(lines).splitlines() == [
        "service,requests,errors,slowest_ms,mean_ms",
        "db,2,1,8,7",
        "web,2,1,21,15",
        "mq,1,0,9,9",
    ]
