"""Variants of a proof, and what counts as a report: pure parts. The rule itself runs in tests/attacks."""

import pytest

from sandbox_service.graders.sanitizer import _REPORT, CANDIDATES, plain, variants


@pytest.mark.parametrize("proof", [b"", b"a", bytes(range(200))])
def test_variants_are_like_the_proof_and_the_same_for_a_seed(proof):
    made = variants(proof, "s")
    assert made == variants(proof, "s") and len(made) == len(set(made)) <= CANDIDATES
    assert proof not in made and all(len(data) <= 2 * len(proof) + 8 for data in made)


def test_another_seed_gives_others():
    assert variants(bytes(range(200)), "s") != variants(bytes(range(200)), "t")


@pytest.mark.parametrize(
    ("output", "is_report"),
    [
        (b"==12==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x60", True),
        (b"==12==WARNING: MemorySanitizer: use-of-uninitialized-value", True),
        (b"a.c:3:5: runtime error: signed integer overflow", True),
        (b"SUMMARY: UndefinedBehaviorSanitizer: undefined-behavior a.c:3:5", True),
        (b"AddressSanitizer is on", False),
        (b"error: no such file", False),
    ],
)
def test_reports(output, is_report):
    assert bool(_REPORT.search(output)) is is_report


def test_what_differs_from_run_to_run_does_not_count():
    assert plain(b"at 0x7ffe12 ==77== pid 12") == plain(b"at 0x55aa ==8== pid 9") != plain(b"at 1 ==8== pid 9")
