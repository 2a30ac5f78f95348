"""Try the same faults on two other feature-extraction tools.

Every fault is really made: processes are killed by SIGKILL, bits of stored files are flipped, pictures are changed.
What is observed is written, record by record, to a JSON file. The tools are installed from PyPI, each in an
environment of its own (Python 3.11):

    python3 -m venv thingsvision && thingsvision/bin/pip install torch==2.13.0 torchvision==0.28.0 "numpy<2" timm \
        "open-clip-torch==3.*" ftfy h5py matplotlib numba pandas regex safetensors scikit-image scikit-learn scipy \
        torchtyping tqdm accelerate transformers==4.40.1 "setuptools<81"
    thingsvision/bin/pip install --no-deps thingsvision==2.7.3

    python3 -m venv eva && eva/bin/pip install "kaiko-eva[vision]==0.4.5" torch==2.13.0 \
        torchvision==0.28.0 "jsonargparse[omegaconf]==4.41.0"

thingsvision imports tensorflow, which is not needed for torch models; a stub takes its place. Where torch has no CUDA
and torchvision's wheel is built for CUDA, `import torchvision` fails on an operator; it is declared beforehand. Both
are small files that this script writes to WORK/shim and puts on PYTHONPATH; the tools themselves are not changed.

jsonargparse is pinned because 4.53.0 refuses `criterion: torch.nn.CrossEntropyLoss`, which stands in eva's own
configurations.

Then (this script itself needs only the standard library):

    python peers_faults.py thingsvision --work WORK --python thingsvision/bin/python --json peers_faults.json
    python peers_faults.py kaiko-eva    --work WORK --python eva/bin/python          --json peers_faults.json
    python peers_faults.py table        --json peers_faults.json

`--only a,b` runs some of the faults; a tool's records of those faults are replaced. The weights are random (a seed),
the pictures are drawn; nothing is downloaded.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

PICTURES, BATCH, SIDE, OTHER_SIDE, SEED, OTHER_SEED = 60, 4, 224, 128, 1, 2
KILLS, FLIPS = 5, 10

SITECUSTOMIZE = '''
"""Declare torchvision's operators before torchvision is imported (its wheel may not fit a torch without CUDA)."""
import sys


class _Declare:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            for line in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                         "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
                operator, _, rest = line.partition("(")
                torch.library.define("torchvision::" + operator, "(" + rest)
        return None


sys.meta_path.insert(0, _Declare())
'''

TENSORFLOW = '''
"""A stand-in for tensorflow: its names can be imported, and there is no GPU."""
import sys
import types


