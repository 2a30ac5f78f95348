"""Real processes on a tiny dataset, killed for good, and what they leave.

A child is forked from a server that has everything imported, so it costs a twentieth of a second;
what it runs is the command line's own ``main``. Only three things differ from a user's process: parts
are small, the drawn trunk is drawn once in the server, and, where asked, each step of the write order
can be counted, stopped at, or be the last.
"""

from __future__ import annotations

import builtins
import ctypes
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from support.dataset import CONFIG as TINY_CONFIG
from support.dataset import make_dataset, write_manifest

from pipeline.activations.store import Store
from pipeline.io.errors import StoreError

HERE = Path(__file__).resolve().parent
SERVER = "PIPELINE_KILLS_SERVER"
PRELOAD = (
    "kills",
    "support.small_parts",
    "numpy.ma",
    "torch._dynamo",
    "zarr",
    "pipeline.stages.extract",
    "pipeline.cli.main",
    "pipeline.cli.extract",
    "pipeline.cli.fit_head",
    "pipeline.cli.patches",
    "pipeline.cli.score",
)
TORTURE = os.environ.get("PIPELINE_TORTURE") == "1"
"""The long form: a thousand kills in place of some forty."""
DEADLINE_S = 120.0

PART_ROWS = 3  # of 102 rows: 34 parts
CONFIG: dict[str, Any] = {**TINY_CONFIG, "batch": PART_ROWS}
EXTRACT = "extract --dataset tiny --split train --config config.yaml"
EXTRACT_VAL = "extract --dataset tiny --split val --config config.yaml"
FIT = "fit-head --dataset tiny --config config.yaml"
SCORE = "score --dataset tiny --config config.yaml"


# --- a work folder


def draw_noise(path: Path, seed: str) -> None:
    """A picture in which every window looks different."""
    cells = np.frombuffer(random.Random(seed).randbytes(6 * 8 * 3), np.uint8).reshape(6, 8, 3)
    Image.fromarray(cells).resize((64, 48), Image.Resampling.BICUBIC).save(path)


