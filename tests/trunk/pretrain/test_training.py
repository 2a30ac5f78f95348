"""Pre-training on class folders: to the end, interrupted, and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from pipeline.io.errors import DatasetError, PipelineError
from pipeline.trunk.load import load_trunk
from pipeline.trunk.pretrain.augmentation import augment
from pipeline.trunk.pretrain.images import LabelledPictures, decode_both, decode_class_folders
from pipeline.trunk.pretrain.training import pretrain
from pipeline.trunk.settings import PretrainSettings

SETTINGS = PretrainSettings(epochs=2, batch=20, peak_rate=0.05)
ABOUT = {"source": "drawn discs", "command": "pipeline pretrain"}
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


def draw_classes(folder, n, seed):
    """Discs of one colour a class, anywhere, on grey noise."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(n):
            picture = Image.fromarray(rng.integers(90, 160, (64, 64, 3), np.uint8))
            x, y, r = rng.integers(16, 48, 2).tolist() + [int(rng.integers(12, 20))]
            ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=colour)
            picture.save(folder / name / f"{i:02}.png")


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    draw_classes(root / "train", 40, 0)
    draw_classes(root / "val", 12, 1)
    return root


@pytest.fixture
def run(class_folders):
    """Pre-train into a folder; everything said is returned with the card."""

    def start(out, settings=SETTINGS, stop_at=None, train=None, val=None):
        said = []

        def say(text):
            said.append(text)
            if stop_at is not None and text.startswith(stop_at):
                raise KeyboardInterrupt

        pictures = decode_both(train or class_folders / "train", val or class_folders / "val", 64)
        return pretrain(*pictures, out, "mine", settings, ABOUT, torch.device("cpu"), say), said

    return start


