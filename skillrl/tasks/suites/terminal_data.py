"""Terminal work on data: logs to be summed up, documents to be brought back from nested archives."""

import base64
import hashlib
import io
import random
import struct
import tarfile
import zipfile
import zlib
from datetime import UTC, datetime, timedelta

from skillrl.tasks.suites.terminal_work import Work, difference, encoded

_SERVICES = ("auth", "billing", "cart", "search", "mail", "stock", "Auth-v2", "images")
_PATHS = ("/login", "/pay", "/items", "/items/7", "/find", "/send", "/health")

_LOGS = """\
The files logs/*.log hold requests, one a line, with exactly six fields between single spaces:
TIME SERVICE METHOD PATH STATUS MILLISECONDS
STATUS and MILLISECONDS are whole numbers written in digits alone. A line of any other form (comments, torn lines, a \
dash for a number) does not count for anything. An error is a request with a STATUS of 500 or more.
1. Write report.csv: the header service,requests,errors,slowest_ms,mean_ms and a row for every service (names are told \
apart by case): its number of requests, of errors, its largest MILLISECONDS, and the sum of its MILLISECONDS divided \
by its requests, rounded down. The service with most errors comes first; of equals that with more requests; of equals \
the name that is first in byte order.
2. Write errors.txt: the lines of all errors of all files as they are, in byte order (LC_ALL=C sort).
Every line ends with a newline. Nothing else may change, and no other file may be left in /workspace."""


def logs(rng: random.Random) -> Work:
    services = rng.sample(_SERVICES, 6)
    moment = datetime(2024, 5, rng.randint(1, 28), tzinfo=UTC)
    lines: list[str] = []
    for _ in range(rng.randint(220, 260)):
        moment += timedelta(seconds=rng.randint(1, 240))
        status = rng.choices(("200", "204", "301", "404", "499", "500", "503"), (60, 10, 6, 8, 4, 6, 6))[0]
        fields = [moment.strftime("%Y-%m-%dT%H:%M:%SZ"), rng.choice(services), rng.choice(("GET", "POST"))]
        lines.append(" ".join([*fields, rng.choice(_PATHS), status, str(rng.randint(2, 4000))]))
    report = _report(lines)
    errors = sorted(line for line in lines if int(line.split()[4]) >= 500)
    torn = [_torn(rng, rng.choice(lines)) for _ in range(24)]
    mixed = [*lines, *torn]
    rng.shuffle(mixed)
    files: dict[str, str] = {"README.md": "# Logs\n\nOne file a front end; a balancer spreads the requests.\n"}
    for number in range(5):
        part = mixed[number::5]
        files[f"logs/front-{number + 1}.log"] = "\n".join(["# rotated", *part, ""])
    start = encoded(files)
    done = {**start, "report.csv": report.encode(), "errors.txt": "".join(f"{e}\n" for e in errors).encode()}
    gold = difference(start, done)
    careless = _report([line for line in mixed if len(line.split()) >= 6 and line.split()[5].isdigit()])
    by_name = "".join(sorted(report.splitlines(keepends=True), key=lambda row: (not row.startswith("service,"), row)))
    return Work(
        start,
        done,
        _LOGS,
        wrong={
            "torn lines counted": {**gold, "report.csv": careless},
            "sorted by name": {**gold, "report.csv": by_name},
        },
    )