class Work:
    """A work folder with a dataset ``tiny`` of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cache = path / "cache"
        self.pictures = path / "data/tiny/JPEGImages"

    def store(self, split: str = "train") -> Path | None:
        """The only store of a split, or None where none is yet."""
        found = list(self.cache.glob(f"tiny-{split}-*.zarr"))
        assert len(found) < 2, found
        return found[0] if found else None

    def files(self) -> dict[str, bytes]:
        """Bytes of all that was made, except what may differ: logs, remembered digests, markers of the workflow."""
        found = {}
        for top in (self.cache, self.path / "results"):
            for folder, below, names in os.walk(top):
                if Path(folder) == self.cache and "due" in below:
                    below.remove("due")
                for name in names:
                    if not name.startswith("file-digests.sqlite") and ".log.json" not in name:
                        path = Path(folder, name)
                        found[str(path.relative_to(self.path))] = path.read_bytes()
        return found

    def copy(self, path: Path) -> Work:
        shutil.copytree(self.path, path, symlinks=True)
        return Work(path)


def make_work(path: Path, **changes: Any) -> Work:
    """A work folder in which nothing ran yet."""
    make_dataset(path / "data/tiny", draw=lambda path, names, shade: draw_noise(path, path.stem))
    write_manifest(path)
    (path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
    return Work(path)


def differences(got: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """What is missing, too much, or has other bytes; empty if both are equal."""
    return [
        f"{name}: {'missing' if name not in got else 'too much' if name not in expected else 'other bytes'}"
        for name in sorted(got.keys() | expected.keys())
        if got.get(name) != expected.get(name)
    ]


VAL_ONLY = ("cache/tiny-val", "cache/receipts/tiny-val")


def without(files: dict[str, bytes], *beginnings: str) -> dict[str, bytes]:
    """Files whose names begin otherwise."""
    return {name: data for name, data in files.items() if not name.startswith(beginnings)}


def refuse_unless_sealed(path: Path | None) -> None:
    """What any reader must do with what a killed process left."""
    if path is not None and (path / "integrity/seal.json").exists():
        Store(path)
        return
    try:
        Store(path or "none")
    except StoreError:
        return
    raise AssertionError(f"{path}: is read without a seal")


# --- children

_asking = threading.Lock()


@dataclass
class Child:
    """A command in a process of its own."""

    process: Any
    output_path: Path
    started: float

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        # Two threads that ask at once would take the answer from each other.
        with _asking:
            return self.process.exitcode

    @property
    def ended(self) -> bool:
        return self.code is not None

    def wait(self) -> int:
        """The exit code, when it has ended."""
        if not connection.wait([self.process.sentinel], DEADLINE_S):
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"still running after {DEADLINE_S:g} s: {self.output}")
        return self.code

    def kill(self) -> bool:
        """Kill it; False if it had ended by itself before."""
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def wait_until_stopped(self) -> None:
        """Wait until it has stopped itself at the step that it was to stop before."""
        deadline = time.monotonic() + DEADLINE_S
        stat = Path(f"/proc/{self.pid}/stat")
        while not self.ended:
            if stat.read_text().rpartition(")")[2].split()[0] == "T":
                return
            assert time.monotonic() < deadline, self.output
            time.sleep(0.002)
        raise AssertionError(f"ended with {self.wait()} before it stopped: {self.output}")

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def server() -> Iterator[None]:
    """The process that children are forked from: all modules there, one thread, a trunk drawn."""
    context = multiprocessing.get_context("forkserver")
    changes = {
        SERVER: "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH")])),
        # Threads do not come along in a fork.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    before = {name: os.environ.get(name) for name in changes}
    context.set_forkserver_preload(list(PRELOAD))
    os.environ.update(changes)
    os.environ.pop("PIPELINE_DATA", None)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
    yield


def start(work: Work, command: str, **options: Any) -> Child:
    """Start ``pipeline <command>`` in the work folder; options are those of `_run_child`."""
    output = work.path / (f"output-{time.monotonic_ns()}.txt" if options.pop("own_output", False) else "output.txt")
    output.write_text("")
    arguments = (str(work.path), command.split(), str(output))
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run_child, args=arguments, kwargs=options, daemon=True)
    with _asking:
        started = time.monotonic()
        process.start()
    return Child(process, output, started)


def run(work: Work, command: str, **options: Any) -> tuple[int, str]:
    """Run ``pipeline <command>`` to its end: exit code and everything that it printed."""
    child = start(work, command, **options)
    code = child.wait()
    return code, child.output


def complete(work: Work, *commands: str, **options: Any) -> float:
    """Run commands that must succeed; the seconds."""
    started = time.monotonic()
    for command in commands:
        code, output = run(work, command, **options)
        assert code == 0, f"{command}: exit code {code}\n{output}"
    return time.monotonic() - started


def _run_child(
    folder: str,
    argv: list[str],
    output: str,
    part_rows: int = PART_ROWS,
    at: int | str | None = None,
    signal_number: int = signal.SIGKILL,
    trace: str | None = None,
    lose_power: str | None = None,
    largest_file: int | None = None,
    obey_rights: bool = False,
) -> None:
    """In the child: run the command.

    Parameters
    ----------
    at : before which step to send itself the signal: its number, or the first one of that description
    trace : file for the list of all steps
    lose_power : before the signal undo what no fsync has made sure of: "all" of it, or some, drawn from this seed
    largest_file : bytes; writing beyond fails as on a full disk
    obey_rights : be bound by the rights of files and folders also as root
    """
    stream = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.chdir(folder)
    from support.small_parts import bind_part_rows

    from pipeline.cli.main import main

    bind_part_rows(part_rows)
    steps = Steps(Path(folder), at, signal_number, lose_power) if at is not None or trace is not None else None
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if obey_rights:
        _obey_rights()
    sys.argv = ["pipeline", *argv]
    code = 0
    try:
        main(argv)
    except SystemExit as exit_:
        code = exit_.code
    if steps is not None:
        steps.step("end", Path(folder))
        if trace is not None:
            Path(trace).write_text(json.dumps(steps.done))
    sys.exit(code)


def _obey_rights() -> None:
    """Give up root's power over files of any rights."""
    if os.geteuid() != 0:
        return

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Sets(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))

    libc, header, sets = ctypes.CDLL(None, use_errno=True), Header(0x20080522, 0), (Sets * 2)()
    if libc.capget(ctypes.byref(header), sets) == 0:
        sets[0].effective &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.capset(ctypes.byref(header), sets)


