"""Classes of a user's own: how they are found, and what their digest depends on."""

import sys

import pytest

from pipeline.io.errors import SettingsError
from pipeline.io.own_code import find_code, load_class

GROUP = "pipeline.heads"


def install(folder, name, version, entry, code="class Mine:\n    pass\n"):
    """Lay a package out as an installer does."""
    package = name.replace("-", "_")
    folder.mkdir(exist_ok=True)
    (folder / f"{package}.py").write_text(code)
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry} = {package}:Mine\n")
    (info / "RECORD").write_text(f"{package}.py,,\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder; modules that a test imports are forgotten."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_an_entry_point_names_a_class_and_the_version_of_its_package(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder / "one/site-packages")
    (folder / "one").mkdir()
    install(folder / "one/site-packages", "pack-one", "1.0", "nearest-one")

    found = find_code("nearest-one", GROUP)

    assert (found.reference, found.package) == ("pack_one:Mine", "pack-one 1.0")
    assert find_code("pack_one:Mine", GROUP).sha256 == found.sha256
    assert load_class(found, ()).__name__ == "Mine"


def test_an_entry_point_of_two_packages_is_refused(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder / "site-packages")
    for name in ("pack-a", "pack-b"):
        install(folder / "site-packages", name, "1.0", "both")

    with pytest.raises(SettingsError, match="is declared 2 times: pack_a:Mine, pack_b:Mine"):
        find_code("both", GROUP)


def test_the_version_of_a_package_counts_and_its_folder_does_not(folder, monkeypatch):
    digests = {}
    for place, version in (("a", "1.0"), ("b", "1.0"), ("c", "2.0")):
        (folder / place).mkdir()
        install(folder / place / "site-packages", "pack-two", version, "two")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder / place / "site-packages")
            digests[place] = find_code("two", GROUP).sha256

    assert digests["a"] == digests["b"] != digests["c"]


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("pack/heads.py", True),
        ("pack/sub/helper.py", True),
        ("pack/__init__.py", True),
        ("pack/relative.py", True),
        ("pack/unused.py", False),
        ("beside.py", False),
    ],
)
def test_what_a_module_imports_from_its_package_counts(folder, changed, counts):
    for name, code in {
        "pack/__init__.py": "",
        "pack/heads.py": "import os, numpy\nfrom pack.sub import helper\n\n\nclass Mine:\n    def late(self):\n"
        "        from . import relative\n",
        "pack/sub/__init__.py": "",
        "pack/sub/helper.py": "import beside\n",
        "pack/relative.py": "",
        "pack/unused.py": "",
        "beside.py": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    before = find_code("pack.heads:Mine", GROUP)
    (folder / changed).write_text((folder / changed).read_text() + "\nCHANGED = 1\n")

    assert (find_code("pack.heads:Mine", GROUP).sha256 != before.sha256) == counts


def test_a_class_that_changed_is_imported_anew(folder):
    (folder / "changing.py").write_text("from side import VALUE\n\n\nclass Mine:\n    value = VALUE\n")
    values = []
    for value in (1, 2, 3):
        (folder / "side.py").write_text(f"VALUE = {value}\n")
        values.append(load_class(find_code("changing:Mine", GROUP), ()).value)

    assert values == [1, 2, 3]


def test_another_working_folder_has_modules_of_its_own(folder, monkeypatch):
    values = []
    for name in ("a", "b", "a"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "same.py").write_text(f"class Mine:\n    value = {name!r}\n")
        monkeypatch.chdir(folder / name)
        values.append(load_class(find_code("same:Mine", GROUP), ()).value)

    assert values == ["a", "b", "a"]