@pytest.fixture(scope="session")
def finished(class_folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pictures = decode_both(class_folders / "train", class_folders / "val", 64)
    card = pretrain(*pictures, out, "mine", SETTINGS, ABOUT, torch.device("cpu"), lambda text: None)
    torch.set_num_threads(before)
    return out, card


def test_finished_run_leaves_a_trunk(finished):
    out, card = finished
    trunk = load_trunk(str(out / "mine.yaml"))
    assert trunk.card == card
    assert (trunk.card.name, trunk.card.architecture, trunk.width) == ("mine", "alexnet64", 1024)
    assert trunk.weights_sha256 == card.weights_sha256
    weights = load_file(out / "mine.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert weights["fc8.weight"].shape == (3, 1024)
    assert not [name for name in weights if "norm" in name]


def test_card_says_how_it_was_trained(finished):
    trained = finished[1].trained
    assert trained.items() >= ABOUT.items()
    assert trained["classes"] == ["blue", "green", "red"]
    assert (trained["updates"], trained["rates_tried"]) == (12, [])
    assert trained["largest_class"] == pytest.approx(1 / 3, abs=1e-4)
    assert trained["settings"] == SETTINGS.model_dump(mode="json")
    assert [entry["epoch"] for entry in trained["history"]] == [1, 2]


def test_learns_more_than_chance(run, tmp_path):
    card, said = run(tmp_path, PretrainSettings(epochs=4, batch=20, peak_rate=0.05))
    assert card.trained["top1"] > 0.6  # chance is a third
    assert card.trained["history"][-1]["loss"] < card.trained["history"][0]["loss"]
    assert said[-1].startswith("frozen trunk (batch norm folded, half precision): fit accuracy")
    assert card.trained["fit_accuracy"] > 0.6


def test_interrupted_run_goes_on_to_the_same_bytes(run, tmp_path, finished):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at="epoch 2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.checkpoint.pt"]

    _, said = run(tmp_path)

    assert said[0] == "going on after epoch 1 of 2"
    assert not any(line.startswith("epoch 1:") for line in said)
    assert (tmp_path / "mine.safetensors").read_bytes() == (finished[0] / "mine.safetensors").read_bytes()


def test_finished_run_started_again_trains_nothing(run, tmp_path, finished):
    checkpoint = (finished[0] / "mine.checkpoint.pt").read_bytes()
    (tmp_path / "mine.checkpoint.pt").write_bytes(checkpoint)
    _, said = run(tmp_path)
    assert said[0] == "going on after epoch 2 of 2"
    assert not any(line.startswith("epoch") for line in said)
    assert (tmp_path / "mine.safetensors").read_bytes() == (finished[0] / "mine.safetensors").read_bytes()


def test_checkpoint_of_other_settings_is_refused(run, tmp_path, finished):
    (tmp_path / "mine.checkpoint.pt").write_bytes((finished[0] / "mine.checkpoint.pt").read_bytes())
    with pytest.raises(PipelineError, match=r"belongs to other settings \(epochs, seed differ\); choose another --out"):
        run(tmp_path, SETTINGS.model_copy(update={"epochs": 3, "seed": 1}))


def test_loss_that_is_not_finite_stops(run, tmp_path):
    with pytest.raises(PipelineError, match="epoch 1: the loss is not finite; lower --peak-rate"):
        run(tmp_path, PretrainSettings(epochs=1, batch=20, peak_rate=1e30))


def test_checkpoint_of_other_pictures_is_refused(class_folders, tmp_path, finished):
    (tmp_path / "mine.checkpoint.pt").write_bytes((finished[0] / "mine.checkpoint.pt").read_bytes())
    train, val = decode_both(class_folders / "train", class_folders / "val", 64)
    darker = LabelledPictures(train.pixels // 2, train.labels, train.classes)
    with pytest.raises(PipelineError, match=r"belongs to other settings \(content differ\)"):
        pretrain(darker, val, tmp_path, "mine", SETTINGS, ABOUT, torch.device("cpu"), str)


def test_a_wider_network_is_another_training_and_loads_from_its_card(run, tmp_path, finished):
    wide = SETTINGS.model_copy(update={"fc_width": 160, "epochs": 1})
    run(tmp_path / "wide", wide)
    trunk = load_trunk(str(tmp_path / "wide/mine.yaml"))
    assert trunk.card.layers == {"pool5": 1152, "fc6": 160, "fc7": 160}
    with torch.inference_mode():
        assert trunk.network(torch.zeros(2, 3, 64, 64)).shape == (2, 160)
    with pytest.raises(PipelineError, match=r"belongs to other settings \(fc_width differ\)"):
        run(tmp_path / "wide", wide.model_copy(update={"fc_width": None}))


def test_settings_without_a_width_are_written_as_before():
    assert "fc_width" not in SETTINGS.model_dump(mode="json")
    assert PretrainSettings(fc_width=6144).model_dump()["fc_width"] == 6144


# --- a number of updates


def test_updates_count_whatever_the_epochs(run, tmp_path):
    settings = PretrainSettings(updates=8, batch=20, peak_rate=0.05)  # 6 steps an epoch
    card, _ = run(tmp_path / "whole", settings)
    assert card.trained["updates"] == 8
    assert [entry["epoch"] for entry in card.trained["history"]] == [1, 2]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", settings, stop_at="epoch 2")
    run(tmp_path / "cut", settings)
    whole, cut = (tmp_path / name / "mine.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_without_held_out_pictures_only_the_fit_is_measured(class_folders, tmp_path):
    train = decode_class_folders(class_folders / "train", 64)
    card = pretrain(train, None, tmp_path, "mine", SETTINGS, ABOUT, torch.device("cpu"), str)
    assert "top1" not in card.trained and "top1" not in card.trained["history"][0]
    assert 0 <= card.trained["fit_accuracy"] <= 1


# --- the choice of a rate

CHOICE = PretrainSettings(epochs=1, batch=20, peak_rates=(1e30, 1e-6, 0.05), trial_updates=12)


def test_the_rate_that_learns_is_chosen(run, tmp_path):
    card, said = run(tmp_path, CHOICE)
    tried = card.trained["rates_tried"]
    assert [trial["peak_rate"] for trial in tried] == [1e30, 1e-6, 0.05]
    assert tried[0]["loss"] is None and tried[0]["top1"] is None
    assert tried[2]["loss"] < tried[1]["loss"]
    assert card.trained["settings"]["peak_rate"] == 0.05
    assert "peak rate 0.05 has the lowest held-out loss of 1e+30, 1e-06, 0.05" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "mine.checkpoint.pt", "mine.rates.json", "mine.safetensors", "mine.yaml"
    ]  # fmt: skip

    again, said = run(tmp_path, CHOICE)
    assert not any(line.startswith("trying") for line in said)
    assert again.weights_sha256 == card.weights_sha256


@pytest.mark.long
def test_an_interrupted_choice_goes_on(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", CHOICE, stop_at="trying a peak rate of 0.05")
    cut, said = run(tmp_path / "cut", CHOICE)
    assert [line for line in said if line.startswith("trying")] == ["trying a peak rate of 0.05 for 12 updates"]
    whole, _ = run(tmp_path / "whole", CHOICE)
    assert cut.weights_sha256 == whole.weights_sha256
    assert cut.trained["rates_tried"] == whole.trained["rates_tried"]


@pytest.mark.long
def test_trials_of_other_settings_are_refused(run, tmp_path):
    run(tmp_path, CHOICE)
    with pytest.raises(PipelineError, match=r"mine.rates.json belongs to other settings \(seed differ\)"):
        run(tmp_path, CHOICE.model_copy(update={"seed": 1}))
    (tmp_path / "mine.rates.json").write_text("[]")
    with pytest.raises(PipelineError, match="mine.rates.json: not the trials of this command"):
        run(tmp_path, CHOICE)


def test_all_rates_too_high(run, tmp_path):
    with pytest.raises(PipelineError, match=r"not finite with any peak rate of 1e\+30; give lower --peak-rates"):
        run(tmp_path, CHOICE.model_copy(update={"peak_rates": (1e30,)}))


# --- class folders


@pytest.fixture
def broken(tmp_path):
    folder = tmp_path / "broken"
    draw_classes(folder, 2, 0)
    return folder


def test_bad_pictures_are_all_named(broken):
    (broken / "red/00.png").write_bytes(b"no picture")
    data = (broken / "blue/01.png").read_bytes()
    (broken / "blue/01.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"(?s)2 of 6 pictures cannot be decoded.*blue/01.png.*red/00.png"):
        decode_class_folders(broken, 64)


def test_empty_class_is_named(broken):
    (broken / "yellow").mkdir()
    (broken / "violet").mkdir()
    (broken / "violet/notes.txt").touch()
    with pytest.raises(DatasetError, match=r"(?s)violet: no picture.*yellow: no picture"):
        decode_class_folders(broken, 64)


def test_no_class_folders(tmp_path):
    with pytest.raises(DatasetError, match="0 class folders, expected at least 2"):
        decode_class_folders(tmp_path, 64)
    with pytest.raises(DatasetError, match="no such folder; expected class folders"):
        decode_class_folders(tmp_path / "none", 64)


def test_classes_of_train_and_val_must_agree(run, broken, tmp_path):
    (broken / "red").rename(broken / "pink")
    with pytest.raises(DatasetError, match=r"(?s)pink: only in one.*red: only in one"):
        run(tmp_path / "out", val=broken)


def test_fewer_pictures_than_a_batch(run, broken, tmp_path):
    with pytest.raises(DatasetError, match="6 pictures, fewer than one batch of 20"):
        run(tmp_path / "out", train=broken)


def test_pictures_are_scaled_and_cut_to_the_centre(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        picture = Image.new("RGB", (256, 128), "black")
        ImageDraw.Draw(picture).rectangle((64, 0, 191, 127), fill="white")
        picture.save(tmp_path / name / "0.png")
    Image.new("L", (64, 64), 7).save(tmp_path / "b/1.png")
    pictures = decode_class_folders(tmp_path, 64)
    assert pictures.classes == ("a", "b")
    assert pictures.labels.tolist() == [0, 1, 1]
    assert pictures.pixels.shape == (3, 64, 64, 3)
    assert (pictures.pixels[0, :, 2:-2] == 255).all()  # but for the blurred edge
    assert (pictures.pixels[2] == 7).all()


# --- augmentation


@pytest.mark.parametrize("n", [3, 8, 20])
def test_augmentation_keeps_the_shape_and_is_seeded(n):
    batch = torch.randn(n, 3, 64, 64)
    a, b, other = (augment(batch, SETTINGS, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert a.shape == batch.shape
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.isfinite(a).all()


def test_augmentation_without_zoom_and_shift_only_flips():
    batch = torch.randn(16, 3, 64, 64)
    settings = PretrainSettings(zoom=(1.0, 1.0), shift_px=0)
    out = augment(batch, settings, torch.Generator().manual_seed(0))
    flipped = [torch.equal(new, old.flip(-1)) for old, new in zip(batch, out, strict=True)]
    same = [torch.equal(new, old) for old, new in zip(batch, out, strict=True)]
    assert [f != s for f, s in zip(flipped, same, strict=True)] == [True] * 16
    assert any(flipped) and any(same)


def test_shifts_stay_within_their_bound():
    # One bright cell in the middle moves by at most shift_px.
    batch = torch.zeros(40, 3, 64, 64)
    batch[:, :, 32, 32] = 1
    out = augment(batch, PretrainSettings(zoom=(1.0, 1.0), shift_px=3), torch.Generator().manual_seed(0))
    rows, columns = zip(*[divmod(int(picture[0].argmax()), 64) for picture in out], strict=True)
    assert (out.amax((1, 2, 3)) == 1).all()
    assert {abs(r - 32) for r in rows} == {0, 1, 2, 3}
    assert all(28 <= c <= 36 for c in columns)  # mirrored: 31 for 32
