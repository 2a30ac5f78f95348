"""Every example in the help of a command and on a page of the documentation runs, on a small demo.

Larger datasets stand for themselves by name alone: the demo takes their place. Settings that make every stage short
are added by --config; what an example itself says is run as it stands.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from support.cli import run_command
from support.examples import CHECKOUT, all_commands, examples_of, lines_of_page
from support.layouts import coco_of, draw_scenes, enlarged, of_split, yolo_of_roboflow
from support.onnx_files import write_onnx
from support.threads import same_threads_after  # noqa: F401

from pipeline.cli.main import cli
from pipeline.dataset.demo.scenes import draw_demo
from pipeline.trunk.zoo.torchvision_import import import_torchvision

FAST = {
    "grid": {"scales": [1.0, 2.0], "overlap": 0.5},
    "heads": {
        **{name: {"hidden": hidden, "max_epochs": [1, 1, 1]} for name, hidden in (("fcb", []), ("fca2", [8, 8]))},
        "fca": {"hidden": [8], "max_epochs": [1, 1, 1]},
    },
    "seeds": [0],
    "threads": 1,
}
STANDS_FOR = {
    "voc12": "demo",
    "DIR": "data",
    "~/VOCdevkit": "data",
    "2008_000054": "val_0004",
    "2008_000008": "train_0003",
    "dog,person": "cat,house",
    "chair,sofa": "cat,house",
    "ilsvrc2012.txt": "1000.txt",
    "NODE": "head",
    "lite0.yaml": "fast.yaml",
    "~": "home",
}
"""Names of what is too large to be drawn here, and of a person's own folders."""
EXCEPTIONS = {
    "no command of this program": r"(?!pipeline )",
    "hours: pre-training": r"pipeline pretrain ",
    "hours: the whole demo": r"pipeline demo",
    "a dataset over the network": r"pipeline data fetch voc12",
    "an object store": r".*s3://",
    "archives of a person's own (tests/dataset/test_webdataset.py)": r"pipeline data new --root 'shard-",
    "a GPU": r".*(--(head-)?device cuda|--compiled)",
    "a cluster": r".*(tcp://HOST|--scheduler)",
    "a page that waits for its reader": r"pipeline serve ",
    "weights of hundreds of megabytes": r".*(dinov2|caffenet|bvlc_alexnet\.|vit_b_16|resnet50|alexnet-owt)",
    "weights that are downloaded": r"pipeline extract .*--trunk torchvision/resnet18",
    "a codebook of whole pictures": r".*fisher",
    "a tutorial, whose lines run in their order (tests/test_pages.py)": r"pipeline .*--dataset (mine|scenes|photos)\b",
    "a store that is named by its digest": r".*0123456789ab",
    "heads that the short settings leave out": r".*(fc6-retrained|wide-stacked|squeezenet.yaml|alexnet64.yaml)",
    "a folder that another example moves": r".*/data/cache",
    "minutes: several recipes": r"pipeline (compare|recipe run|sweep|retrieve --dataset demo --evaluate)",
    "it lists the nodes of a network, and ends with code 2": r"pipeline trunk import net.onnx .*torchvision$",
    "settings of another line": r".*(--config (persons|fisher|own|ladder)|costs.yaml|collage|_ladder.json)",
    "another dataset than the demo": r".*demo_action",
    "rows or scores of another program": r"pipeline (import-features|.*imported/|evaluate .*--scores)",
    "a comparison, which takes minutes": r"pipeline show .*(compare|heads)\.json",
    "arithmetic that the store was not made in": r".*--precision fp32",
    "a script of a shell": r".*(\$\(|> )",
}
"""Why an example is not run here, by a pattern of its line."""


def collect() -> dict[str, str]:
    """Lines and where they stand; a line that stands in several places, with or without a comment, is one."""
    found = [(line, " ".join(("pipeline", *words))) for words in all_commands() for line in examples_of(words)]
    for page in [*sorted((CHECKOUT / "docs").rglob("*.md")), CHECKOUT / "README.md"]:
        found += [(line, page.name) for line in lines_of_page(page)]
    lines: dict[str, str] = {}
    for line, where in found:  # in their order: some need what an earlier one made
        lines.setdefault(" ".join(re.sub(r"\s# .*", "", line).split()), where)
    return lines


LINES = collect()