def _report(lines: list[str]) -> str:
    """The report on lines whose second, fifth and sixth fields are well-formed."""
    rows = []
    for service in {line.split()[1] for line in lines}:
        own = [line.split() for line in lines if line.split()[1] == service]
        times = [int(fields[5]) for fields in own]
        errors = sum(fields[4].isdigit() and int(fields[4]) >= 500 for fields in own)
        rows.append((-errors, -len(own), service, max(times), sum(times) // len(times)))
    table = [f"{name},{-count},{-errors},{slowest},{mean}" for errors, count, name, slowest, mean in sorted(rows)]
    return "\n".join(["service,requests,errors,slowest_ms,mean_ms", *table, ""])


def _torn(rng: random.Random, line: str) -> str:
    """A line that is out of form."""
    fields = line.split()
    return rng.choice(
        (
            " ".join(fields[: rng.randint(1, 5)]),
            " ".join([*fields[:4], "-", fields[5]]),
            " ".join([*fields[:5], f"{fields[5]}ms"]),
            " ".join([*fields, "retried"]),
            "  ".join(fields),
            "# " + line,
        )
    )


_ARCHIVE = """\
Bring the documents that backup/SHA256SUMS names (lines as sha256sum prints them) back from the archives in backup/. \
Archives hold further archives (.tar, .tar.gz, .zip), and those hold documents: NAME.b64 is the document NAME in \
Base64, NAME.hex is it in hexadecimal digits, any other name is the document itself. Several copies of a document may \
be there, and many are damaged: a copy is good when its decoded content has the document's SHA-256 digest.
1. Write every document of which there is a good copy to restored/NAME.
2. Write restored/MISSING: the names of the documents without a good copy, one a line, in byte order, each line ended \
by a newline.
Documents that SHA256SUMS does not name are not wanted. Nothing else may change (the archives stay), and no other file \
may be left in /workspace."""


def archive(rng: random.Random) -> Work:
    names = rng.sample(
        [f"{topic}-{year}.txt" for topic in ("deed", "map", "roll", "will") for year in range(1870, 1880)], 9
    )
    texts = {name: _document(rng, name) for name in names}
    wanted, lost = names[:8], sorted(rng.sample(names[:8], 2))
    copies: list[tuple[str, bytes]] = []
    for name in names:
        data = texts[name].encode()
        good = [] if name in lost else [data]
        copies += [_encoded(rng, name, copy) for copy in (*good, _damaged(rng, data), _damaged(rng, data))]
    rng.shuffle(copies)
    boxes: list[dict[str, bytes]] = [{} for _ in range(6)]
    for name, data in copies:
        next(box for box in rng.sample(boxes, len(boxes)) if name not in box)[name] = data
    inner = {f"box-{n}{end}": pack(box) for n, (box, (end, pack)) in enumerate(zip(boxes, _PACKERS * 2, strict=True))}
    order = sorted(inner)
    outer = {
        "backup/first.tar.gz": _gzip(_tar({n: inner[n] for n in order[:3]})),
        "backup/second.zip": _zip({n: inner[n] for n in order[3:]}),
    }
    sums = "".join(f"{hashlib.sha256(texts[name].encode()).hexdigest()}  {name}\n" for name in sorted(wanted))
    start = {"README.md": b"# Backup\n\nThe tapes were wet.\n", "backup/SHA256SUMS": sums.encode(), **outer}
    restored = {f"restored/{name}": texts[name].encode() for name in wanted if name not in lost}
    done = {**start, **restored, "restored/MISSING": "".join(f"{name}\n" for name in lost).encode()}
    gold = difference(start, done)
    damaged = {f"restored/{name}": _damaged(rng, texts[name].encode()).decode() for name in wanted}
    unwanted = {f"restored/{name}": texts[name] for name in names[8:]}
    wrong = {"damaged copies": {**gold, **damaged}, "a document too many": {**gold, **unwanted}}
    return Work(start, done, _ARCHIVE, wrong={**wrong, "none is missing": {**gold, "restored/MISSING": ""}})


def _document(rng: random.Random, name: str) -> str:
    words = ("field", "house", "north", "river", "heirs", "of", "the", "year", "acre", "witness")
    lines = [" ".join(rng.choice(words) for _ in range(rng.randint(6, 10))) for _ in range(rng.randint(4, 9))]
    return "\n".join([name, *lines, ""])


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """One letter is another one."""
    place = rng.choice([i for i, byte in enumerate(data) if chr(byte).isalpha()])
    return data[:place] + (b"x" if data[place : place + 1] != b"x" else b"y") + data[place + 1 :]


def _encoded(rng: random.Random, name: str, data: bytes) -> tuple[str, bytes]:
    end = rng.choice(("", ".b64", ".hex"))
    if end == ".b64":
        return name + end, base64.encodebytes(data)
    return (name + end, data.hex().encode() + b"\n") if end else (name, data)


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            target.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o644 << 16
            target.writestr(info, data)
    return buffer.getvalue()


def _gzip(data: bytes) -> bytes:
    """RFC 1952 with stored blocks (RFC 1951, 3.2.4): what a compressor makes of data differs between its releases."""
    blocks = [data[i : i + 0xFFFF] for i in range(0, len(data), 0xFFFF)] or [b""]
    body = b"".join(
        struct.pack("<BHH", number == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for number, block in enumerate(blocks)
    )
    head = b"\x1f\x8b\x08\0" + struct.pack("<I", 0) + b"\0\xff"
    return head + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def _tar_gz(files: dict[str, bytes]) -> bytes:
    return _gzip(_tar(files))


_PACKERS = ((".tar", _tar), (".zip", _zip), (".tar.gz", _tar_gz))
