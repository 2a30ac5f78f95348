"""Our extraction against thingsvision's own extractor, on the same patches, network and layer, in one run.

    python benchmarks/peer_rate.py --python thingsvision/bin/python --pictures-dir DIR

The environment of thingsvision is made as `peers_faults.py` says. It takes pictures as files, so the patches of all
nine scales are cut beforehand and kept as PNG, at its own size: its cutting costs nothing here. Its steps are those
of its README: dataset, data loader, `extract_features`, in memory. Ours run from the JPEG files of whole pictures
to a sealed store, at the precision that the device is best at. They take turns; printed are medians of patches
a second, their ratio round by round, and how far the rows are apart. Starting either is not counted. --output
writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = "classifier.5"  # of torchvision's AlexNet: FC7, rectified
BATCH = 64


def inner(patches: str, weights: str, out: str) -> None:
    """Within thingsvision's environment: its README's steps, timed."""
    import time

    import numpy as np
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    extractor = get_extractor(
        model_name="alexnet", source="torchvision", device="cpu", pretrained=False, model_path=weights
    )
    transforms = extractor.get_transformations(resize_dim=224, crop_dim=224)
    started = time.perf_counter()
    dataset = ImageDataset(root=patches, out_path=out, backend=extractor.get_backend(), transforms=transforms)
    batches = DataLoader(dataset=dataset, batch_size=BATCH, backend=extractor.get_backend())
    rows = extractor.extract_features(batches=batches, module_name=MODULE, flatten_acts=True, output_type="ndarray")
    seconds = time.perf_counter() - started
    np.save(Path(out) / "rows.npy", rows)
    print(json.dumps({"seconds": seconds}))


def main() -> None:
    # Not at the top: the other environment has none of it.
    import numpy as np
    import torch
    from extract import CPU, make_runner, our_extraction, pictures
    from peers_faults import SITECUSTOMIZE, TENSORFLOW
    from PIL import Image
    from safetensors.torch import save_file

    from pipeline.activations.compute import compute_layers
    from pipeline.activations.cutting import cut_patches
    from pipeline.activations.row_plan import plan_rows
    from pipeline.activations.run_log import StageClock
    from pipeline.patches.build import make_table
    from pipeline.patches.settings import SourceSettings
    from pipeline.trunk.load import load_trunk
    from pipeline.trunk.zoo.torchvision_import import import_torchvision

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of thingsvision's environment")
    parser.add_argument("--pictures-dir", type=Path, help="folder of JPEG files; drawn scenes without it")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        torch.manual_seed(0)
        state = import_torchvision().models.alexnet(weights=None).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, scratch / "alexnet.safetensors")
        torch.save(state, scratch / "alexnet.pth")
        runner = make_runner("patches", load_trunk("alexnet", weights=scratch / "alexnet.safetensors"))

        split = pictures(options.pictures_dir, options.pictures, scratch)
        table = make_table(split, SourceSettings())
        paths = split.paths_by_id
        kept = scratch / "patches"
        kept.mkdir()
        number = 0
        for index, path in enumerate(split.paths):
            own = table.windows_of_picture(index)
            pixels = np.asarray(Image.open(path).convert("RGB"))
            for patch in cut_patches(pixels, own.box_xyxy, own.scale, "grid", 224):
                Image.fromarray(patch).save(kept / f"{number:06d}.png", compress_level=1)
                number += 1
        (scratch / "sitecustomize.py").write_text(SITECUSTOMIZE)
        (scratch / "tensorflow.py").write_text(TENSORFLOW)
        environment = {**os.environ, "PYTHONPATH": str(scratch)}
        theirs, ours = [], []
        for _ in range(options.repeat):
            command = [options.python, Path(__file__).resolve(), "inner", kept, scratch / "alexnet.pth", scratch]
            ended = subprocess.run(command, env=environment, capture_output=True, text=True)
            if ended.returncode:
                sys.exit(ended.stderr[-2000:])
            theirs.append(table.n_rows / json.loads(ended.stdout.splitlines()[-1])["seconds"])
            ours.append(table.n_rows / our_extraction(table, paths, runner)[0])
        plan = plan_rows(table, paths, slice(None))
        (rows,) = compute_layers(plan, runner, BATCH, StageClock()).values()
        got = rows.astype(np.float32)
        expected = np.load(scratch / "rows.npy").astype(np.float32)
        apart = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    figures = {
        "peer": "thingsvision 2.7.3",
        "patches": table.n_rows,
        "threads": torch.get_num_threads(),
        "precision": runner.precision_name,
        "device": str(CPU),
        "patches_per_second": {
            "ours": round(statistics.median(ours), 1),
            "thingsvision": round(statistics.median(theirs), 1),
        },
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "difference_of_norm": {"median": float(f"{np.median(apart):.2g}"), "largest": float(f"{apart.max():.2g}")},
        "repeat": options.repeat,
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["inner"]:
        inner(*sys.argv[2:])
    else:
        main()
