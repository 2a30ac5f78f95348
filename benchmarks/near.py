"""How many planted copies of real photos `pipeline data check --near` finds.

    python benchmarks/near.py --pictures-dir VOCdevkit/VOC2012/JPEGImages --photos 120 --folder DIR --config lite0.yaml

Photos are drawn from a folder, as the split to fit; a changed copy of each, all kinds in turn, is the split to score.
Printed is how many copies of each kind are paired with their photo, and how many pairs are of two different photos.
"""

import argparse
import json
import random
import subprocess
from pathlib import Path

from PIL import Image, ImageOps


def copies_of(photo: Image.Image, draw: random.Random) -> dict[str, Image.Image]:
    """Return changed copies by their names; crops, in percent of both sides, are of drawn places."""
    copies = {
        "half-size": photo.resize((photo.width // 2, photo.height // 2)),
        "quality-25": photo,
        "mirrored": ImageOps.mirror(photo),
        "turned-5": photo.rotate(5, Image.Resampling.BICUBIC),
        "turned-90": photo.transpose(Image.Transpose.ROTATE_90),
    }
    for percent in (90, 80, 70):
        x, y = (draw.randint(0, side * (100 - percent) // 100) for side in photo.size)
        copies[f"crop-{percent}"] = photo.crop(
            (x, y, x + photo.width * percent // 100, y + photo.height * percent // 100)
        )
    return copies


def plant(photos: list[Path], folder: Path, draw: random.Random) -> list[str]:
    """Write each photo and one changed copy, and a table of both; labels say nothing. Return the changes."""
    (folder / "pictures").mkdir(parents=True)
    rows, planted = ["picture,label,split"], []
    for number, path in enumerate(photos):
        photo = Image.open(path).convert("RGB")
        copies = copies_of(photo, draw)
        planted.append(list(copies)[number % len(copies)])
        for kind, image in (("photo", photo), (planted[-1], copies[planted[-1]])):
            name = f"pictures/{path.stem}.{kind}.jpg"
            image.save(folder / name, quality=25 if kind == "quality-25" else 90)
            rows.append(f"{name},{('even', 'odd')[number % 2]},{'train' if kind == 'photo' else 'val'}")
    (folder / "pictures.csv").write_text("\n".join(rows) + "\n")
    return planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures-dir", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--folder", type=Path, required=True, help="new, for copies, cache and results")
    parser.add_argument("--config", type=Path, required=True, help="settings of the extraction")
    options = parser.parse_args()
    draw = random.Random(0)
    planted = plant(draw.sample(sorted(options.pictures_dir.glob("*.jpg")), options.photos), options.folder, draw)
    extract = ["pipeline", "extract", "--dataset", "copies", "--config", str(options.config.resolve())]
    for command in (
        ["pipeline", "data", "new", "--table", "pictures.csv", "--name", "copies"],
        [*extract, "--split", "train"],
        [*extract, "--split", "val"],
        ["pipeline", "data", "check", "copies", "--near", *extract[-2:]],
    ):
        subprocess.run(command, cwd=options.folder, check=True)

    found = []
    for pair in json.loads((options.folder / "results/copies_near.json").read_text())["pairs"]:
        (one, kind), (other, of_other) = (Path(pair[side]["id"]).name.split(".") for side in ("first", "second"))
        found.append((of_other if kind == "photo" else kind) if one == other else "two photos")
    for kind in sorted(set(planted)):
        print(f"{kind}: {found.count(kind)} of {planted.count(kind)}")
    print(f"pairs of two photos: {found.count('two photos')}")


if __name__ == "__main__":
    main()
