"""Seconds and memory to read a COCO file as large as train2017's instances: 118,000 pictures, 860,000 objects.

python benchmarks/annotations.py --folder /tmp/coco
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from pathlib import Path

from pipeline.dataset.annotated import FORMATS
from pipeline.dataset.formats.records import Source, annotation_of, match
from pipeline.dataset.voc_folder import FileIndex

N_PICTURES, N_OBJECTS, N_CLASSES = 118_000, 860_000, 90


def write_instances(path: Path) -> None:
    """Write a file with boxes and polygons of 24 to 90 numbers, record by record."""
    rng = random.Random(1)
    with open(path, "w") as file:
        file.write('{"info": {}, "images": [')
        for i in range(N_PICTURES):
            about = {"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 427, "license": 3}
            about |= {"coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg"}
            file.write((", " if i else "") + json.dumps(about))
        file.write('], "annotations": [')
        for i in range(N_OBJECTS):
            x, y, width, height = (rng.uniform(low, high) for low, high in ((0, 500), (0, 300), (5, 130), (5, 120)))
            polygon = [round(x + rng.random() * width, 2) for _ in range(2 * rng.randint(12, 45))]
            about = {"id": i, "image_id": rng.randrange(N_PICTURES), "category_id": rng.randint(1, N_CLASSES)}
            box = [round(value, 2) for value in (x, y, width, height)]
            about |= {"bbox": box, "segmentation": [polygon], "iscrowd": int(rng.random() < 0.01)}
            file.write((", " if i else "") + json.dumps(about))
        names = [{"id": c, "name": f"class {c}", "supercategory": "thing"} for c in range(1, N_CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the file is written, if it is not there")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "instances_train2017.json"
    if not path.exists():
        write_instances(path)
    print(f"{path.stat().st_size / 1e6:.0f} MB")
    pictures = {f"{i:012d}": (f"{i:012d}.jpg",) for i in range(N_PICTURES)}
    source = Source(args.folder, FileIndex(args.folder, pictures), path)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()

    def say(what: str) -> None:
        mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{what}: {time.process_time() - begin:.1f} s of one core since the start, at most {mib:.0f} MiB more")

    classes = FORMATS["coco"].class_names(source)
    say("parsed")
    records = match(FORMATS["coco"].read(source), source.finder).records
    n_objects = sum(len(annotation_of(record, classes).box_xyxy) for record in records.values() if record.digest())
    say(f"annotations and digests of {len(records):,} pictures, {n_objects:,} objects")


if __name__ == "__main__":
    main()
