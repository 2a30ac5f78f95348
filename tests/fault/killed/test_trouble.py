"""A full disk, folders that cannot be written, pictures that go away: one message, and then it goes on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import kills
import pytest
from kills import EXTRACT, VAL_ONLY, Work, differences, without

from pipeline.activations.partition import parts_of
from pipeline.activations.records import check_record
from pipeline.activations.writer import StoreWriter
from pipeline.io.digests import sha256_bytes


def expected_of(finished) -> dict[str, bytes]:
    return without(finished[0].files(), "results", *VAL_ONLY)


def check_stopped(work: Work, code: int, output: str, *words: str) -> None:
    """It ended with one message that says `words`, and what it left is sound and not taken for complete."""
    assert code == 2, output
    lines = output.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [lines[-1]], output
    for word in words:
        assert word in lines[-1]
    assert "Traceback" not in output
    assert not list(work.cache.rglob(".*.partial"))
    kills.refuse_unless_sealed(work.store())
    check_recorded_parts(work)


def check_recorded_parts(work: Work) -> int:
    """Every part that has a record has the objects that it states; how many there are."""
    store = work.store()
    if store is None or not (store / "zarr.json").exists():
        return 0
    writer = StoreWriter(store)
    recorded = [part for part in parts_of(writer.identity) if (store / part.record_name).exists()]
    for part in recorded:
        record = check_record((store / part.record_name).read_bytes(), part, writer.fingerprint)
        for name, entry in record.objects.items():
            assert sha256_bytes((store / name).read_bytes()) == entry.sha256, name
    return len(recorded)


# --- full disk


class Disk:
    """A small file system in memory, mounted in place of a work folder's cache."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        if shutil.which("mount") is None:
            return False
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True, capture_output=True)


@pytest.fixture
def on_disk(untouched, tmp_path) -> Iterator[Callable[[int], tuple[Work, Disk]]]:
    """A work folder whose cache, with the tables in it, is a disk of some bytes; skipped where none may be mounted."""
    mounted: list[Disk] = []

    def make(size: int) -> tuple[Work, Disk]:
        work = untouched.copy(tmp_path / "work")
        tables = work.cache.rename(tmp_path / "tables")
        work.cache.mkdir()
        disk = Disk(work.cache)
        if not disk.mount(f"size={size}"):
            pytest.skip("no file system may be mounted here")
        mounted.append(disk)
        shutil.copytree(tables, work.cache, dirs_exist_ok=True)
        return work, disk

    yield make
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk.path)], check=True, capture_output=True)