class _Stub(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for _name in ("keras", "keras.applications", "keras.layers", "keras.models"):
    sys.modules[__name__ + "." + _name] = _Stub(__name__ + "." + _name)
keras = sys.modules[__name__ + ".keras"]
keras.layers, keras.models = sys.modules[__name__ + ".keras.layers"], sys.modules[__name__ + ".keras.models"]
keras.applications = sys.modules[__name__ + ".keras.applications"]


class config:
    list_physical_devices = staticmethod(lambda kind: [])


class Tensor:
    pass
'''

EVA_DATASET = '''
"""A folder of pictures as a dataset class of eva, by its documented base class and its own picture reader."""
import os

import torch
from eva.vision.data.datasets.vision import VisionDataset
from eva.vision.utils import io


class Drawn(VisionDataset):
    def __init__(self, root, split, transforms=None):
        super().__init__(transforms=transforms)
        self._root, self._split = root, split

    def configure(self):
        names = sorted(os.listdir(self._root))
        cut = len(names) * 2 // 3
        self._names = names[:cut] if self._split == "train" else names[cut:]

    def filename(self, index):
        return self._names[index]

    def load_data(self, index):
        return io.read_image_as_tensor(os.path.join(self._root, self._names[index]))

    def load_target(self, index):
        return torch.tensor(index % 2, dtype=torch.int64)

    def __len__(self):
        return len(self._names)
'''

EVA_CONFIG = """
trainer:
  class_path: eva.Trainer
  init_args:
    n_runs: 1
    default_root_dir: {logs}
    max_steps: {steps}
    accelerator: cpu
    enable_progress_bar: false
    log_every_n_steps: 1
    callbacks:
      - class_path: lightning.pytorch.callbacks.ModelCheckpoint
        init_args:
          filename: best
          save_last: true
          save_top_k: 1
          monitor: val/MulticlassAccuracy
          mode: max
      - class_path: eva.callbacks.ClassificationEmbeddingsWriter
        init_args:
          output_dir: {out}
          dataloader_idx_map:
            0: train
            1: val
          backbone:
            class_path: eva.models.ModelFromFunction
            init_args:
              path: timm.create_model
              arguments:
                model_name: resnet18
                num_classes: 0
                pretrained: false
              checkpoint_path: {weights}
          overwrite: {overwrite}
          save_every_n: {every}
    logger:
      - class_path: lightning.pytorch.loggers.CSVLogger
        init_args:
          save_dir: {logs}
model:
  class_path: eva.HeadModule
  init_args:
    head:
      class_path: torch.nn.Linear
      init_args:
        in_features: 512
        out_features: 2
    criterion: torch.nn.CrossEntropyLoss
    optimizer:
      class_path: torch.optim.SGD
      init_args:
        lr: 0.01
    metrics:
      common:
        - class_path: eva.metrics.AverageLoss
        - class_path: eva.metrics.MulticlassClassificationMetrics
          init_args:
            num_classes: 2
data:
  class_path: eva.DataModule
  init_args:
    datasets:
      train:
        class_path: eva.datasets.EmbeddingsClassificationDataset
        init_args: &STORED
          root: {out}
          manifest_file: manifest.csv
          split: train
      val:
        class_path: eva.datasets.EmbeddingsClassificationDataset
        init_args:
          <<: *STORED
          split: val
      predict:
        - class_path: peers_drawn.Drawn
          init_args: &PICTURES
            root: {pictures}
            split: train
            transforms:
              class_path: eva.vision.data.transforms.common.ResizeAndCrop
              init_args:
                size: {side}
        - class_path: peers_drawn.Drawn
          init_args:
            <<: *PICTURES
            split: val
    dataloaders:
      train: &LOADER
        batch_size: 16
        num_workers: 0
        persistent_workers: false
        prefetch_factor: null
        pin_memory: false
      val: *LOADER
      predict:
        <<: *LOADER
        batch_size: {batch}
"""


# ---- run by the tool's interpreter ---------------------------------------------------------------------------------


def inner_draw(folder, count, seed, size):
    """Draw `count` pictures; a picture depends on its number and the seed alone."""
    from PIL import Image, ImageDraw

    Path(folder).mkdir(parents=True, exist_ok=True)
    width, height = 4 * int(size) // 3, int(size)
    for number in range(int(count)):
        dice = random.Random(f"{seed}/{number}")
        picture = Image.new("RGB", (width, height), tuple(dice.randrange(256) for _ in range(3)))
        pen = ImageDraw.Draw(picture)
        for _ in range(12):
            x, y, w, h = (dice.randrange(1, n) for n in (width, height, width // 2, height // 2))
            shape = dice.choice([pen.rectangle, pen.ellipse])
            shape((x, y, x + w, y + h), fill=tuple(dice.randrange(256) for _ in range(3)))
        picture.save(Path(folder) / f"picture_{number:04d}.jpg", quality=90)


def inner_weights(path, tool, seed):
    """Random weights of a ResNet-18 in the form that the tool loads."""
    import torch

    torch.manual_seed(int(seed))
    if tool == "thingsvision":
        import torchvision

        model = torchvision.models.resnet18(weights=None)
    else:
        import timm

        model = timm.create_model("resnet18", num_classes=0, pretrained=False)
    torch.save(model.state_dict(), path)


def inner_thingsvision(pictures, out, weights, side):
    """The steps of thingsvision's README with the `output_dir` of its page on low memory."""
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    extractor = get_extractor(
        model_name="resnet18", source="torchvision", device="cpu", pretrained=False, model_path=weights
    )
    transforms = extractor.get_transformations(resize_dim=int(side), crop_dim=int(side))
    dataset = ImageDataset(root=pictures, out_path=out, backend=extractor.get_backend(), transforms=transforms)
    batches = DataLoader(dataset=dataset, batch_size=BATCH, backend=extractor.get_backend())
    extractor.extract_features(
        batches=batches, module_name="avgpool", flatten_acts=True, output_type="ndarray", output_dir=out, step_size=2
    )


def first_row(path):
    """The first row of a chunk of thingsvision, from its file name."""
    return int(re.findall(r"\d+", path.name)[0])


def inner_read_thingsvision(*roots):
    """Read stores with numpy.load, chunks in order of their first row; one JSON line a store."""
    import numpy as np

    for root in roots:
        try:
            chunks = sorted(Path(root, "avgpool").glob("features_*.npy"), key=first_row)
            values = np.concatenate([np.load(chunk) for chunk in chunks])
            print(
                json.dumps(
                    {
                        "rows": len(values),
                        "finite": bool(np.isfinite(values).all()),
                        "digest": hashlib.sha256(values.tobytes()).hexdigest(),
                    }
                )
            )
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}))


def inner_merge_thingsvision(root):
    from thingsvision.utils.storing.helpers import merge_features

    print(merge_features(os.path.join(root, "avgpool"), "npy").shape)


def inner_read_eva(*roots):
    """Read stores with eva's own dataset of embeddings; one JSON line a store."""
    import torch
    from eva.core.data.datasets import EmbeddingsClassificationDataset

    for root in roots:
        try:
            digest, rows, finite = hashlib.sha256(), {}, True
            for split in ("train", "val"):
                dataset = EmbeddingsClassificationDataset(root=root, manifest_file="manifest.csv", split=split)
                dataset.setup()
                rows[split] = len(dataset)
                for index in range(len(dataset)):
                    embedding, target = dataset[index]
                    finite = finite and bool(torch.isfinite(embedding).all())
                    digest.update(embedding.numpy().tobytes())
            print(
                json.dumps({"rows": sum(rows.values()), "split": rows, "finite": finite, "digest": digest.hexdigest()})
            )
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}))


def inner_files_eva(*roots):
    """Load every .pt below each folder, whether the manifest names it or not."""
    import torch

    for root in roots:
        good = bad = 0
        for path in sorted(Path(root).rglob("*.pt")):
            try:
                torch.load(path)
                good += 1
            except Exception:
                bad += 1
        print(json.dumps({"loadable": good, "not_loadable": bad}))


INNER = {name.removeprefix("inner_"): thing for name, thing in list(globals().items()) if name.startswith("inner_")}


# ---- the two tools seen from outside ------------------------------------------------------------------------------


class Tool:
    name = ""
    reader = ""

    def __init__(self, work, python):
        self.work, self.python = Path(work).resolve() / self.name, str(Path(python).absolute())
        self.shim = self.work / "shim"
        self.shim.mkdir(parents=True, exist_ok=True)
        (self.shim / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self.environment = dict(
            os.environ,
            OMP_NUM_THREADS="1",
            PYTHONPATH=str(self.shim),
            PYTHONWARNINGS="ignore",
            TORCH_HOME=str(self.work / "torch_home"),
            NO_COLOR="1",
        )
        self.prepare()
        self.version = self.ask("-c", f"import importlib.metadata as m; print(m.version('{self.name}'))").strip()

    def prepare(self):
        pass

    def popen(self, *words):
        log = open(self.work / f"log_{time.time_ns()}.txt", "w+")  # noqa: SIM115 (closed with the process)
        process = subprocess.Popen(
            [self.python, *map(str, words)],
            env=self.environment,
            cwd=self.work,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.log = log
        return process

    def finish(self, process, limit=300):
        """Wait for a process; one that does not end within `limit` seconds is killed, and its message says so."""
        try:
            process.wait(limit)
            late = ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            late = f"did not end within {limit} s; "
        process.log.seek(0)
        text = process.log.read()
        process.log.close()
        return {
            "exit": process.returncode,
            "message": late + self.message(text) if process.returncode else "",
            "text": text,
        }

    def ask(self, *words):
        return subprocess.run(
            [self.python, *map(str, words)],
            env=self.environment,
            cwd=self.work,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def inner(self, *words):
        return self.ask(Path(__file__).resolve(), "inner", *words)

    def message(self, text):
        """The last line that names an error, with the folders of this run left out."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return self.clean((named or lines or [""])[-1])

    def last(self, found):
        """The last line that a process printed, without colours."""
        lines = [line for line in re.sub(r"\x1b\[[\d;]*m", "", found["text"]).splitlines() if line.strip()]
        return self.clean(lines[-1].strip()) if lines else ""

    def clean(self, text):
        return text.replace(str(self.work), "WORK")[:400]

    def pictures(self, name, count=PICTURES, size=240):
        folder = self.work / name
        if not folder.exists():
            self.inner("draw", folder, count, "first", size)
        return folder

    def weights(self, name, seed):
        path = self.work / name
        self.inner("weights", path, self.name, seed)
        return path

    def extract(self, out, limit=300, **settings):
        started = time.time()
        found = self.finish(self.start(out, **settings), limit)
        found["seconds"] = round(time.time() - started, 1)
        return found

    def read(self, *roots):
        found = [json.loads(line) for line in self.inner(self.reader, *roots).splitlines() if line.startswith("{")]
        for one in found:
            if "error" in one:
                one["error"] = self.clean(one["error"])
        return found

    def files(self, out):
        return sorted(p for p in Path(out).rglob(self.pattern) if p.stat().st_size)

    def bytes_digest(self, out):
        digest = hashlib.sha256()
        for path in sorted(Path(out).rglob(self.pattern)):
            digest.update(str(path.relative_to(out)).encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()


class Thingsvision(Tool):
    name, reader, pattern = "thingsvision", "read_thingsvision", "features_*.npy"

    def prepare(self):
        (self.shim / "tensorflow.py").write_text(TENSORFLOW)

    def start(self, out, pictures, weights, side=SIDE, **_):
        return self.popen(Path(__file__).resolve(), "inner", "thingsvision", pictures, out, weights, side)

    def feature_range(self, path):
        return 128, path.stat().st_size


class Eva(Tool):
    name, reader, pattern = "kaiko-eva", "read_eva", "*.pt"

    def prepare(self):
        (self.shim / "peers_drawn.py").write_text(EVA_DATASET)

    def config(self, out, pictures, weights, side=SIDE, overwrite=False, steps=6):
        path = self.work / f"config_{time.time_ns()}.yaml"
        path.write_text(
            EVA_CONFIG.format(
                out=out,
                pictures=pictures,
                weights=weights,
                side=side,
                batch=BATCH,
                every=10,
                steps=steps,
                logs=self.work / "logs",
                overwrite=str(overwrite).lower(),
            )
        )
        return path

    def start(self, out, **settings):
        return self.popen("-m", "eva", "predict", "--config", self.config(out, **settings))

    def fit(self, out, **settings):
        return self.finish(self.popen("-m", "eva", "fit", "--config", self.config(out, **settings)))

    def feature_range(self, path):
        with zipfile.ZipFile(path) as archive:
            entry = next(e for e in archive.infolist() if e.filename.endswith("data/0"))
        with open(path, "rb") as file:
            file.seek(entry.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        first = entry.header_offset + 30 + name + extra
        return first, first + entry.file_size


# ---- the faults ----------------------------------------------------------------------------------------------------


def tally(things):
    return ", ".join(f"{count} x {thing}" for thing, count in Counter(things).items())


class Trial:
    def __init__(self, tool, json_path):
        self.tool, self.json_path = tool, Path(json_path)
        self.pictures = tool.pictures("pictures")
        self.weights = tool.weights("weights.pt", SEED)
        self.settings = {"pictures": self.pictures, "weights": self.weights}
        self.whole = tool.work / "whole"
        if not self.whole.exists() or not (tool.work / "whole.json").exists():
            shutil.rmtree(self.whole, ignore_errors=True)
            found = tool.extract(self.whole, **self.settings)
            assert found["exit"] == 0, found["text"][-3000:]
            (tool.work / "whole.json").write_text(json.dumps({"seconds": found["seconds"]}))
        self.seconds = json.loads((tool.work / "whole.json").read_text())["seconds"]
        self.reference = tool.read(self.whole)[0]
        self.reference_bytes = tool.bytes_digest(self.whole)
        assert self.reference["rows"] == PICTURES

    def put(self, fault, title, outcome, **observed):
        records = json.loads(self.json_path.read_text()) if self.json_path.exists() else []
        records = [r for r in records if (r["tool"], r["fault"], r["title"]) != (self.tool.name, fault, title)]
        records.append(
            {
                "tool": self.tool.name,
                "version": self.tool.version,
                "fault": fault,
                "title": title,
                "outcome": outcome,
                "observed": observed,
            }
        )
        records.sort(key=lambda r: (r["fault"], r["title"], r["tool"]))
        self.json_path.write_text(json.dumps(records, indent=1) + "\n")
        print(f"[{self.tool.name}] {fault} {title}: {outcome}", flush=True)

    def fresh(self, name, copy=False):
        out = self.tool.work / name
        shutil.rmtree(out, ignore_errors=True)
        if copy:
            shutil.copytree(self.whole, out)
        return out

    def compare(self, found):
        """What a reading of a store means beside the uninterrupted run."""
        if "error" in found:
            return "error"
        if found["rows"] != PICTURES:
            return f"{found['rows']} of {PICTURES} rows, no message"
        return "equal" if found["digest"] == self.reference["digest"] else "other values, no message"

    def kill(self, out, dice, group=True, **settings):
        """SIGKILL when a random number of feature files, not yet all, is written; None if it was missed."""
        tool, settings = self.tool, {**self.settings, **settings}
        every = PICTURES if tool.name == "kaiko-eva" else -(-PICTURES // (2 * BATCH))
        before = {p: p.stat().st_mtime_ns for p in tool.files(out)} if out.exists() else {}

        def written():
            return sum(before.get(p) != p.stat().st_mtime_ns for p in tool.files(out)) if out.exists() else 0

        wanted, delay = dice.randint(1, every - 1), dice.uniform(0, 0.02)
        process = tool.start(out, **settings)
        while process.poll() is None and written() < wanted:
            time.sleep(0.002)
        time.sleep(delay)
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        if group and written() >= every:
            return None
        return process

    # a. ------------------------------------------------------------------------------------------------------------

    def a(self):
        tool, dice, trials, outs = self.tool, random.Random(7), [], []
        while len(trials) < KILLS:
            out = self.fresh(f"kill_{len(trials)}")
            if not self.kill(out, dice):
                continue
            trial = {
                "feature_files": len(tool.files(out)),
                "other_files": {
                    str(p.relative_to(out)): p.stat().st_size
                    for p in sorted(out.rglob("*"))
                    if p.is_file() and not p.match(tool.pattern)
                },
            }
            kept_aside = self.fresh(f"killed_{len(trials)}")
            shutil.copytree(out, kept_aside)
            if tool.name == "kaiko-eva":
                fit = tool.fit(out, **self.settings)
                trial["fit_after_kill"] = {k: fit[k] for k in ("exit", "message")}
            stamps = {p: p.stat().st_mtime_ns for p in tool.files(out)}

            def kept():
                return sum(1 for p, t in stamps.items() if p.exists() and p.stat().st_mtime_ns == t)  # noqa: B023 (called within this turn of the loop)

            again = tool.extract(out, **self.settings)
            trial["same_command_again"] = {
                "exit": again["exit"],
                "message": again["message"].replace(out.name, "OUT"),
                "seconds": again["seconds"],
                "files_kept": kept(),
                "files_before": len(stamps),
            }
            if again["exit"] and tool.name == "kaiko-eva":
                over = tool.extract(out, overwrite=True, **self.settings)
                trial["again_with_overwrite"] = {
                    "exit": over["exit"],
                    "message": over["message"],
                    "seconds": over["seconds"],
                    "files_kept": kept(),
                }
            trial["end_same_file_bytes"] = tool.bytes_digest(out) == self.reference_bytes
            trials.append(trial)
            outs += [kept_aside, out]
        found = tool.read(*outs)
        for number, trial in enumerate(trials):
            trial["read_after_kill"], trial["end"] = found[2 * number], self.compare(found[2 * number + 1])
        if tool.name == "kaiko-eva":
            for trial, line in zip(trials, tool.inner("files_eva", *outs[::2]).splitlines(), strict=False):
                trial["feature_files_loadable"] = json.loads(line)
        self.put(
            "a",
            "SIGKILL of the process group during extraction",
            self.say_killed(trials),
            uninterrupted_seconds=self.seconds,
            trials=trials,
        )
        if tool.name == "kaiko-eva":
            self.kill_main_only(dice)
            self.kill_many()

    @staticmethod
    def say_killed(trials):
        read = [t["read_after_kill"] for t in trials]
        again = [t["same_command_again"] for t in trials]
        says = [
            f"feature files on disk: {', '.join(str(t['feature_files']) for t in trials)}",
            "read after the kill: " + tally(f"{r['rows']} rows" if "rows" in r else r["error"] for r in read),
        ]
        if "fit_after_kill" in trials[0]:
            says.append("fit after the kill: " + tally(f"exit {t['fit_after_kill']['exit']}" for t in trials))
        kept, before = (sum(g[key] for g in again) for key in ("files_kept", "files_before"))
        says.append(
            "same command again: "
            + tally(f"exit {g['exit']} {g['message']}".strip() for g in again)
            + f" (files kept: {kept} of {before})"
        )
        if "again_with_overwrite" in trials[0]:
            over = [t["again_with_overwrite"] for t in trials]
            says.append(
                "again with overwrite: "
                + tally(f"exit {o['exit']}" for o in over)
                + f" (files kept: {sum(o['files_kept'] for o in over)})"
            )
        same = sum(t["end_same_file_bytes"] for t in trials)
        says.append(f"values at the end: {tally(t['end'] for t in trials)}; same file bytes: {same} of {len(trials)}")
        return "; ".join(says)

    def kill_main_only(self, dice):
        """eva writes in a second process: kill the first one alone."""
        tool, trials = self.tool, []
        while len(trials) < 2:
            out = self.fresh(f"kill_main_{len(trials)}")
            process = self.kill(out, dice, group=False)
            if not process:
                continue
            time.sleep(15)
            left = [
                line
                for line in subprocess.run(
                    ["ps", "-o", "pid=,args=", "-s", str(process.pid)], text=True, capture_output=True
                ).stdout.splitlines()
                if line.strip()
            ]
            trial = {
                "processes_left_after_15_s": len(left),
                "manifest_bytes": (out / "manifest.csv").stat().st_size,
                "feature_files": len(tool.files(out)),
            }
            again = tool.extract(out, **self.settings)
            trial["same_command_again"] = {"exit": again["exit"], "message": again["message"]}
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            trials.append(trial)
        self.put(
            "a",
            "SIGKILL of the main process alone",
            "processes still there 15 s later: "
            + tally(t["processes_left_after_15_s"] for t in trials)
            + "; same command again: "
            + tally(f"exit {t['same_command_again']['exit']}" for t in trials),
            trials=trials,
        )

    def kill_many(self):
        """More pictures: the manifest is then partly on disk when the kill comes."""
        tool, many = self.tool, self.tool.pictures("pictures_many", 900, 64)
        settings = dict(self.settings, pictures=many, side=64, steps=80)
        trials = []
        for number, wanted in enumerate((500, 850)):
            out = self.fresh(f"kill_many_{number}")
            process = tool.start(out, **settings)
            while process.poll() is None and not (out.exists() and len(tool.files(out)) >= wanted):
                time.sleep(0.005)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            text = (out / "manifest.csv").read_bytes().decode()
            fit = tool.fit(out, **settings)
            trials.append(
                {
                    "pictures": 900,
                    "feature_files": len(tool.files(out)),
                    "manifest_bytes": len(text),
                    "manifest_last_line": text.splitlines()[-1] if text else "",
                    "read_after_kill": tool.read(out)[0],
                    "fit_exit": fit["exit"],
                    "fit_message": fit["message"],
                }
            )
        self.put(
            "a",
            "SIGKILL with 900 pictures",
            "fit after the kill: "
            + "; ".join(f"{t['read_after_kill'].get('rows')} of 900 rows, exit {t['fit_exit']}" for t in trials),
            trials=trials,
        )

    # b, c. ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def say_fits(trials):
        fits = [t["fit"] for t in trials if "fit" in t]
        return "; fit: " + tally(f"exit {f['exit']} {f['message']}".strip() for f in fits) if fits else ""

    def flipped(self, dice, number, features_only):
        out = self.fresh(f"flip_{'features' if features_only else 'any'}_{number}", copy=True)
        path = dice.choice(self.tool.files(out))
        first, last = self.tool.feature_range(path) if features_only else (0, path.stat().st_size)
        data, at, bit = bytearray(path.read_bytes()), dice.randrange(first, last), dice.randrange(8)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        return out, {"file": str(path.relative_to(out)), "byte": at, "bit": bit}

    def b(self):
        dice = random.Random(11)
        for features_only in (False, True):
            made = [self.flipped(dice, number, features_only) for number in range(FLIPS)]
            trials = []
            for (out, where), found in zip(made, self.tool.read(*[out for out, _ in made]), strict=False):
                trial = {
                    **where,
                    "read": self.compare(found),
                    "error": found.get("error"),
                    "finite": found.get("finite"),
                }
                if self.tool.name == "kaiko-eva" and features_only:
                    fit = self.tool.fit(out, **self.settings)
                    trial["fit"] = {k: fit[k] for k in ("exit", "message")}
                trials.append(trial)
            noticed = sum(t["read"] == "error" for t in trials)
            where = "in the feature bytes" if features_only else "anywhere in a feature file"
            self.put(
                "b",
                f"one bit flipped, {where}",
                f"noticed {noticed} of {FLIPS}; read: {tally(t['read'] for t in trials)}" + self.say_fits(trials),
                trials=trials,
            )

    def c(self):
        tool = self.tool
        for title in (
            "feature file cut to half",
            "feature file deleted",
            "last feature file deleted",
            "manifest cut to half",
            "manifest cut to nine tenths",
        ):
            out = self.fresh("cut", copy=True)
            files = tool.files(out)
            if tool.name == "thingsvision":
                files.sort(key=first_row)
            victim = files[-1] if title.startswith("last") else files[len(files) // 2]
            if title.startswith("manifest"):
                victim = out / "manifest.csv"
                if not victim.exists():
                    continue
            if " cut to " in title:
                os.truncate(victim, int(victim.stat().st_size * (0.5 if title.endswith("half") else 0.9)))
            else:
                victim.unlink()
            found = tool.read(out)[0]
            observed = {"file": str(victim.relative_to(out)), "read": found}
            outcome = f"{self.compare(found)} {found.get('error', '')}".strip()
            if tool.name == "kaiko-eva":
                fit = tool.fit(out, **self.settings)
                observed["fit"] = {k: fit[k] for k in ("exit", "message")}
                outcome += f"; fit exit {fit['exit']} {fit['message']}"
            self.put("c", title, outcome, **observed)

    # d, e, f. ------------------------------------------------------------------------------------------------------

    def again(self, fault, title, settings, partial=True):
        """The whole store is there; something changed; the same command with the same output folder."""
        tool, settings = self.tool, {**self.settings, **settings}
        clean = self.fresh("changed_clean")
        assert tool.extract(clean, **settings)["exit"] == 0
        new = tool.read(clean)[0]["digest"]
        assert new != self.reference["digest"]

        def state(out):
            found = tool.read(out)[0]
            known = {self.reference["digest"]: "all old values", new: "all new values"}
            return found.get("error") or known.get(found["digest"], f"mixed or other values, {found['rows']} rows")

        out = self.fresh("changed", copy=True)
        run = tool.extract(out, **settings)
        says = [line for line in run["text"].splitlines() if re.search("weight|chang|exist|differ|stale", line)]
        observed = {
            "exit": run["exit"],
            "message": run["message"],
            "store": state(out),
            "lines_about_it": [tool.clean(line) for line in says][:5],
        }
        outcome = f"exit {run['exit']} {run['message']}; store: {observed['store']}"
        if tool.name == "kaiko-eva":
            fit = tool.fit(out, **settings)
            observed["fit"] = {k: fit[k] for k in ("exit", "message")}
            over = tool.extract(out, overwrite=True, **settings)
            observed["with_overwrite"] = {"exit": over["exit"], "store": state(out)}
            outcome += f"; fit exit {fit['exit']}; with overwrite: exit {over['exit']}, {state(out)}"
        self.put(fault, title, outcome, **observed)
        if not partial:
            return
        trials, dice = [], random.Random(13)
        while len(trials) < 3:
            out = self.fresh("changed_killed", copy=True)
            extra = {"overwrite": True} if tool.name == "kaiko-eva" else {}
            if not self.kill(out, dice, **settings, **extra):
                continue
            trial = {"store": state(out)}
            if tool.name == "kaiko-eva":
                trial["manifest_bytes"] = (out / "manifest.csv").stat().st_size
                fit = tool.fit(out, **settings)
                trial["fit"] = {k: fit[k] for k in ("exit", "message")}
            trials.append(trial)
        self.put(
            fault,
            title + ", then killed while it runs again",
            tally(t["store"] for t in trials) + self.say_fits(trials),
            trials=trials,
        )

    def d(self):
        original = self.weights.read_bytes()
        self.tool.weights("weights.pt", OTHER_SEED)
        try:
            self.again("d", "weights of another seed under the same path", {})
        finally:
            self.weights.write_bytes(original)

    def e(self):
        victim = self.pictures / "picture_0030.jpg"
        original = victim.read_bytes()
        self.tool.inner("draw", self.tool.work / "one", 1, "second", 240)
        shutil.copyfile(self.tool.work / "one" / "picture_0000.jpg", victim)
        try:
            self.again("e", "one picture's content changed", {}, partial=False)
        finally:
            victim.write_bytes(original)
        fewer = self.tool.work / "pictures_fewer"
        shutil.rmtree(fewer, ignore_errors=True)
        shutil.copytree(self.pictures, fewer)
        for number in range(PICTURES - 6, PICTURES):
            (fewer / f"picture_{number:04d}.jpg").unlink()
        out = self.fresh("fewer", copy=True)
        run = self.tool.extract(out, pictures=fewer, weights=self.weights)
        found, files = self.tool.read(out)[0], len(self.tool.files(out))
        self.put(
            "e",
            "six pictures fewer",
            f"exit {run['exit']} {run['message']}; read: "
            f"{found.get('rows', found.get('error'))} rows for {PICTURES - 6} pictures",
            files=files,
            read=found,
            names=[str(p.relative_to(out)) for p in self.tool.files(out)],
        )

    def f(self):
        self.again("f", f"side {SIDE} -> {OTHER_SIDE}", {"side": OTHER_SIDE}, partial=False)

    # g, h, i. ------------------------------------------------------------------------------------------------------

    def g(self):
        tool = self.tool
        for title, keep in (("JPEG cut to half", 0.5), ("JPEG of zero bytes", 0.0)):
            folder = tool.work / "pictures_bad"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.pictures, folder)
            victim = folder / "picture_0030.jpg"
            os.truncate(victim, int(victim.stat().st_size * keep))
            out = self.fresh("bad")
            run = tool.extract(out, limit=120, pictures=folder, weights=self.weights)
            found = tool.read(out)[0]
            lines = [
                tool.clean(line) for line in run["text"].splitlines() if re.search(r"(?i)jpe?g|truncat|corrupt", line)
            ]
            self.put(
                "g",
                title,
                f"exit {run['exit']} {run['message']}; file named: {victim.name in run['text']}; read "
                f"afterwards: {self.compare(found)} {found.get('error', '')}".strip(),
                exit=run["exit"],
                message=run["message"],
                names_file=victim.name in run["text"],
                read=found,
                lines=lines[-4:],
                feature_files=len(tool.files(out)),
            )

    def h(self):
        tool, other = self.tool, self.tool.weights("weights_other.pt", OTHER_SEED)
        for title, weights, delays in (
            ("the same command twice at once", self.weights, (0, 0)),
            ("two at once with different weights", other, (0, 0.5)),
        ):
            trials = []
            for delay in delays:
                out = self.fresh("both")
                first = tool.start(out, **self.settings)
                time.sleep(delay)
                second = tool.start(out, **dict(self.settings, weights=weights))
                one, two = tool.finish(first), tool.finish(second)
                found = tool.read(out)[0]
                trial = {
                    "delay": delay,
                    "exits": [one["exit"], two["exit"]],
                    "messages": [one["message"], two["message"]],
                    "last_lines": [tool.last(one), tool.last(two)],
                    "read": found,
                    "store": self.compare(found),
                }
                if weights != self.weights and "digest" in found:
                    if not hasattr(self, "other_digest"):
                        clean = self.fresh("other_clean")
                        tool.extract(clean, **dict(self.settings, weights=weights))
                        self.other_digest = tool.read(clean)[0]["digest"]
                    known = {self.reference["digest"]: "all of the first", self.other_digest: "all of the second"}
                    trial["store"] = known.get(found["digest"], f"mixed, {found['rows']} rows")
                if tool.name == "kaiko-eva":
                    fit = tool.fit(out, **self.settings)
                    trial["fit"] = {k: fit[k] for k in ("exit", "message")}
                    trial["manifest_lines"] = len((out / "manifest.csv").read_text(errors="replace").splitlines())
                trials.append(trial)
            self.put("h", title, self.say_both(trials), trials=trials)

    @staticmethod
    def say_both(trials):
        ends = [["did not end within 300 s" if exit < 0 else f"exit {exit}" for exit in t["exits"]] for t in trials]
        return "; ".join(f"{one} and {two}, {t['store']}" for (one, two), t in zip(ends, trials, strict=False))

    def i(self):
        tool = self.tool
        if tool.name == "kaiko-eva":
            text = tool.finish(tool.popen("-m", "eva", "--help"))["text"]
        else:
            text = tool.finish(tool.popen("-m", "thingsvision.thingsvision", "--help"))["text"]
            merge = tool.finish(tool.popen(Path(__file__).resolve(), "inner", "merge_thingsvision", self.whole))
            self.put("i", "the tool's merge_features on an intact store", f"exit {merge['exit']} {merge['message']}")
        commands = re.findall(r"\{([\w,-]+)\}", text)
        self.put("i", "commands that --help lists", ", ".join(dict.fromkeys(commands)) or text[-400:])


def table(json_path):
    records = json.loads(Path(json_path).read_text())
    tools = sorted({(r["tool"], r["version"]) for r in records})
    print("| fault | " + " | ".join(" ".join(tool) for tool in tools) + " |\n| --- |" + " --- |" * len(tools))
    for key in dict.fromkeys((r["fault"], r["title"]) for r in records):
        said = {r["tool"]: r["outcome"] for r in records if (r["fault"], r["title"]) == key}
        cells = [said.get(tool, "not applicable") for tool, _ in tools]
        print(f"| {key[0]}. {key[1]} | " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")


def main():
    if sys.argv[1:2] == ["inner"]:
        return INNER[sys.argv[2]](*sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["thingsvision", "kaiko-eva", "table"])
    parser.add_argument("--work", help="an empty or new folder for pictures, stores and logs")
    parser.add_argument("--python", help="interpreter of the environment that the tool is installed in")
    parser.add_argument("--json", default="peers_faults.json")
    parser.add_argument("--only", default="a,b,c,d,e,f,g,h,i")
    asked = parser.parse_args()
    if asked.command == "table":
        return table(asked.json)
    if not asked.work or not asked.python:
        parser.error("--work and --python are needed")
    tool = {"thingsvision": Thingsvision, "kaiko-eva": Eva}[asked.command](asked.work, asked.python)
    trial = Trial(tool, asked.json)
    for fault in asked.only.split(","):
        getattr(trial, fault)()


if __name__ == "__main__":
    main()