def exception_of(line: str) -> str | None:
    return next((why for why, pattern in EXCEPTIONS.items() if re.match(pattern, line)), None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    (folder / "data_manifests").mkdir()
    manifest = yaml.safe_load((CHECKOUT / "data_manifests/demo.yaml").read_text())
    manifest |= {
        "splits": {"train": {"pictures": 12}, "val": {"pictures": 8}},
        "drawn": {"train": 12, "val": 8, "seed": 0},
    }
    (folder / "data_manifests/demo.yaml").write_text(yaml.safe_dump(manifest))
    draw_demo(folder / "data/demo", 12, 8, seed=0)
    (folder / "fast.yaml").write_text(yaml.safe_dump(FAST))
    pictures = folder / "data/demo"
    photo = pictures / "JPEGImages/val_0001.jpg"
    shutil.copytree(pictures, folder / "home/my-pictures")
    for part, name in (("train", "beach"), ("train", "wood"), ("val", "beach"), ("val", "wood")):
        (folder / "home/scenes" / part / name).mkdir(parents=True)
        for i in range(3):
            shutil.copy(pictures / f"JPEGImages/{part}_000{i + 1}.jpg", folder / f"home/scenes/{part}/{name}/{i}.jpg")
    (folder / "home/faces").mkdir()
    rows = "".join(f"{part}_000{i}.jpg,{i % 2},{part}\n" for part in ("train", "val") for i in range(1, 7))
    (folder / "home/faces/attributes.csv").write_text("picture,smiles,split\n" + rows)
    for picture in (pictures / "JPEGImages").glob("*.jpg"):
        shutil.copy(picture, folder / "home/faces")
    (folder / "home/photos").mkdir()
    for target in ("photo.jpg", "home/photos/mine.jpg"):
        shutil.copy(photo, folder / target)
    (folder / "urls.txt").write_text("home/photos/mine.jpg\n")
    shutil.copy(pictures / "Annotations/val_0001.xml", folder / "photo.xml")
    torch.manual_seed(0)
    torch.save(import_torchvision().models.resnet18(weights=None).state_dict(), folder / "resnet18.pth")
    write_onnx(folder / "net.onnx")
    (folder / "dense.yaml").write_text("method: dense\n")
    scenes = [enlarged(scene, 6) for scene in draw_scenes()]
    yolo_of_roboflow(folder / "home/my-export", scenes)
    (folder / "home/pictures").mkdir()
    (folder / "home/labels").mkdir()
    for scene in scenes:
        scene.picture.save(folder / f"home/pictures/{scene.id}.jpg")
    for split in ("train", "val"):
        (folder / f"home/labels/{split}.json").write_text(coco_of(of_split(scenes, split)))
    for line in (
        "trunk import resnet18.pth --out trunks --name resnet18 --architecture torchvision/resnet18",
        "extract --dataset demo --split train --config fast.yaml",
        "extract --dataset demo --split val --config fast.yaml",
        "fit-head --dataset demo --config fast.yaml --head fca --head fcb --head fca2",
        "score --dataset demo --config fast.yaml --head fca --head fcb --head fca2",
        "evaluate --dataset demo --config fast.yaml --output results/demo_map.json",
        "data new --root home/my-pictures --name mine",
    ):
        ended = run_command(folder, *line.split())
        assert ended.code == 0, f"{line}\n{ended.err}"
    return folder


def takes_settings(words: list[str]) -> bool:
    command = cli
    for word in words:
        found = command.get_command(None, word) if hasattr(command, "get_command") else None
        if found is None:
            break
        command = found
    return any("--config" in param.opts for param in command.params)


@pytest.mark.parametrize("line", [line for line in LINES if exception_of(line) is None])
def test_example_runs(prepared, line):
    words = shlex.split(line, comments=True)[1:]
    for name, ours in STANDS_FOR.items():
        words = [re.sub(rf"(?<![\w-]){re.escape(name)}(?!\w)", ours, word) for word in words]
    by_settings = words[:2] != ["data", "check"] or {"--deep", "--near", "--labels"} & set(words)
    if "--config" not in words and takes_settings(words) and by_settings:
        words += ["--config", "fast.yaml"]
    if words[:2] == ["data", "new"] and (prepared / f"data_manifests/{words[-1]}.yaml").exists():
        (prepared / f"data_manifests/{words[-1]}.yaml").unlink()
    words = [str(path) for word in words for path in (sorted(prepared.glob(word)) if "*" in word else [word])]
    ended = run_command(prepared, *words)
    assert ended.code == 0, f"{LINES[line]}: {line}\n{ended.err}"


def test_every_exception_is_of_some_example():
    unused = [why for why, pattern in EXCEPTIONS.items() if not any(re.match(pattern, line) for line in LINES)]
    assert unused == [] and len(LINES) > 100