def pages(path: Path) -> int:
    """Bytes that the files below a folder take on a disk with pages of 4 KiB."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("share", [0.4, 0.7, 0.98])
def test_full_disk(finished, on_disk, share):
    store = finished[0].store()
    needed = pages(finished[0].cache / "patches") + 3 * 4096  # and the memory of digests
    work, disk = on_disk(int(needed + share * pages(store)) // 4096 * 4096)

    code, output = kills.run(work, EXTRACT)
    check_stopped(work, code, output, "the disk is full", "free some space")
    there = check_recorded_parts(work)
    assert 0 < there < 34

    # Nothing was freed: it stops again, and before the trunk runs where that can be seen.
    code, output = kills.run(work, EXTRACT)
    check_stopped(work, code, output, "free some space")
    assert check_recorded_parts(work) >= there

    disk.remount("size=16m")
    assert f"resuming, {check_recorded_parts(work)} of 34 parts are recorded" in run_to_the_end(work)
    assert differences(work.files(), expected_of(finished)) == []


def run_to_the_end(work: Work) -> str:
    code, output = kills.run(work, EXTRACT)
    assert code == 0, output
    return output


def test_no_file_may_be_so_large(untouched, finished, folder):
    """A limit that every machine has: activations do not fit, all that is written before them does."""
    work, store = untouched.copy(folder / "work"), finished[0].store()
    largest = max(path.stat().st_size for path in store.rglob("zarr.json"))
    assert largest < (store / "activations/c/0/0").stat().st_size

    code, output = kills.run(work, EXTRACT, largest_file=largest)

    check_stopped(work, code, output, os.strerror(errno.EFBIG), "start the same command again")
    assert (store / "zarr.json").read_bytes() == (work.store() / "zarr.json").read_bytes()
    run_to_the_end(work)
    assert differences(work.files(), expected_of(finished)) == []


# --- folders that cannot be written


def kill_in_the_middle(work: Work, finished) -> None:
    step = f"rename cache/{finished[0].store().name}/picture/c/9"
    assert kills.run(work, EXTRACT, at=step)[0] == -signal.SIGKILL
    for path in (work.cache / ".partial").iterdir():
        path.unlink()  # else the next run could not sweep it where nothing may be written


def test_disk_that_was_mounted_read_only(finished, on_disk):
    work, disk = on_disk(2**24)
    kill_in_the_middle(work, finished)
    disk.remount("ro")

    code, output = kills.run(work, EXTRACT)

    check_stopped(work, code, output, "Read-only file system", "check the rights")
    disk.remount("rw")
    run_to_the_end(work)
    assert differences(work.files(), expected_of(finished)) == []


@pytest.mark.parametrize("of", ["the partial folder", "the store", "everything"])
def test_folder_without_the_right_to_write(untouched, finished, folder, of):
    work = untouched.copy(folder / "work")
    kill_in_the_middle(work, finished)
    closed = {
        "the partial folder": [work.cache / ".partial"],
        "the store": [path for path in work.store().rglob("*") if path.is_dir()],
        "everything": [work.cache, *(path for path in work.cache.rglob("*") if path.is_dir())],
    }[of]
    for path in closed:
        path.chmod(0o555)

    code, output = kills.run(work, EXTRACT, obey_rights=True)

    for path in closed:
        path.chmod(0o755)
    check_stopped(work, code, output, "Permission denied", "check the rights")
    run_to_the_end(work)
    assert differences(work.files(), expected_of(finished)) == []


# --- pictures


def stop_in_the_middle(work: Work, finished) -> kills.Child:
    """An extraction that waits in the middle of its fourth part; the last picture is in the last parts."""
    step = f"rename cache/{finished[0].store().name}/picture/c/3"
    child = kills.start(work, EXTRACT, at=step, signal_number=signal.SIGSTOP)
    child.wait_until_stopped()
    return child


def test_picture_that_vanishes_during_the_run(untouched, finished, folder):
    work = untouched.copy(folder / "work")
    picture = work.pictures / "p5.png"
    child = stop_in_the_middle(work, finished)
    picture.rename(folder / "away.png")
    child.go_on()

    check_stopped(work, child.wait(), child.output, "p5", "No such file", "it was there before")
    # While it is away the answer stays the same.
    code, output = kills.run(work, EXTRACT)
    assert code == 2 and "p5" in output and "Traceback" not in output
    (folder / "away.png").rename(picture)
    assert "resuming, " in run_to_the_end(work)
    assert differences(work.files(), expected_of(finished)) == []


def test_picture_that_changes_during_the_run(untouched, finished, folder):
    work = untouched.copy(folder / "work")
    picture = work.pictures / "p5.png"
    old = picture.read_bytes()
    child = stop_in_the_middle(work, finished)
    kills.draw_noise(picture, "another")
    child.go_on()

    check_stopped(work, child.wait(), child.output, "p5", "changed since the patch table was made")
    picture.write_bytes(old)
    assert "resuming, " in run_to_the_end(work)
    assert differences(work.files(), expected_of(finished)) == []


def test_picture_that_is_cut_off_during_the_run(untouched, finished, folder):
    work = untouched.copy(folder / "work")
    picture = work.pictures / "p5.png"
    old = picture.read_bytes()
    child = stop_in_the_middle(work, finished)
    os.truncate(picture, len(old) // 2)
    child.go_on()

    check_stopped(work, child.wait(), child.output, "p5", "changed since the patch table was made")
    picture.write_bytes(old)
    run_to_the_end(work)
    assert differences(work.files(), expected_of(finished)) == []
