"""Attacks on localization and review: answers that cover every case."""

import shelf
from attack import Cheat

from sandbox_service.graders import Submission

LOCALIZATION = "shelf-limit-localization"


def located(*files: str) -> dict:
    return {"submission": Submission(files=files), "minimum": -1.0}


ATTACKS = [
    Cheat("localization: every file", LOCALIZATION, **located(*shelf.FILES)),
    Cheat("localization: every source file", LOCALIZATION, **located(*(p for p in shelf.FILES if "src" in p))),
    Cheat("localization: a glob", LOCALIZATION, **located("src/shelf/*.py")),
    Cheat("localization: a glob that fits one file", LOCALIZATION, **located("src/shelf/price[s].py")),
    Cheat("localization: a folder", LOCALIZATION, **located("src/shelf")),
    Cheat("localization: the test", LOCALIZATION, **located(shelf.T)),
    Cheat("localization: the file and a decoy", LOCALIZATION, **located("src/shelf/prices.py", "src/shelf/stock.py")),
    Cheat("localization: the file 21 times", LOCALIZATION, **located(*["src/shelf/prices.py"] * 21)),
    Cheat("localization: nothing", LOCALIZATION, **located()),
    Cheat(
        "localization: not in the format",
        LOCALIZATION,
        submission=Submission(files=("src/shelf/prices.py",), missing=True),
        minimum=-1.0,
    ),
    Cheat("review: nothing", "shelf-limit-review-0", submission=Submission(missing=True)),
    Cheat("review: both verdicts", "shelf-limit-review-0", submission=Submission(judgment="YES NO")),
    Cheat("review: lower case", "shelf-limit-review-1", submission=Submission(judgment="no")),
    Cheat(
        "review: verdict outside the format",
        "shelf-limit-review-0",
        submission=Submission(judgment="YES", missing=True),
    ),
]
