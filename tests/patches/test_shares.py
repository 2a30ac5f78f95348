"""Pictures of a split in shares, in killed runs, and read once: always the bytes of a table that one run makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.dataset import decode_memory
from pipeline.dataset.decode_memory import DecodeMemory
from pipeline.io.digests import DigestMemory
from pipeline.io.errors import DatasetError
from pipeline.patches import inspect
from pipeline.patches.build import make_table
from pipeline.patches.inspect import inspect_share
from pipeline.patches.settings import GridSettings, SourceSettings
from pipeline.patches.table_file import write_table

SOURCES = SourceSettings(grid=GridSettings(scales=(1.0, 2.0), overlap=0.5))


@pytest.fixture
def memory(tmp_path) -> Path:
    return tmp_path / "cache/file-digests.sqlite"


@pytest.fixture
def touched(monkeypatch) -> dict[str, list[str]]:
    """Names of the files that were read, and of the pictures that were decoded."""
    found: dict[str, list[str]] = {"read": [], "decoded": []}
    read, examine = inspect._read_picture, decode_memory.examine_picture

    def read_picture(path):
        found["read"].append(path.stem)
        return read(path)

    def examine_picture(data, name):
        found["decoded"].append(name)
        return examine(data, name)

    monkeypatch.setattr(inspect, "_read_picture", read_picture)
    monkeypatch.setattr(decode_memory, "examine_picture", examine_picture)
    return found


def bytes_of_table(split, path: Path, memory: DecodeMemory | None = None, **options) -> bytes:
    write_table(make_table(split, SOURCES, memory=memory, **options), path)
    return path.read_bytes()


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_shares_give_the_bytes_of_one_run_and_their_join_reads_nothing(voc, tmp_path, memory, touched, count):
    split = voc.read()
    expected = bytes_of_table(split, tmp_path / "alone.h5")
    touched["read"].clear(), touched["decoded"].clear()

    shares = [
        inspect_share(split, SOURCES, 2, "share", (index, count), DecodeMemory(memory)) for index in range(1, count + 1)
    ]

    assert sum(n for n, _ in shares) == 6 and {bad for _, bad in shares} == {0}
    assert max(n for n, _ in shares) - min(n for n, _ in shares) <= 1
    assert sorted(touched["read"]) == sorted(touched["decoded"]) == list(split.ids)
    assert bytes_of_table(split, tmp_path / "joined.h5", DecodeMemory(memory)) == expected
    assert len(touched["read"]) == len(touched["decoded"]) == 6


def test_bad_pictures_are_named_when_the_table_is_made(voc, tmp_path, memory):
    split = voc.read()
    for name in ("p1", "p4"):
        voc.picture(name).write_bytes(b"")
    alone = bytes_of_table(split, tmp_path / "alone.h5", on_error="skip", max_skipped=0.5)

    bad = [inspect_share(split, SOURCES, 1, "share", (index, 2), DecodeMemory(memory))[1] for index in (1, 2)]

    assert bad == [1, 1]
    with pytest.raises(DatasetError, match="2 of 6 pictures are bad"):
        make_table(split, SOURCES, memory=DecodeMemory(memory))
    joined = bytes_of_table(split, tmp_path / "j.h5", DecodeMemory(memory), on_error="skip", max_skipped=0.5)
    assert joined == alone


def test_only_changed_and_new_files_are_read(voc, memory, touched):
    make_table(voc.read(), SOURCES, memory=DecodeMemory(memory))
    voc.draw("p3", seed=99)
    voc.add("p9", [])
    os.utime(voc.picture("p5"), ns=(1, 1))
    touched["read"].clear(), touched["decoded"].clear()

    table = make_table(voc.read(), SOURCES, memory=DecodeMemory(memory))

    assert sorted(touched["read"]) == ["p3", "p5", "p9"]  # of p5 only the time is another
    assert sorted(touched["decoded"]) == ["p3", "p9"]
    assert table.picture_sha256 == make_table(voc.read(), SOURCES).picture_sha256


def test_what_an_inspection_read_is_not_hashed_again(voc, memory, monkeypatch):
    table = make_table(voc.read(), SOURCES, memory=DecodeMemory(memory))
    monkeypatch.setattr("pipeline.io.digests.sha256_file", lambda path: pytest.fail(f"{path} is hashed"))

    assert tuple(DigestMemory(memory).digests(voc.read().paths)) == table.picture_sha256


def test_all_are_read_when_that_is_asked_for(voc, memory, touched):
    make_table(voc.read(), SOURCES, memory=DecodeMemory(memory))
    touched["read"].clear(), touched["decoded"].clear()

    make_table(voc.read(), SOURCES, memory=DecodeMemory(memory, hash_again=True))

    assert sorted(touched["read"]) == list(voc.ids) and not touched["decoded"]


KILLED = """
import os, signal, sys
from pathlib import Path

from pipeline.dataset import decode_memory
from pipeline.dataset.decode_memory import DecodeMemory
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.read import read_split
from pipeline.patches import inspect
from pipeline.patches.build import make_table
from pipeline.patches.settings import GridSettings, SourceSettings

root, memory = sys.argv[1:]
manifest = Manifest(name="tiny", title="Tiny", folder="tiny", classes=("cat", "dog"), metric="voc12", fit="train",
                    eval="train", splits={"train": {}})
inspect.PICTURES_AT_WORK = 2
examine = decode_memory.examine_picture


def examine_some(data, name):
    if name == "p5":
        os.kill(os.getpid(), signal.SIGKILL)
    return examine(data, name)


decode_memory.examine_picture = examine_some
sources = SourceSettings(grid=GridSettings(scales=(1.0, 2.0), overlap=0.5))
make_table(read_split(manifest, "train", Path(root)), sources, memory=DecodeMemory(Path(memory)))
"""


def test_a_killed_run_has_lost_a_few_pictures_at_most(voc, tmp_path, memory, touched):
    expected = bytes_of_table(voc.read(), tmp_path / "alone.h5")
    touched["read"].clear(), touched["decoded"].clear()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(voc.root), str(memory)], capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    assert bytes_of_table(voc.read(), tmp_path / "again.h5", DecodeMemory(memory)) == expected

    assert sorted(touched["read"]) == sorted(touched["decoded"]) == ["p4", "p5"]
