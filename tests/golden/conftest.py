"""What is promised to others, kept as plain files in ``expected/``, and a small run to compare with them.

Names of files, keys, documents, bytes, help texts and results that people, scripts and caches rely on. Where one is
meant to change, write all of them anew, look at the difference, and tell it in CHANGELOG.md::

    python -m pytest tests/golden --update-golden

Bytes are those of the versions in requirements.lock.
"""

from __future__ import annotations

import difflib
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from support.cli import run_command
from support.dataset import FIT_AND_EVAL, make_dataset

HERE = Path(__file__).parent
EXPECTED = HERE / "expected"
TOLERANCE = 0.02
"""Of what is measured: another processor may move the last bits of rows, and so a loss a little."""
MEASURED = ("loss", "mAP", "AP", "std", "k_sweep", "pointing", "interval", "difference", "held_out_mAP", "stack")
"""Keys below which floats are compared within the tolerance; all others are exact."""
EXACT = ("rate",)
"""But for these, which are settings."""
CONFIG = {
    "trunk": "alexnet64",
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "grid": {"scales": [1.0, 2.0], "overlap": 0.5},
    "heads": {
        "fca": {"hidden": [32], "max_epochs": [2, 1, 1], "precision": "fp32"},
        "fcb": {"hidden": [], "precision": "fp32"},
    },
    "compare": ["fca", "fcb"],
    "held_out": 0.5,
    "seeds": [0, 1],
    "aggregations": [1, 5, "max"],
    "recipes": {
        "strong": {"title": "small", "head": {"hidden": [32], "max_epochs": [2, 1, 1], "precision": "fp32"}},
        "strong+svm": {"join": ["strong", "svm"]},
    },
    "comparison": ["strong", "svm", "strong+svm"],
}
STEPS = (
    "extract --dataset tiny --split train --config config.yaml",
    "extract --dataset tiny --split val --config config.yaml",
    "fit-head --dataset tiny --head fca --head fcb --config config.yaml",
    "score --dataset tiny --head fca --config config.yaml",
    "evaluate --dataset tiny --output results/tiny_map.json --config config.yaml",
    "compare --dataset tiny --heads --config config.yaml",
    "compare --dataset tiny --config config.yaml",
    "sweep --dataset tiny --config config.yaml",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what tests/golden expects anew")


def is_measured(key: str, above: bool) -> bool:
    """Whether what a key holds is measured; `above` says so of what holds the key."""
    return key in MEASURED or (above and key not in EXACT)


def agree(got: Any, expected: Any, measured: bool = False) -> bool:
    """Whether two JSON values are the same: keys in the same order, measured floats within the tolerance."""
    if isinstance(expected, dict) and isinstance(got, dict):
        pairs = ((got[key], expected[key], is_measured(key, measured)) for key in expected if key in got)
        return list(got) == list(expected) and all(agree(*pair) for pair in pairs)
    if isinstance(expected, list) and isinstance(got, list):
        pairs = zip(got, expected, strict=False)
        return len(got) == len(expected) and all(agree(*pair, measured) for pair in pairs)
    if measured and isinstance(expected, float) and isinstance(got, float):
        return math.isclose(got, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(got) is type(expected) and got == expected


def rounded(value: Any, measured: bool = False) -> Any:
    """A JSON value with measured floats of four digits."""
    if isinstance(value, dict):
        return {key: rounded(item, is_measured(key, measured)) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, measured) for item in value]
    return round(value, 4) if measured and isinstance(value, float) else value


class Golden:
    """Compares with the files in ``expected/``, or writes them."""

    def __init__(self, update: bool) -> None:
        self.update = update

    def check_text(self, name: str, got: str) -> None:
        """Compare a text, character by character."""
        self._check(name, got, lambda expected: got == expected)

    def check_json(self, name: str, got: Any) -> None:
        """Compare a JSON value: order of keys, exact values, measured floats within the tolerance."""
        got = json.loads(json.dumps(got))
        text = json.dumps(rounded(got), indent=2, ensure_ascii=False) + "\n"
        self._check(name, text, lambda expected: agree(got, json.loads(expected)))

    def check_files(self, folder: str, names: set[str]) -> None:
        """Compare the names of the files that are expected in a folder with those that are tested."""
        there = {path.name for path in (EXPECTED / folder).glob("*")}
        for name in there - names if self.update else ():
            (EXPECTED / folder / name).unlink()
        assert self.update or there == names

    def _check(self, name: str, text: str, same: Callable[[str], bool]) -> None:
        path = EXPECTED / name
        if self.update:
            # What is the same within the tolerance stays, so that a difference is always a change.
            if not path.is_file() or not same(path.read_text()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return
        expected = path.read_text() if path.is_file() else ""
        if not expected or not same(expected):
            lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), name, "got", lineterm="", n=1)
            pytest.fail(
                "not what was promised; if it is meant, tell it in CHANGELOG.md and write it anew with\n"
                "    python -m pytest tests/golden --update-golden\n" + "\n".join(lines),
                pytrace=False,
            )


@pytest.fixture(scope="session")
def golden(pytestconfig) -> Golden:
    return Golden(pytestconfig.getoption("--update-golden", default=False))


def write_png(path: Path, picture: Image.Image) -> None:
    """A PNG that is not compressed: its bytes are the same by all versions of all libraries."""
    width, height = picture.size
    pixels = picture.convert("RGB").tobytes()
    lines = b"".join(b"\0" + pixels[3 * width * y : 3 * width * (y + 1)] for y in range(height))
    size = len(lines)
    stored = b"\x78\x01\x01" + struct.pack("<HH", size, 0xFFFF - size) + lines + struct.pack(">I", zlib.adler32(lines))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", stored), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data)


@pytest.fixture(scope="session")
def draw(tmp_path_factory) -> Callable[[], tuple[Path, Callable[[str], str]]]:
    """Makes a work folder with the tiny dataset and settings; and what runs a command line there."""

    def draw() -> tuple[Path, Callable[[str], str]]:
        folder = tmp_path_factory.mktemp("golden") / "work"
        make_dataset(folder / "data/tiny", {**FIT_AND_EVAL, "test": ("t", 3)}, unannotated=("test",))
        for path in (folder / "data/tiny/JPEGImages").glob("*.png"):
            with Image.open(path) as picture:
                picture.load()
            write_png(path, picture)
        (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))

        def run(line: str) -> str:
            ended = run_command(folder, *line.split())
            assert ended.code == 0, f"{line}\n{ended.err}"
            return ended.out

        run("data new --root data/tiny --name tiny")
        return folder, run

    return draw


@pytest.fixture(scope="session")
def tiny(draw) -> Path:
    """A work folder after a run of every stage."""
    folder, run = draw()
    for line in STEPS:
        run(line)
    return folder


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """The settings of that run."""
    return CONFIG
