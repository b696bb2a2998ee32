"""Code localization: +1 when the answer is exactly the set of source files of the gold change, else -1.

Records that name the functions of their gold change (Loc-Bench) also get that dataset's measures of files, by the order
of the answer; an answer names no functions.
"""

import json
from collections.abc import Collection, Sequence

from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.paths import canonical, canonical_set, is_source
from sandbox_service.runner import Runner
from sandbox_service.tasks import apply_overlay

MAX_PATHS = 20
MAX_PATH_CHARACTERS = 4096
# Loc-Bench's for files.
CUTS = (1, 3, 5)


def decide(files: Sequence[str], truth: Collection[str], tree: Collection[str]) -> dict[str, float]:
    """Precision, recall, F1 and exactness in [0, 1]; a glob, or more than can be meant, is no answer at all."""
    too_much = len(files) > MAX_PATHS or any(len(path) > MAX_PATH_CHARACTERS for path in files)
    answer = frozenset() if too_much else canonical_set(files, tree)
    if any(c in path for path in answer for c in "*?["):
        answer = frozenset()
    hits = len(answer & set(truth))
    precision = hits / len(answer) if answer else 0.0
    recall = hits / len(truth)
    f1 = 2 * hits / (len(answer) + len(truth)) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "exact": float(answer == set(truth))}


def ranked(files: Sequence[str], edit_functions: Sequence[str], tree: Collection[str]) -> dict[str, float]:
    """Loc-Bench's Acc@k (0 or 1) and Recall@k of the files of `edit_functions` (`path.py:Class.method`).

    Where more than k files are wanted, k of them are enough for Acc@k, and five for a recall of 1. A path that is there
    twice counts once.
    """
    truth = {function.partition(":")[0] for function in edit_functions}
    # Further paths cannot count, and an answer may hold any number of any length.
    answer = dict.fromkeys(canonical(path[:MAX_PATH_CHARACTERS], tree) for path in files[:MAX_PATHS])
    found: dict[str, float] = {}
    for k in CUTS:
        hits = len(truth & set(list(answer)[:k]))
        found[f"acc_at_{k}"] = float(hits == min(k, len(truth)))
        found[f"recall_at_{k}"] = hits / min(CUTS[-1], len(truth))
    return found


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    bug = request.instance.bug
    truth = [path for path in bug if is_source(path, request.environment)]
    if not truth:
        raise TaskFault(f"{request.instance.instance_id}: the gold change touches no source file")
    correct = await runner.tree_files(request.task_set, request.instance.tree)
    tree = apply_overlay(correct, bug).keys() | correct.keys()
    files = () if request.submission.missing else request.submission.files
    components = decide(files, truth, tree)
    if functions := json.loads(request.instance.expected.get("edit_functions", "[]")):
        components |= ranked(files, functions, tree)
    measure = components["f1"] if request.shaped else components["exact"]
    return Grade(2 * measure - 1, components)
