"""Every command over every kind of dataset: a result, or an error that a person can follow to one.

An error names commands. Each is run as it stands: it must do what it promises, so that the command that failed
succeeds after it, or must itself name the next one. A refusal that names no command is an end, too; a traceback, or
advice that goes in a circle, is a failure of the test.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw
from support.cli import Ended, run_command
from support.dataset import MANIFEST, make_dataset
from support.threads import same_threads_after  # noqa: F401

from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split

CONFIG = {
    "trunk": "random",
    "precision": "fp32",
    "threads": 1,
    "grid": {"scales": [1.0, 2.0], "overlap": 0.5},
    "heads": {"fca": {"hidden": [8], "max_epochs": [1, 1, 1]}, "ours": {"kind": "svm", "costs": [1.0]}},
    "compare": ["fca"],
    "comparison": ["ours"],
    "seeds": [0],
    "held_out": 0.4,
    "no_pretrain": {"updates": 2, "peak_rates": []},
}
COLORS = ("red", "blue", "green")


def draw(path: Path, kind: int, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (64, 48), (shade % 256,) * 3)
    ImageDraw.Draw(picture).ellipse((8 + 6 * kind, 8, 40 + 6 * kind, 40), fill=COLORS[kind % 3])
    picture.save(path)


def class_folders(root: Path, classes: tuple[str, ...] = ("ball", "crate")) -> str:
    for kind, name in enumerate(classes):
        for i in range(5):
            draw(root / name / f"p{i}.png", kind, 90 + 9 * i)
    return f"data new --root {root} --name it"


def split_folders(root: Path) -> str:
    for split, n in (("train", 4), ("val", 2)):
        for kind, name in enumerate(("ball", "crate")):
            for i in range(n):
                draw(root / split / name / f"{split}{i}.png", kind, 90 + 9 * i)
    return f"data new --root {root} --name it"


def odd_names(root: Path) -> str:
    return class_folders(root, ("a ball, red (1)", "Kiste 'ü'"))


def table(root: Path) -> str:
    rows = ["picture,label"]
    for kind, name in enumerate(("ball", "crate")):
        for i in range(5):
            draw(root / f"{name}{i}.png", kind, 90 + 9 * i)
            rows.append(f"{name}{i}.png,{name}")
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    return f"data new --table {root}/table.csv --name it"


def voc(root: Path) -> str:
    make_dataset(root)
    return f"data new --root {root} --name it"


def voc_without_labels_in_eval(root: Path) -> str:
    """As a challenge hands it out: the manifest says that the split that is measured has no labels."""
    make_dataset(root, {"train": ("p", 6), "val": ("q", 3)}, unannotated=["val"])
    splits = {"train": {}, "val": {"labelled": False}}
    folder = root.parent / "data_manifests"
    folder.mkdir()
    content = {**MANIFEST, "name": "it", "folder": str(root), "splits": splits}
    (folder / "it.yaml").write_text(yaml.safe_dump(content))
    return "data check it"


def voc_of_one_class(root: Path) -> str:
    make_dataset(root)
    for path in (root / "Annotations").iterdir():
        path.write_text(path.read_text().replace("crate", "ball"))
    return f"data new --root {root} --name it"


DATASETS: dict[str, Callable[[Path], str]] = {
    "voc": voc,
    "voc, no labels in eval": voc_without_labels_in_eval,
    "voc, one class": voc_of_one_class,
    "class folders": class_folders,
    "split folders": split_folders,
    "odd names": odd_names,
    "table": table,
}
COMMANDS = (
    "data check it --deep",
    "patches --dataset it --split {fit}",
    "taught --dataset it {id}",
    "fit-head --dataset it",
    "score --dataset it",
    "evaluate --dataset it",
    "evaluate --dataset it --split {eval}",
    "sweep --dataset it",
    "recipe run ours --dataset it",
    "compare --dataset it --recipe ours",
    "compare --dataset it --heads",
    "report --dataset it",
    "ranking --dataset it",
    "map --dataset it {id} --split {fit}",
    "retrieve --dataset it --evaluate",
    "cache explain --dataset it --split {fit}",
    "cache verify",
    "cache repair",
    "doctor --dataset it",
    "plan --dataset it --rate 1000",
)
ADVICE = re.compile(r"pipeline (?:data|patches|extract|fit-head|score|evaluate|recipe|trunk|cache) [^\n;`]*")


def advised(text: str) -> list[str]:
    """The commands that an error names, as they stand, up to where prose goes on."""
    found = []
    for match in ADVICE.findall(text):
        line = re.split(r"(?:, (?!\d)|\s\(|\)|\s(?:with|which|then|or|and|says|for|on|if|to)\s|\.$|: )", match)[
            0
        ].strip()
        placeholders = re.search(r"\b[A-Z]{3,}\b|\.\.\.|<", line)
        if not placeholders:
            found.append(line.removeprefix("pipeline ").strip().rstrip(",.:"))
    return found


class Follower:
    """Runs commands and the advice of their errors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, line: str) -> Ended:
        words = shlex.split(line)
        takes_config = words[0] not in ("data",) and "--config" not in words
        return run_command(self.folder, *words, *(["--config", "config.yaml"] if takes_config else []))

    def follow(self, line: str, above: tuple[str, ...] = ()) -> None:
        assert line not in above, f"advice in a circle: {' -> '.join((*above, line))}"
        assert len(above) < 8, above
        for _ in range(6):
            ended = self.run(line)
            assert ended.code in (0, 2), f"{line}: exit {ended.code}\n{ended.err}"
            if ended.code == 0:
                return
            message = ended.err[ended.err.index("rror: ") :] if "rror: " in ended.err else ended.err
            steps = [step for step in advised(message) if step != line]
            if not steps:
                return  # a refusal
            before = message
            self.follow(steps[0], (*above, line))
            # An error may say to call the command with another option.
            other = re.search(r"such as (--\w+ [\w.-]+)", message)
            after = self.run(f"{line} {other[1]}" if other else line)
            if after.code == 0:
                return
            assert before not in after.err, f"{line}: its advice {steps[0]!r} changed nothing\n{before}"
        raise AssertionError(f"{line}: no end of advice")


@pytest.fixture(scope="module", params=DATASETS)
def follower(request, tmp_path_factory) -> Follower:
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    line = DATASETS[request.param](folder / "pictures")
    ended = run_command(folder, *shlex.split(line.replace(f"{folder}/", "")))
    assert ended.code == 0, ended.err
    return Follower(folder)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_gives_a_result_or_an_error_that_can_be_followed(line, follower, monkeypatch):
    monkeypatch.chdir(follower.folder)
    manifest = yaml.safe_load(Path("data_manifests/it.yaml").read_text())
    first = read_split(load_manifest("it"), manifest["fit"], None).ids[0]
    follower.follow(line.format(fit=manifest["fit"], eval=manifest["eval"], id=shlex.quote(first)))
