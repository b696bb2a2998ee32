"""Fetching a package: archives, licences, names, and what is source and what is a test."""

import gzip
import io
import tarfile

import pytest

from skillrl.tasks.build.fetch import parse_requirement, unpack
from skillrl.tasks.build.licences import licence_of
from skillrl.tasks.build.tree import BuildError, find_source_files, find_source_roots, find_test_roots

METADATA = b"Metadata-Version: 2.1\nName: shop\nVersion: 1.0\nLicense: MIT\n"


def archive(files, links=()):
    """A source distribution as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return gzip.compress(buffer.getvalue(), mtime=0)


def shop(**files):
    return archive({"shop-1.0/PKG-INFO": METADATA, **{f"shop-1.0/{name}": data for name, data in files.items()}})


def test_unpack_keeps_sources_and_counts_what_it_strips():
    data = shop(
        **{
            "shop/__init__.py": b"x = 1\n",
            "tests/test_shop.py": b"",
            "CHANGES.rst": b"fixed x",
            "changelog": b"",
            "history.py": b"",
            "shop.egg-info/SOURCES.txt": b"",
            "shop.egg-info/requires.txt": b"six\n",
            "shop/__pycache__/a.pyc": b"",
            ".git/HEAD": b"",
            ".coveragerc": b"",
            "build/lib/shop/__init__.py": b"x = 1\n",
        }
    )
    sdist = unpack("shop", "1.0", data)
    assert sorted(sdist.files) == ["shop/__init__.py", "tests/test_shop.py"]
    assert sdist.metadata == {"PKG-INFO": METADATA.decode(), "requires.txt": "six\n"}
    assert sdist.licence == "MIT" and sdist.requirement == "shop==1.0" and len(sdist.sha256) == 64
    assert sdist.stripped == {
        "package metadata": 3,
        "version control and caches": 3,
        "build results": 1,
        "changelogs": 3,
    }


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "shop-1.0/../../x", "shop-1.0/a\\..\\b"])
def test_unsafe_paths_are_refused(name):
    with pytest.raises(BuildError, match="unsafe path"):
        unpack("shop", "1.0", archive({name: b""}))


def test_links_are_left_out():
    data = archive({"shop-1.0/PKG-INFO": METADATA}, links=["shop-1.0/secrets.py"])
    assert dict(unpack("shop", "1.0", data).files) == {}


def test_large_archives_are_refused():
    with pytest.raises(BuildError, match="too large"):
        unpack("shop", "1.0", shop(big=b"0" * (5 << 20)))


def test_another_archive_than_the_one_named_is_refused():
    with pytest.raises(BuildError, match="expected 0000"):
        unpack("shop", "1.0", shop(), sha256="0000")


def test_damaged_archives_are_refused():
    with pytest.raises(BuildError, match="fetch it again"):
        unpack("shop", "1.0", b"no archive")


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        ("License: MIT", "MIT"),
        ("License: BSD", "BSD-3-Clause"),
        ("License-Expression: Apache-2.0\nLicense: nonsense", "Apache-2.0"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
        ("License: see file\nClassifier: License :: OSI Approved :: Apache Software License", "Apache-2.0"),
        ("License: GPL-3.0", "GPL-3.0"),
        ("Name: shop", ""),
    ],
)
def test_licences(lines, licence):
    assert licence_of(lines + "\n\nA description.\nLicense: MIT\n") == licence


def test_unknown_licences_need_consent():
    data = archive({"shop-1.0/PKG-INFO": b"License: Odd Licence\n"})
    with pytest.raises(BuildError, match="--allow_licence='Odd Licence'"):
        unpack("shop", "1.0", data)
    assert unpack("shop", "1.0", data, allow_licence="Odd Licence").licence == "Odd Licence"


@pytest.mark.parametrize("text", ["inflection", "inflection>=1", "../x==1", "a==1 --index-url=x", "pytest==9.0", ""])
def test_only_exact_versions_of_safe_packages(text):
    with pytest.raises(BuildError):
        parse_requirement(text)


def test_names_are_normalised():
    assert parse_requirement("Python_Slugify==9.2.0") == ("python-slugify", "9.2.0")


LAYOUTS = {
    "flat, tests beside": ({"shop.py", "test_shop.py", "setup.py", "docs/conf.py"}, ".", {"test_shop.py"}, {"shop.py"}),
    "src": (
        {"src/shop/__init__.py", "src/shop/a.py", "src/shop/_version.py", "tests/test_a.py", "tests/conftest.py"},
        "src",
        {"tests"},
        {"src/shop/__init__.py", "src/shop/a.py"},
    ),
    "tests inside the package": (
        {"shop/__init__.py", "shop/a.py", "shop/tests/__init__.py", "shop/tests/test_a.py", "bench/run.py"},
        ".",
        {"shop/tests"},
        {"shop/__init__.py", "shop/a.py"},
    ),
    "a folder named test without tests": (
        {"shop/__init__.py", "shop/testing/__init__.py", "shop/testing/helpers.py", "tests/test_a.py"},
        ".",
        {"tests"},
        {"shop/__init__.py", "shop/testing/__init__.py", "shop/testing/helpers.py"},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    paths, root, tests, sources = LAYOUTS[layout]
    files = dict.fromkeys(paths, b"x = 1\n")
    assert find_source_roots(files) == (root,)
    assert set(find_test_roots(files)) == tests
    assert set(find_source_files(files, find_test_roots(files))) == sources


def test_sources_that_do_not_parse_are_left_out():
    assert find_source_files({"a.py": b"x = (\n", "b.py": b"\xff", "c.py": b""}, ()) == ["c.py"]
