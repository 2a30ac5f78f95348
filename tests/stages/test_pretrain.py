"""A whole network trained on a dataset's own patches, from random weights: what, how well, and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from support.tables import all_rows

from pipeline.activations.cutting import cut_patches
from pipeline.activations.training_patches import cut_labelled
from pipeline.cli.main import cli
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.errors import DatasetError, PipelineError
from pipeline.patches.labels import BACKGROUND
from pipeline.patches.sampling import choose_rows, hold_out_pictures
from pipeline.patches.settings import GridSettings
from pipeline.patches.table import PatchTable
from pipeline.stages import trunk
from pipeline.stages.context import RunContext
from pipeline.stages.patches import current_table
from pipeline.stages.pretrain import pretrain_on_patches
from pipeline.stages.settings import RunSettings
from pipeline.stages.workspace import Workspace
from pipeline.trunk.card import TrunkCard
from pipeline.trunk.load import load_trunk
from pipeline.trunk.settings import FromScratchSettings

RUN = RunSettings(data_root="data", grid=GridSettings(scales=(1.0, 2.0), overlap=0.5), threads=1)
SETTINGS = FromScratchSettings(
    updates=50, batch=16, peak_rates=(), peak_rate=0.03, background_share=0.4, held_out=0.3, shift_px=2
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve pictures on grey noise: a red ball, a blue crate, or nothing."""
    root = tmp_path_factory.mktemp("drawn")
    voc, rng = root / "data/tiny", np.random.default_rng(0)
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / sub).mkdir(parents=True)
    for i in range(12):
        picture = Image.fromarray(rng.integers(90, 160, (72, 96, 3), np.uint8))
        things, (x, y) = "", rng.integers(0, 36, 2).tolist()
        if i % 3 < 2:
            kind, colour = (("ball", (220, 40, 40)), ("crate", (40, 60, 220)))[i % 3]
            draw = ImageDraw.Draw(picture)
            (draw.ellipse if kind == "ball" else draw.rectangle)((x, y, x + 35, y + 35), fill=colour)
            corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + 36}</xmax><ymax>{y + 36}</ymax>"
            things = f"<object><name>{kind}</name><bndbox>{corners}</bndbox></object>"
        picture.save(voc / f"JPEGImages/p{i:02}.png")
        (voc / f"Annotations/p{i:02}.xml").write_text(f"<annotation>{things}</annotation>")
    names = [f"p{i:02}" for i in range(12)]
    (voc / "ImageSets/Main/train.txt").write_text("\n".join(names) + "\n")
    (voc / "ImageSets/Main/empty.txt").write_text("\n".join(names[2::3]) + "\n")
    (voc / "ImageSets/Main/val.txt").write_text("\n".join(names[::4]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        invoke("data new --root data/tiny --name tiny")
    return root


@pytest.fixture
def work(folder, monkeypatch) -> Workspace:
    monkeypatch.chdir(folder)
    return Workspace(RUN)


def invoke(line: str, code: int = 0) -> str:
    ended = CliRunner().invoke(cli, line.split(), catch_exceptions=False)
    assert ended.exit_code == code, ended.output
    return ended.output


def train(work: Workspace, out: Path, settings: FromScratchSettings = SETTINGS, stop_at: str | None = None, **changes):
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if stop_at is not None and text.startswith(stop_at):
            raise KeyboardInterrupt

    settings = settings.model_copy(update=changes)
    card = pretrain_on_patches(RunContext(work, "tiny", say, "the command"), "train", out, "mine", settings)
    return card, said


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory) -> tuple[Path, TrunkCard]:
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return out, train(Workspace(RUN), out)[0]


def table_of(work: Workspace) -> tuple[PatchTable, dict[str, Path]]:
    table = current_table(RunContext(work, "tiny"), "train")
    return table, read_split(load_manifest("tiny"), "train", "data").paths_by_id


def test_the_card_says_what_was_trained_and_how_well(work, trained):
    out, card = trained
    table, _ = table_of(work)
    about = card.trained
    assert about["classes"] == ["ball", "crate", "background"]
    assert load_file(out / "mine.safetensors")["fc8.weight"].shape == (3, 1024)
    assert (about["dataset"], about["split"], about["updates"]) == ("tiny", "train", 50)
    assert about["labels_digest"] == table.labels_digest(RUN.labels)
    assert about["settings"]["peak_rate"] == 0.03
    trunk = load_trunk(str(out / "mine.yaml"))
    assert (trunk.card, trunk.width) == (card, 1024)


def test_it_learns_and_an_untrained_one_has_not(work, trained, tmp_path):
    about = trained[1].trained
    assert about["fit_accuracy"] > about["largest_class"] + 0.25
    assert about["top1"] > about["largest_class"] + 0.2
    untrained, _ = train(work, tmp_path, updates=1, peak_rate=1e-6)
    assert untrained.trained["fit_accuracy"] < about["fit_accuracy"] - 0.25


def test_source_counts_are_those_of_the_table(work, trained):
    table, _ = table_of(work)
    labels = table.labels(RUN.labels)
    held_out = hold_out_pictures(table.picture_sha256, SETTINGS.held_out)
    rows = choose_rows(labels, SETTINGS.background_share, SETTINGS.seed)
    counts = {False: [0, 0], True: [0, 0]}  # background and positive, by side
    for row in rows:
        counts[bool(held_out[all_rows(table).picture[row]])][int(labels[row] >= 0)] += 1
    assert 0 < held_out.sum() < 12
    for side, key in ((False, "source"), (True, "evaluated_on")):
        background, positive = counts[side]
        assert f"{positive:,} positive and {background:,} background patches" in trained[1].trained[key]


def test_interrupted_training_ends_in_the_same_bytes(work, trained, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(work, tmp_path, stop_at="epoch 2")
    _, said = train(work, tmp_path)
    assert any(line.startswith("going on after epoch 1 of") for line in said)
    assert (tmp_path / "mine.safetensors").read_bytes() == (trained[0] / "mine.safetensors").read_bytes()


def test_another_share_of_background_is_another_training(work, trained, tmp_path):
    checkpoint = "mine.checkpoint.pt"
    (tmp_path / checkpoint).write_bytes((trained[0] / checkpoint).read_bytes())
    with pytest.raises(PipelineError, match="background_share, pictures, content(, held_out_content)? differ"):
        train(work, tmp_path, background_share=1.0)


def test_in_the_cache_what_is_of_other_pictures_is_trained_anew(work, trained, tmp_path, monkeypatch):
    settings = SETTINGS.model_copy(update={"updates": 4, "part": "shots:3", "held_out": 0.0})
    update = {"trunk": "no-pretrain", "cache": str(tmp_path), "no_pretrain": settings}
    own, said = Workspace(RUN.model_copy(update=update)), []
    card = own.trunk_path("tiny")
    card.parent.mkdir()
    checkpoint = card.with_name(f"{card.stem}.checkpoint.pt")
    checkpoint.write_bytes((trained[0] / "mine.checkpoint.pt").read_bytes())

    run = RunContext(own, "tiny", said.append, "the command")
    made = trunk.make(run)

    assert f"{checkpoint}: of other pictures or settings; training anew" in said
    assert not any(line.startswith("going on") for line in said)
    assert card.is_file() and made.trained["updates"] == 4
    # Positive pictures are those of scored classes.
    assert trunk.why_due(run) is None
    table = replace(current_table(run, "train"), unscored=("ball",))
    monkeypatch.setattr(trunk.patches, "require", lambda run, split: table)
    assert trunk.why_due(run) == "part shots:3 is of other pictures now"


def test_patches_are_cut_as_extraction_cuts_them(work):
    table, paths = table_of(work)
    labels = table.labels(RUN.labels)
    rows = choose_rows(labels, 0.3, seed=2)
    made = cut_labelled(table, paths, labels, rows, 64)
    assert made.classes == ("ball", "crate", "background")
    for index, name in enumerate(table.ids):
        pixels = np.asarray(Image.open(paths[name]).convert("RGB"))
        of_picture = slice(*table.first_row[index : index + 2])
        cut = cut_patches(pixels, all_rows(table).box_xyxy[of_picture], all_rows(table).scale[of_picture], "grid", 64)
        for position in np.flatnonzero(all_rows(table).picture[rows] == index):
            assert np.array_equal(made.pixels[position].numpy(), cut[rows[position] - of_picture.start])
            label = labels[rows[position]]
            assert made.labels[position] == (2 if label == BACKGROUND else label)


def test_what_does_not_fit_into_memory_is_refused(work, monkeypatch):
    table, paths = table_of(work)
    labels = table.labels(RUN.labels)
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    with pytest.raises(PipelineError, match=r"take \d+\.\d GB, this machine has 0\.0 GB; use fewer with --background"):
        cut_labelled(table, paths, labels, choose_rows(labels, 1.0, 0), 64)


def test_a_split_without_objects_is_refused(work, tmp_path):
    with pytest.raises(DatasetError, match="tiny empty: no positive patch"):
        pretrain_on_patches(RunContext(work, "tiny"), "empty", tmp_path, "mine", SETTINGS)


@pytest.mark.long
def test_the_command_chooses_the_rate_on_held_out_pictures(work, tmp_path):
    (tmp_path / "run.yaml").write_text("{grid: {scales: [1.0, 2.0], overlap: 0.5}}")
    text = invoke(
        f"pretrain --dataset tiny --data-root data --config {tmp_path}/run.yaml --out {tmp_path} --name own "
        "--updates 12 --batch 16 --peak-rates 0.000001,0.03 --trial-updates 12 --held-out 0.3 --threads 1"
    )
    card = load_trunk(str(tmp_path / "own.yaml")).card
    assert [trial["peak_rate"] for trial in card.trained["rates_tried"]] == [1e-6, 0.03]
    assert card.trained["settings"]["peak_rate"] == 0.03
    assert f"fit accuracy {100 * card.trained['fit_accuracy']:.2f} %" in text
    assert card.weights_sha256 in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "give --train and --val (class folders), or --dataset"),
        ("--train a", "give --train and --val (class folders), or --dataset"),
        ("--train a --val b --split train", "--split: not with --train and --val"),
        ("--dataset tiny --train a", "--train: not with --dataset"),
        ("--dataset tiny --updates 5 --epochs 2", "--epochs and --updates: give one of them"),
        ("--dataset tiny --peak-rate 1 --peak-rates 1,2", "--peak-rate and --peak-rates: give one of them"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    assert message in invoke(f"pretrain --out none {options}", code=2)


def test_rates_are_not_compared_without_held_out_pictures(work):
    with pytest.raises(PipelineError, match="held_out must be above 0, or give one rate"):
        invoke("pretrain --out none --dataset tiny --held-out 0")