# --- the steps of the write order


class Steps:
    """Counts every step by which a process changes files under ``cache`` and ``results``.

    Made in a child: it takes the place of the calls through which files are written. A partial file
    is written in two halves, so that there is a step in the middle of its bytes.
    """

    def __init__(self, folder: Path, at: int | str | None, signal_number: int, lose_power: str | None) -> None:
        self.folder, self.at, self.signal_number, self.lose_power = folder, at, signal_number, lose_power
        self.done: list[tuple[str, str, str]] = []
        self._unsure: list[tuple[str, Callable[[], None]]] = []  # by the path whose fsync makes it sure
        self._install()

    def step(self, verb: str, path: str | os.PathLike[str], source: str = "") -> None:
        """Called before each step."""
        name = os.path.relpath(os.path.abspath(path), self.folder)
        if self.at in (len(self.done), f"{verb} {name}"):
            self.at = None
            if self.lose_power is not None:
                rng = random.Random(self.lose_power)
                for _, undo in reversed(self._unsure):
                    if self.lose_power == "all" or rng.random() < 0.5:
                        undo()
            os.kill(os.getpid(), self.signal_number)
        self.done.append((verb, name, os.path.basename(source)))

    def _made(self, path: str, undo: Callable[[], None]) -> None:
        self._unsure.append((os.path.dirname(path), undo))

    def _install(self) -> None:
        import pipeline.activations.extraction
        import pipeline.io.atomic

        fsync, replace, link, unlink, mkdir = os.fsync, os.replace, os.link, os.unlink, os.mkdir
        tops = tuple(f"{self.folder / top}" for top in ("cache", "results"))
        steps = self

        def ours(path: str | os.PathLike[str]) -> str | None:
            full = os.path.abspath(path)
            return full if full.startswith(tops) and "file-digests" not in full else None

        def counted_fsync(descriptor: int) -> None:
            path = ours(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path:
                steps.step("fsync", path)
            fsync(descriptor)
            steps._unsure = [item for item in steps._unsure if item[0] != path]

        def counted_replace(source: Any, target: Any) -> None:
            path = ours(target)
            if path:
                steps.step("rename", path, str(source))
                if not os.path.exists(path):
                    steps._made(path, lambda: _rename_back(path, source, replace))
            replace(source, target)

        def counted_link(source: Any, target: Any) -> None:
            path = ours(target)
            if path:
                steps.step("link", path, str(source))
            link(source, target)
            if path:
                steps._made(path, lambda: _unlink_if_there(path, unlink))

        def counted_unlink(path: Any, **rest: Any) -> None:
            full = ours(path)
            if full and os.path.lexists(full):
                steps.step("unlink", full)
            unlink(path, **rest)

        def counted_mkdir(path: Any, *rest: Any, **more: Any) -> None:
            full = ours(path)
            new = full and not os.path.exists(full) and os.path.isdir(os.path.dirname(full))
            if new:
                steps.step("mkdir", full)
            mkdir(path, *rest, **more)
            if new:
                steps._made(full, lambda: shutil.rmtree(full, ignore_errors=True))

        class InHalves(io.BufferedWriter):
            def write(self, data: Any) -> int:
                half = len(data) // 2
                super().write(data[:half])
                self.flush()
                steps.step("rest of", self.raw.name)
                return half + super().write(data[half:])

        def counted_open(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            full = ours(path) if isinstance(path, str | os.PathLike) and mode[0] in "wxa" else None
            if full is None:
                return builtins.open(path, mode, *rest, **more)
            steps.step("open", full)
            new = not os.path.exists(full)
            raw = io.FileIO(full, "w") if mode == "wb" else None
            stream = InHalves(raw) if raw else builtins.open(path, mode, *rest, **more)  # noqa: SIM115
            if new:
                steps._made(full, lambda: _unlink_if_there(full, unlink))
                # By a descriptor, for by then the file may have its final name.
                descriptor = os.dup(stream.fileno())
                steps._unsure.append((full, lambda: os.ftruncate(descriptor, 0)))
            return stream

        os.fsync, os.replace, os.link, os.unlink, os.mkdir = (
            counted_fsync,
            counted_replace,
            counted_link,
            counted_unlink,
            counted_mkdir,
        )
        pipeline.io.atomic.open = counted_open
        pipeline.activations.extraction.open = counted_open


def _rename_back(path: str, source: Any, replace: Callable[[str, Any], None]) -> None:
    if os.path.exists(path):
        replace(path, source)


def _unlink_if_there(path: str, unlink: Callable[[str], None]) -> None:
    if os.path.exists(path):
        unlink(path)


def steps_of(work: Work, command: str, **options: Any) -> list[tuple[str, str, str]]:
    """Every step of a command that runs to its end."""
    trace = work.path / "steps.json"
    complete(work, command, trace=str(trace), **options)
    return [tuple(step) for step in json.loads(trace.read_text())]


def between(steps: Sequence[tuple[str, str, str]], n: int) -> str:
    """The moment before step `n`, in words; a partial file has the name of what it will become."""
    final = {source: name for verb, name, source in steps if verb in ("rename", "link")}

    def words(step: tuple[str, str, str]) -> str:
        verb, name, _ = step
        name = f"partial {final[Path(name).name]}" if Path(name).name in final else name
        return f"{verb} {re.sub(r'(cache|results)/(tiny-[^/]*zarr/)?', '', name)}"

    return f"step {n}: after {words(steps[n - 1]) if n else 'nothing'}, before {words(steps[n])}"


# --- what was on the disk

OBJECT = re.compile(r"(activations|picture|box_xyxy|scale)/c/(\d+)(/0)?")
RECORD = re.compile(r"integrity/part-(\d+)\.json")


def _seen(folder: Path | None) -> dict[str, tuple[int, int, int]]:
    """Every file below a folder, and what changes with each writing of it."""
    found = {}
    for where, _, names in os.walk(folder) if folder else ():
        for name in names:
            path = os.path.join(where, name)
            try:
                stat = os.stat(path)
            except FileNotFoundError:
                continue
            found[os.path.relpath(path, folder)] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


@dataclass(frozen=True)
class Snapshot:
    """Files of a store, and partial files beside it, at one moment."""

    store: dict[str, tuple[int, int, int]]
    partials: dict[str, tuple[int, int, int]]
    receipt: bool

    @classmethod
    def of(cls, work: Work, split: str = "train") -> Snapshot:
        receipt = bool(list((work.cache / "receipts").glob(f"tiny-{split}-*.json")))
        return cls(_seen(work.store(split)), _seen(work.cache / ".partial"), receipt)


IN_WINDOW = (
    "an object is half-written",
    "objects of a part are there, its record is not",
    "a record is half-written",
    "between two parts",
    "all recorded, not sealed",
)
"""Moments between the first payload byte of the killed process and the seal."""
OTHER_MOMENTS = (
    "before the first payload byte",
    "going on, nothing written yet",
    "sealed, no receipt",
    "sealed, receipt there",
)


def moment_of(before: Snapshot, after: Snapshot, n_parts: int) -> tuple[str, float]:
    """When a kill hit an extraction, by what it left; and the share of the files of all parts that are there."""
    objects = {name for name in after.store if OBJECT.fullmatch(name)}
    records = {int(match[1]) for name in after.store if (match := RECORD.fullmatch(name))}
    progress = (len(objects) + len(records)) / (5 * n_parts)
    if "integrity/seal.json" in after.store:
        return OTHER_MOMENTS[3 if after.receipt else 2], progress
    new = {name for name in objects if before.store.get(name) != after.store[name]}
    growing = [name for name, state in after.partials.items() if before.partials.get(name) != state]
    half_object = any(re.match(r"\.\d+\.", name) and after.partials[name][2] for name in growing)
    if not new and not half_object:
        return OTHER_MOMENTS[1 if objects else 0], progress
    if half_object:
        return IN_WINDOW[0], progress
    if {int(OBJECT.fullmatch(name)[2]) for name in new} - records:
        return IN_WINDOW[2 if any(name.startswith(".part-") for name in growing) else 1], progress
    return IN_WINDOW[4 if len(records) == n_parts else 3], progress


def count_files(store: Path) -> int:
    """About how many files of parts a store has (folders made for one are counted as it); quick, for watching."""
    n = 0
    for sub in ("activations/c", "picture/c", "box_xyxy/c", "scale/c", "integrity"):
        try:
            n += len(os.listdir(store / sub))
        except FileNotFoundError:
            continue
    return n


def watch(child: Child, reached: Callable[[], bool], every_s: float = 0.002) -> bool:
    """Wait until something is reached; False if the child ended before."""
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        if child.ended:
            return False
        assert time.monotonic() < deadline, child.output
        time.sleep(every_s)
    return True


def has_partial(folder: Path, child: Child, name: str = r".*") -> bool:
    """Whether a file of a child is growing in a folder."""
    try:
        return any(re.match(rf"\.{name}\..*\.{child.pid}\.\w+\.partial", entry) for entry in os.listdir(folder))
    except FileNotFoundError:
        return False


def first_byte_written(work: Work, child: Child, before: Snapshot, split: str = "train") -> bool:
    """Whether this child has written a byte of a part."""
    if has_partial(work.cache / ".partial", child, r"\d+"):
        return True
    store = work.store(split)
    if store is None:
        return False
    try:
        return len(os.listdir(store / "picture/c")) > sum(name.startswith("picture/c/") for name in before.store)
    except FileNotFoundError:
        return False


# --- counting the kills


@dataclass
class Tally:
    """Every kill: of what, at which moment, how far the store was."""

    kills: list[tuple[str, str, float | None]] = field(default_factory=list)

    def add(self, command: str, moment: str, progress: float | None = None) -> None:
        self.kills.append((command, moment, progress))

    def moments(self, command: str) -> Counter[str]:
        return Counter(moment for name, moment, _ in self.kills if name == command)

    def deciles(self, command: str) -> list[int]:
        shares = [share for name, _, share in self.kills if name == command and share is not None]
        return [sum(min(9, int(10 * share)) == decile for share in shares) for decile in range(10)]

    def as_json(self) -> dict[str, Any]:
        commands = list(dict.fromkeys(name for name, _, _ in self.kills))
        return {
            "kills": len(self.kills),
            "commands": {
                name: {
                    "kills": sum(self.moments(name).values()),
                    "moments": dict(self.moments(name).most_common()),
                    "deciles_of_progress": self.deciles(name),
                }
                for name in commands
            },
        }

    def __str__(self) -> str:
        lines = [f"{len(self.kills)} kills"]
        for name, entry in self.as_json()["commands"].items():
            lines.append(f"  {name}: {entry['kills']}")
            lines += [f"    {n:4}  {moment}" for moment, n in entry["moments"].items()]
            if any(entry["deciles_of_progress"]):
                lines.append(f"    by tenths of the store's files: {entry['deciles_of_progress']}")
        return "\n".join(lines)


# --- the server's own preparation


def _prepare_server() -> None:
    """In the server, before any fork: what a child would otherwise do again each time."""
    import torch

    import pipeline.stages.runner

    torch.set_num_threads(1)
    Image.preinit()
    load_trunk = pipeline.stages.runner.load_trunk
    drawn = {layer: load_trunk("random", layer, None, 0) for layer in ("fc7", "pool5")}

    def load(name: str, layer: str, weights: Path | None, seed: int, **options: Any) -> Any:
        plain = name == "random" and weights is None and seed == 0
        return drawn[layer] if plain and layer in drawn else load_trunk(name, layer, weights, seed, **options)

    pipeline.stages.runner.load_trunk = load


if os.environ.get(SERVER):
    _prepare_server()
