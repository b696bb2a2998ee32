"""Terminal work on files by their content: documents to be filed, a store to be cleaned up."""

import random
from collections import defaultdict

from skillrl.tasks.suites.terminal_work import Work, difference, encoded

_KINDS = ("Invoice", "Letter", "Offer", "Receipt")
_NAMES = ("Adler", "Brandt", "Conrad", "Decker", "Ebert", "Falk", "Gerber", "Hauser")
_TOPICS = ("the delivery in spring", "the meeting", "the lease", "two broken lamps", "the new prices", "a refund")

_SORTING = """\
File the documents of inbox/ by their headers. The header of a document are the lines above its first empty line, each \
"Name: value"; all that follows is its body and says nothing about where it belongs.
1. A document with "Status: final" goes to archive/YEAR/MONTH/KIND-NUMBER.txt: YEAR and MONTH (two digits) of its \
"Date: YEAR-MONTH-DAY", its Kind in lower case, its Number as it is written.
2. When several final documents belong at the same path, the one with the largest Revision (a whole number) goes there \
and the others are deleted.
3. A document with "Status: draft" goes to drafts/ under the name that it has.
4. A document whose header has no Status stays where it is.
The contents of documents must not change. Nothing else may change, and no other file may be left in /workspace."""


def sorting(rng: random.Random) -> Work:
    inbox: dict[str, str] = {}
    finished: dict[str, str] = {}
    names = [f"{rng.getrandbits(32):08x}.txt" for _ in range(40)]
    for _ in range(rng.randint(7, 9)):
        kind, number = rng.choice(_KINDS), f"{rng.randint(1, 9999):04d}"
        day = f"{rng.randint(2019, 2024)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
        path = f"archive/{day[:4]}/{day[5:7]}/{kind.lower()}-{number}.txt"
        if path in finished:
            continue
        # 9 and 10 sort wrongly as text.
        revisions = rng.choice(([1], [3], [9, 10], [2, 11, 7]))
        for revision in revisions:
            text = _document(rng, kind, number, day, "final", revision)
            inbox[names.pop()] = text
            if revision == max(revisions):
                finished[path] = text
    for status in ("draft", "draft", "draft", "", ""):
        name, day = names.pop(), f"2023-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
        inbox[name] = _document(rng, rng.choice(_KINDS), f"{rng.randint(1, 9999):04d}", day, status, 1)
        finished[f"drafts/{name}" if status else f"inbox/{name}"] = inbox[name]
    readme = "# Documents\n\nIncoming documents are put into inbox/ by the scanner.\n"
    start = encoded({"README.md": readme, **{f"inbox/{name}": text for name, text in inbox.items()}})
    done = encoded({"README.md": readme, **finished})
    gold = difference(start, done)
    kept = {path: text for path, text in gold.items() if text is not None}
    flat = {path.replace("archive/", "archive/all/", 1): text for path, text in gold.items()}
    return Work(start, done, _SORTING, wrong={"copied, not moved": kept, "other folders": flat})


def _document(rng: random.Random, kind: str, number: str, day: str, status: str, revision: int) -> str:
    header = [f"Kind: {kind}", f"Number: {number}", f"Date: {day}", f"Revision: {revision}"]
    header += [f"Status: {status}"] if status else []
    header += [f"From: {rng.choice(_NAMES)}"]
    rng.shuffle(header)
    body = [f"Dear {rng.choice(_NAMES)},", f"this is about {rng.choice(_TOPICS)}."]
    if rng.random() < 0.6 or not status:
        # Lines that a search through the whole file would find.
        body += ["As I wrote:", f"Kind: {rng.choice(_KINDS)}", f"Date: {rng.randint(2001, 2010)}-01-01"]
        body += [f"Status: {rng.choice(('draft', 'final'))}", f"Revision: {rng.randint(20, 90)}"]
    return "\n".join([*header, "", *body, ""])


_CLEANUP = """\
Clean up store/ (all paths are as `find store -type f` prints them; byte order is that of LC_ALL=C sort).
1. Delete every file whose name ends in .tmp or ~, and every file of size 0.
2. Of files that then still have the same content keep one: that with the fewest slashes in its path, and among those \
the first in byte order. Delete the others.
3. Write removed.txt (beside store/, not in it): the paths of all files that you deleted, one a line, in byte order, \
each line ended by a newline.
Nothing else may change, and no other file may be left in /workspace."""

_FOLDERS = ("store", "store/2022", "store/2023", "store/2023/old files", "store/mail", "store/mail/in", "store/zz")
_STEMS = ("notes", "plan", "list", "-draft", "Report", "report", "summary of may", "todo", "minutes", "budget")


def cleanup(rng: random.Random) -> Work:
    files: dict[str, str] = {}
    ends = ("", ".txt", ".md", ".csv")
    places = [f"{folder}/{stem}{end}" for folder in _FOLDERS for stem in _STEMS for end in ends]
    rng.shuffle(places)
    for number in range(rng.randint(8, 10)):
        # Of two contents one differs from the other in its last character alone.
        if number % 2 == 0:
            text = f"{rng.choice(_STEMS)} {number} {rng.choice(_TOPICS)}\n" * rng.randint(1, 4)
        for _ in range(rng.choice((1, 2, 2, 3, 4))):
            files[places.pop()] = text + ("." if number % 2 else "")
    for end in (".tmp", "~"):
        files[places.pop() + end] = rng.choice(sorted(files.values()))
    # Only its end counts.
    files[places.pop() + ".tmp.txt"] = f"not temporary {rng.randint(0, 999)}\n"
    for _ in range(2):
        files[places.pop()] = ""
    removed = _removable(files)
    kept = {path: text for path, text in files.items() if path not in removed}
    readme = {"README.md": "# Store\n\nCopies of many years.\n"}
    listed = "".join(f"{path}\n" for path in sorted(removed))
    start, done = encoded({**readme, **files}), encoded({**readme, **kept, "removed.txt": listed})
    gold = difference(start, done)
    no_list = {path: text for path, text in gold.items() if path != "removed.txt"}
    keeps_last = {**gold, "removed.txt": "".join(f"{path}\n" for path in sorted(removed, reverse=True))}
    return Work(start, done, _CLEANUP, wrong={"no list": no_list, "list in another order": keeps_last})


def _removable(files: dict[str, str]) -> set[str]:
    removed = {path for path, text in files.items() if not text or path.endswith((".tmp", "~"))}
    copies: dict[str, list[str]] = defaultdict(list)
    for path, text in files.items():
        if path not in removed:
            copies[text].append(path)
    for paths in copies.values():
        removed.update(sorted(paths, key=lambda p: (p.count("/"), p.encode()))[1:])
    return removed
