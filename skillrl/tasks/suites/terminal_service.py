"""Terminal work on a service: a small HTTP server that lacks most of what it must do."""

import json
import random
from collections.abc import Mapping

from sandbox_service.graders.terminal_probes import Ask, Probe
from skillrl.tasks.suites.terminal_work import Work, encoded

_HEAD = '''\
"""Serves the stock over HTTP: python3 server.py PORT"""

import csv
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data" / "{things}.csv"


def load():
    with open(DATA, newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = ("{price}", "stock")
    return {{row["name"]: {{"name": row["name"], **{{key: int(row[key]) for key in numbers}}}} for row in rows}}


class Handler(BaseHTTPRequestHandler):
    def send(self, status, value):
        plain = isinstance(value, str)
        data = value.encode() if plain else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/health":
            return self.send(200, "ok\\n")
'''

_BEFORE = """\
        return self.send(404, {{"error": "not found"}})


STOCK = {{}}
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

_AFTER = """\
        if self.path == "/{things}":
            return self.send(200, sorted(STOCK))
        kind, _, name = self.path.lstrip("/").partition("/")
        if kind != "{things}" or "/" in name:
            return self.send(404, {{"error": "not found"}})
        if name not in STOCK:
            return self.send(404, {{"error": "unknown {thing}"}})
        return self.send(200, STOCK[name])

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.split("/")
        if len(parts) != 4 or parts[:2] != ["", "{things}"] or parts[3] != "{verb}":
            return self.send(404, {{"error": "not found"}})
        if parts[2] not in STOCK:
            return self.send(404, {{"error": "unknown {thing}"}})
        count = count_of(body)
        if count is None:
            return self.send(400, {{"error": "bad count"}})
        row = STOCK[parts[2]]
        if count > row["stock"]:
            return self.send({short}, {{"error": "not enough"}})
        row["stock"] -= count
        return self.send(200, row)


def count_of(body):
    try:
        count = json.loads(body)["count"]
    except (ValueError, KeyError, TypeError):
        return None
    return count if type(count) is int and count >= 1 else None


STOCK = load()
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

_README = """\
# Stock

`python3 server.py PORT` listens on 127.0.0.1:PORT until it is stopped. When it starts it reads data/{things}.csv (a
line with the names of the columns, then one {thing} a line: name, {price}, stock); it never writes it.
Answers are JSON with the content type application/json, except for /health. What they hold counts, not their spaces.

| request | answer |
|---|---|
| GET /health | 200, text/plain, the two letters ok and a newline |
| GET /{things} | 200, a list of the names of all {things} in byte order |
| GET /{things}/NAME | 200, an object with name, {price} and stock, the last two as numbers |
| POST /{things}/NAME/{verb} | the stock of NAME falls by N; 200, the object as it then is |

The body of a POST is {{"count": N}} with a whole number N of at least 1.

What cannot be done changes nothing. An object with the only key error says why:

| status | error | when |
|---|---|---|
| 404 | not found | any other path or method |
| 404 | unknown {thing} | no {thing} has this NAME |
| 400 | bad count | the body is not JSON, or no object with such a count (asked only when the NAME is known) |
| {short} | not enough | the count is larger than the stock |

Methods other than GET and POST are not used.
"""

_INSTRUCTION = """\
server.py answers GET /health and no more. Make it do all that README.md says, with Python's standard library alone. \
It is started with `python3 server.py PORT` in /workspace, with the given data and with others, and asked over HTTP. \
Only server.py is taken from your workspace, everything else is graded as it was."""

_THINGS = (("books", "book"), ("tools", "tool"), ("seeds", "seed"), ("lamps", "lamp"))
_NAMES = ("aster", "birch", "cedar", "daisy", "elder", "fern", "gorse", "hazel", "iris", "juniper", "Kale", "Larch")


