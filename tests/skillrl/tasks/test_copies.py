"""The code under test beside the agent is found, whatever brought it there; what is there by right is not."""

import io
import tarfile
import zipfile

import pytest

from sandbox_service.tasks import Environment
from skillrl.tasks.copies import MIN_COPY_BYTES, copies

LONG = "def total(prices):\n" + "    # a line of its own\n" * 10 + "    return sum(prices)\n"
FILES = {
    "src/shop/__init__.py": b"from shop.prices import total\n",
    "src/shop/prices.py": LONG.encode(),
    "src/till.py": b"def open(): ...\n",
    "src/examples/__init__.py": b"\n",
    "src/zope/__init__.py": b"__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n",
    "src/zope/shop.py": b"x = 1\n",
    "tests/test_shop.py": b"from shop import total\n" * 20,
}
ENVIRONMENT = Environment("shop", packages=(), source_roots=("src",), test_roots=("tests",))


def written(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return copies(folder, FILES, ENVIRONMENT)


def wheel(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x = 1\n")
    return buffer.getvalue()


def sdist(*names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"shop/__init__.py": b"another version"}, ["shop/__init__.py"]),
        ({"shop.py": b"when it was one file"}, ["shop.py"]),
        ({"shop/prices.cpython-311-x86_64-linux-gnu.so": b"compiled"}, ["shop/prices.cpython-311-x86_64-linux-gnu.so"]),
        ({"till.py": b"x"}, ["till.py"]),
        ({"zope/shop.py": b"y = 2\n"}, ["zope/shop.py"]),
        ({"other/_vendor/prices_copy.py": LONG.encode()}, ["other/_vendor/prices_copy.py"]),
        (
            {"data/shop-1.0-py3-none-any.whl": wheel("shop/__init__.py", "shop/METADATA")},
            ["data/shop-1.0-py3-none-any.whl: shop/__init__.py"],
        ),
        ({"shop-1.0.tar.gz": sdist("shop-1.0/src/shop/prices.py")}, ["shop-1.0.tar.gz: src/shop/prices.py"]),
    ],
)
def test_what_holds_the_code_under_test(tmp_path, files, told):
    assert written(tmp_path, {"pytest/__init__.py": b"x = 1\n", **files}) == told


@pytest.mark.parametrize(
    "files",
    [
        {"shopping/__init__.py": b"x = 1\n", "other/shop.py": b"x = 1\n"},
        {"examples/__init__.py": b"x = 1\n"},
        {"zope/__init__.py": b"", "zope/event.py": b"x = 1\n"},
        {"shop/__init__.py": b""},
        {"other/tests.py": FILES["tests/test_shop.py"]},
        {
            "other.whl": wheel("workshop.py", "shop/data.txt", "other/till.py"),
            "broken.zip": b"PK",
            "broken.tar.gz": b"x",
        },
    ],
)
def test_what_is_there_by_right(tmp_path, files):
    assert written(tmp_path, files) == []


def test_short_files_may_be_alike(tmp_path):
    short = FILES["src/till.py"]
    assert len(short) < MIN_COPY_BYTES <= len(LONG)
    assert written(tmp_path, {"other/gate.py": short}) == []
