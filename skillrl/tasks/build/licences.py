"""Which terms a package stands under. Pure functions of its metadata."""

from collections.abc import Iterable
from email.parser import HeaderParser

from skillrl.tasks.build.tree import BuildError

# SPDX identifiers whose terms allow training on the code and keeping derived bugs.
LICENCES = {
    *("MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "ISC", "PSF-2.0", "Python-2.0", "Zlib"),
    *("Unlicense", "CC0-1.0", "BSL-1.0"),
}
_LICENCE_NAMES = {
    "mit": "MIT",
    "mit license": "MIT",
    "the mit license (mit)": "MIT",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "isc license (iscl)": "ISC",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
# Whole sentences of licence texts, blanks apart -> SPDX identifier. The first that is found counts.
_LICENCE_TEXTS = (
    ("permission is hereby granted, free of charge, to any person obtaining a copy of this software", "MIT"),
    ("permission to use, copy, modify, and/or distribute this software for any purpose with or without fee", "ISC"),
    ("neither the name of", "BSD-3-Clause"),
    ("redistributions in binary form must reproduce the above copyright notice", "BSD-2-Clause"),
    ("apache license version 2.0, january 2004", "Apache-2.0"),
    ("this is free and unencumbered software released into the public domain", "Unlicense"),
    ("gnu lesser general public license", "LGPL"),
    ("gnu affero general public license", "AGPL"),
    ("gnu general public license", "GPL"),
    ("mozilla public license", "MPL-2.0"),
)


def licence_of(metadata: str) -> str:
    """SPDX identifier from PKG-INFO: License-Expression, else License, else the classifier. Unknown text as it is."""
    headers = HeaderParser().parsestr(metadata)
    if headers.get("License-Expression"):
        return headers["License-Expression"].strip()
    classifiers = headers.get_all("Classifier", [])
    return from_statements([headers.get("License", ""), *classifiers])


def from_statements(statements: Iterable[str]) -> str:
    """SPDX identifier from licence names and trove classifiers; the first statement as it is where none is known."""
    names = [s.rsplit(" :: ", 1)[-1] for s in statements if " :: " not in s or s.startswith("License ::")]
    stated = [" ".join(s.split()) for s in names if s.strip()]
    for text in stated:
        found = _LICENCE_NAMES.get(text.lower(), text)
        if found in LICENCES:
            return found
    return stated[0][:60] if stated else ""


def from_text(text: str) -> str:
    """SPDX identifier (for copyleft licences their family) of a whole licence text; empty where it is not known."""
    words = " ".join(text.lower().split())
    return next((name for sentence, name in _LICENCE_TEXTS if sentence in words), "")


def check_licence(licence: str, what: str, allowed: str = "") -> None:
    """Raises BuildError for a licence that is not known to be permissive, unless it is the one that was allowed."""
    if licence not in LICENCES and licence != (allowed or None):
        raise BuildError(
            f"{what}: licence {licence or 'unknown'!r} is not known to be permissive; read it, then pass "
            f"--allow_licence={licence or 'unknown'!r}"
        )