def service(rng: random.Random) -> Work:
    things, thing = rng.choice(_THINGS)
    facts = {"things": things, "thing": thing, "price": rng.choice(("price_cents", "cost", "value"))}
    facts |= {"verb": rng.choice(("take", "lend", "ship")), "short": rng.choice((409, 422))}
    given, fresh = _stock(rng, facts), _stock(rng, facts)
    path = f"data/{things}.csv"
    right = (_HEAD + _AFTER).format(**facts)
    texts = {"README.md": _README.format(**facts), path: _csv(given, facts)}
    command = ("python3", "server.py")
    probes = (
        Probe(command, asks=_asks(rng, facts, given)),
        Probe(command, files={path: _csv(fresh, facts)}, asks=_asks(rng, facts, fresh)),
    )
    wrong = {
        "hard-coded": {"server.py": right.replace("STOCK = load()", f"STOCK = {given!r}")},
        "stock is not checked": {"server.py": right.replace('if count > row["stock"]:', "if False:")},
        "any count": {"server.py": right.replace("type(count) is int and count >= 1", "True")},
        "not sorted": {"server.py": right.replace("sorted(STOCK)", "sorted(STOCK)[::-1]")},
        "text as JSON": {"server.py": right.replace('"application/json"', '"text/plain"')},
        "forgets": {
            "server.py": right.replace('row["stock"] -= count', 'row = {**row, "stock": row["stock"] - count}')
        },
        "never listens": {"server.py": 'import time\nprint(\'[200, "text/plain", "ok\\\\n"]\')\ntime.sleep(1)\n'},
    }
    before = (_HEAD + _BEFORE).format(**facts)
    start, done = encoded({**texts, "server.py": before}), encoded({**texts, "server.py": right})
    return Work(start, done, _INSTRUCTION, ("server.py",), probes, wrong)


def _stock(rng: random.Random, facts: Mapping) -> dict[str, dict]:
    rows = {}
    for name in rng.sample(_NAMES, 6):
        rows[name] = {"name": name, facts["price"]: rng.randint(50, 9000), "stock": rng.randint(2, 30)}
    return rows


def _csv(rows: Mapping[str, dict], facts: Mapping) -> str:
    lines = [["name", facts["price"], "stock"], *([str(cell) for cell in row.values()] for row in rows.values())]
    return "".join(",".join(line) + "\n" for line in lines)


def _asks(rng: random.Random, facts: Mapping, rows: Mapping[str, dict]) -> tuple[Ask, ...]:
    """A conversation with the server; the stock falls as it goes on."""
    stock = {name: dict(row) for name, row in rows.items()}
    things, verb, short = facts["things"], facts["verb"], facts["short"]
    asks = [Ask("GET", "/health", "", 200, "text/plain", "ok\n")]

    def ask(method: str, path: str, body: str, status: int, value: object) -> None:
        asks.append(Ask(method, path, body, status, "application/json", json.dumps(value), is_json=True))

    def error(method: str, path: str, body: str, status: int, text: str) -> None:
        ask(method, path, body, status, {"error": text})

    ask("GET", f"/{things}", "", 200, sorted(stock))
    first, second, third = rng.sample(sorted(stock), 3)
    for name in (first, second):
        ask("GET", f"/{things}/{name}", "", 200, stock[name])
    error("GET", f"/{things}/nothing", "", 404, f"unknown {facts['thing']}")
    error("GET", "/elsewhere", "", 404, "not found")
    for name in (first, first, second):
        count = rng.randint(1, max(1, stock[name]["stock"] // 3))
        stock[name]["stock"] -= count
        ask("POST", f"/{things}/{name}/{verb}", json.dumps({"count": count}), 200, stock[name])
    error("POST", f"/{things}/{third}/{verb}", json.dumps({"count": stock[third]["stock"] + 1}), short, "not enough")
    ask("GET", f"/{things}/{third}", "", 200, stock[third])
    for body in ('{"count": 0}', '{"count": "2"}', '{"number": 1}', "[1]", "two", ""):
        error("POST", f"/{things}/{third}/{verb}", body, 400, "bad count")
    error("POST", f"/{things}/nothing/{verb}", '{"count": 1}', 404, f"unknown {facts['thing']}")
    error("POST", f"/{things}/{third}/burn", '{"count": 1}', 404, "not found")
    rest = stock[third]["stock"]
    stock[third]["stock"] = 0
    ask("POST", f"/{things}/{third}/{verb}", json.dumps({"count": rest}), 200, stock[third])
    for name in (first, third):
        ask("GET", f"/{things}/{name}", "", 200, stock[name])
    return tuple(asks)
