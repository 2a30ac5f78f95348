"""Pre-training on the source task: class folders in, a frozen trunk and its card out.

Source: Oquab et al. (2014) section 3.1 pre-train C1-FC8 with a softmax over the source classes and
keep C1-FC7. Here batch normalisation speeds this up, and is folded into plain weights afterwards.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pipeline.dataset.picture import FORMATS
from pipeline.errors import DatasetError, PipelineError, enumerate_problems
from pipeline.files import write_whole
from pipeline.progress import Progress, track
from pipeline.settings import PretrainSettings
from pipeline.trunk.architectures import FORMS, AlexNet, fold_batch_norm
from pipeline.trunk.card import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, TrunkCard, save_trunk

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
EVALUATION_BATCH = 500
ZOOM_GROUPS = 8


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of class folders, decoded.

    Attributes
    ----------
    pixels : uint8 Tensor of shape (n, px, px, 3), RGB
    labels : int64 Tensor of shape (n,), index into `classes`
    classes : names of the class folders, sorted
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def decode_class_folders(folder: Path, px: int) -> LabelledPictures:
    """Decode ``folder/<class>/*`` (torchvision's ImageFolder layout) once, into memory.

    Each picture is scaled so that its short side is `px` and cut to the central square.

    Raises
    ------
    DatasetError
        No class folder, an empty class, or pictures that cannot be decoded: all of them are named.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; expected class folders <class>/*.jpg below it")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    paths, labels = [], []
    empty = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not found:
            empty.append(f"{folder / name}: no picture")
        paths += found
        labels += [label] * len(found)
    if empty or len(classes) < 2:
        problems = empty or [f"{len(classes)} class folders, expected at least 2"]
        raise DatasetError(f"{folder}: not a folder of class folders\n{enumerate_problems(problems)}")

    pixels = np.empty((len(paths), px, px, 3), dtype=np.uint8)
    problems = []

    def decode(index: int) -> None:
        try:
            with Image.open(paths[index], formats=(*FORMATS, "PPM")) as opened:
                image = opened.convert("RGB")
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on hostile bytes
            problems.append(f"{paths[index]}: {error}")
            return
        scale = px / min(image.size)
        if scale != 1:
            size = (max(px, round(image.width * scale)), max(px, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.width - px) // 2, (image.height - px) // 2
        pixels[index] = np.asarray(image)[top : top + px, left : left + px]

    with ThreadPoolExecutor() as pool:
        for _ in track(pool.map(decode, range(len(paths))), "decode", len(paths), "pictures"):
            pass
    if problems:
        raise DatasetError(
            f"{folder}: {len(problems)} of {len(paths)} pictures cannot be decoded\n"
            f"{enumerate_problems(sorted(problems))}\nmend or remove them and start again"
        )
    return LabelledPictures(torch.from_numpy(pixels), torch.tensor(labels), classes)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 or float (n, h, w, 3) in 0..255 -> normalised float (n, 3, h, w), channels last in memory."""
    mean = torch.tensor(IMAGENET_MEAN) * 255
    std = torch.tensor(IMAGENET_STD) * 255
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2)


def augment(batch: Tensor, settings: PretrainSettings, random: torch.Generator) -> Tensor:
    """Zoom (one factor for each eighth of the batch), then shift and flip each picture.

    Parameters
    ----------
    batch : float Tensor of shape (n, 3, px, px)

    Returns
    -------
    Tensor of the same shape, channels last in memory
    """
    px = batch.shape[-1]
    low, high = math.log(settings.zoom[0]), math.log(settings.zoom[1])
    groups = []
    for group in batch.chunk(ZOOM_GROUPS):
        zoom = math.exp(low + (high - low) * torch.rand(1, generator=random).item())
        # Every second group keeps its sharpness: a frozen trunk meets pictures that were not zoomed.
        size = round(px * zoom) if torch.rand(1, generator=random).item() < 0.5 else px
        if size != px:
            group = functional.interpolate(group, size=size, mode="bilinear", align_corners=False)
        # Enough mirrored margin that every shift stays inside.
        margin = settings.shift_px + max(0, (px - size + 1) // 2)
        group = functional.pad(group, (margin,) * 4, mode="reflect")
        slack = group.shape[-1] - px
        centre = slack // 2
        reach = min(centre, max(settings.shift_px, abs(size - px) // 2))
        shifts = centre + torch.randint(-reach, reach + 1, (2, len(group), 1), generator=random)
        top, left = shifts.clamp_(0, slack)
        steps = torch.arange(px)
        flip = torch.rand(len(group), 1, generator=random) < 0.5
        columns = torch.where(flip, steps.flip(0), steps) + left
        rows = steps + top
        index = torch.arange(len(group))[:, None, None]
        cut = group.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
        groups.append(cut.permute(0, 3, 1, 2))
    return torch.cat(groups).contiguous(memory_format=torch.channels_last)


class Classifier(nn.Module):
    """A trunk with FC8: one output a source class."""

    def __init__(self, trunk: AlexNet, n_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.fc8 = nn.Linear(trunk.form.fc_widths[1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc8(self.trunk(x)["fc7"])


@torch.inference_mode()
def top1(model: nn.Module, pictures: LabelledPictures) -> float:
    """Share of pictures whose highest output is their class."""
    model.eval()
    device = next(model.parameters()).device
    right = 0
    for start in range(0, len(pictures.labels), EVALUATION_BATCH):
        pixels = pictures.pixels[start : start + EVALUATION_BATCH]
        outputs = model(normalise(pixels).contiguous(memory_format=torch.channels_last).to(device))
        right += int((outputs.argmax(1).cpu() == pictures.labels[start : start + len(pixels)]).sum())
    return right / len(pictures.labels)


def one_cycle(step: int, n_steps: int, peak: float) -> float:
    """Learning rate at `step`: up to `peak` over the first fifth, down to zero along a cosine.

    >>> [round(one_cycle(s, 100, 0.1), 3) for s in (0, 20, 60, 100)]
    [0.004, 0.1, 0.05, 0.0]
    """
    rise = 0.2 * n_steps
    if step < rise:
        return peak * (0.04 + 0.96 * step / rise)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / (n_steps - rise)))


def pretrain(
    train_dir: Path,
    val_dir: Path,
    out_dir: Path,
    name: str,
    settings: PretrainSettings,
    command: str,
    device: torch.device,
    say: Callable[[str], None],
) -> TrunkCard:
    """Pre-train a trunk, or go on from the last whole epoch in `out_dir`, and save it with its card.

    The order of pictures and their changes depend on the seed and the epoch alone, so a run that was
    interrupted sees what an uninterrupted one would have seen.

    Returns
    -------
    TrunkCard
        Also written as ``out_dir/<name>.yaml`` beside ``<name>.safetensors`` (half precision).
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    form = FORMS[settings.architecture]
    train = decode_class_folders(train_dir, form.input_px)
    val = decode_class_folders(val_dir, form.input_px)
    if val.classes != train.classes:
        differing = sorted(set(val.classes) ^ set(train.classes))
        raise DatasetError(
            f"{val_dir}: classes differ from {train_dir}\n"
            f"{enumerate_problems([f'{c}: only in one of them' for c in differing])}"
        )
    if len(train.labels) < settings.batch:
        raise DatasetError(f"{train_dir}: {len(train.labels)} pictures, fewer than one batch of {settings.batch}")

    torch.manual_seed(settings.seed)
    model = Classifier(AlexNet(form, batch_norm=True, dropout=settings.dropout), len(train.classes))
    model = model.to(device=device, memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.peak_rate,
        momentum=settings.momentum,
        nesterov=True,
    )
    checkpoint = out_dir / f"{name}.checkpoint.pt"
    history: list[dict[str, float]] = []
    recipe = {**settings.model_dump(mode="json"), "classes": len(train.classes), "pictures": len(train.labels)}
    if checkpoint.exists():
        try:
            saved = torch.load(checkpoint, map_location=device, weights_only=True)
        except Exception as error:  # torch raises nearly anything on damaged bytes
            # Its text says how to load the file unsafely, so it is not passed on.
            raise PipelineError(
                f"{checkpoint}: damaged, or a pickle of other objects, which is never loaded; remove it to start anew"
            ) from error
        if not isinstance(saved, dict) or not {"model", "optimizer", "history", "recipe"} <= saved.keys():
            raise PipelineError(f"{checkpoint}: not a checkpoint of this command; remove it to start anew")
        changed = [k for k in recipe if saved["recipe"].get(k) != recipe[k]]
        if changed:
            raise PipelineError(
                f"{checkpoint} belongs to other settings ({', '.join(changed)} differ); "
                "choose another --out, or remove it to start anew"
            )
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        history = saved["history"]
        say(f"going on after epoch {len(history)} of {settings.epochs}")

    steps_per_epoch = len(train.labels) // settings.batch
    n_steps = settings.epochs * steps_per_epoch
    total = settings.epochs * steps_per_epoch * settings.batch
    done = len(history) * steps_per_epoch * settings.batch
    with Progress("pretrain", total, "pictures", done=done) as progress:
        for epoch in range(len(history), settings.epochs):
            started = time.monotonic()
            random = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
            torch.manual_seed(settings.seed * 1_000_003 + epoch)  # dropout
            order = torch.randperm(len(train.labels), generator=random)
            model.train()
            losses = torch.zeros(steps_per_epoch)
            for step in range(steps_per_epoch):
                for group in optimizer.param_groups:
                    group["lr"] = one_cycle(epoch * steps_per_epoch + step, n_steps, settings.peak_rate)
                chosen = order[step * settings.batch : (step + 1) * settings.batch]
                inputs = augment(normalise(train.pixels[chosen]), settings, random).to(device)
                labels = train.labels[chosen].to(device)
                with torch.autocast(device.type, torch.bfloat16):
                    outputs = model(inputs)
                loss = functional.cross_entropy(outputs.float(), labels, label_smoothing=settings.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses[step] = loss.detach()
                progress.advance(len(chosen))
            if not torch.isfinite(losses).all():
                raise PipelineError(f"epoch {epoch + 1}: the loss is not finite; lower --peak-rate")
            accuracy = top1(model, val)
            history.append(
                {
                    "epoch": epoch + 1,
                    "loss": round(float(losses.mean()), 4),
                    "top1": round(accuracy, 4),
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
            say(f"epoch {epoch + 1}: loss {losses.mean():.3f}, val top-1 {100 * accuracy:.2f} %")
            buffer = io.BytesIO()
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "history": history,
                    "recipe": recipe,
                },
                buffer,
            )
            write_whole(checkpoint, buffer.getvalue())

    frozen = Classifier(AlexNet(form), len(train.classes))
    weights = {f"trunk.{k}": v for k, v in fold_batch_norm(model.trunk).items()}
    weights |= {"fc8.weight": model.fc8.weight.detach(), "fc8.bias": model.fc8.bias.detach()}
    weights = {k: v.cpu().half().contiguous() for k, v in weights.items()}
    frozen.load_state_dict({k: v.float() for k, v in weights.items()})
    accuracy = top1(frozen, val)
    say(f"frozen trunk (batch norm folded, half precision): val top-1 {100 * accuracy:.2f} %")
    return save_trunk(
        out_dir / name,
        {k.removeprefix("trunk."): v for k, v in weights.items()},
        TrunkCard(
            name=name,
            architecture=settings.architecture,
            input_px=form.input_px,
            layers=form.widths,
            preprocessing=Preprocessing(),
            trained={
                "source": f"{len(train.labels):,} pictures of {len(train.classes)} classes",
                "evaluated_on": f"{len(val.labels):,} pictures of the same classes",
                "top1": round(accuracy, 4),
                "command": command,
                "settings": settings.model_dump(mode="json"),
                "seconds": round(sum(h["seconds"] for h in history)),
                "history": history,
                "torch": torch.__version__,
            },
        ),
    )
