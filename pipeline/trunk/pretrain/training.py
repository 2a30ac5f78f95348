"""Training a whole network on labelled pictures: a frozen trunk, its FC8 and its card out.

Source: Oquab et al. (2014) section 3.1 pre-train C1-FC8 with a softmax over the source classes and
keep C1-FC7. Here batch normalisation speeds this up, and is folded into plain weights afterwards.
The same training on the target's own patches is their NO PRETRAIN (section 5).
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.io.atomic import read_json, write_atomic, write_json
from pipeline.io.errors import DatasetError, PipelineError
from pipeline.io.progress import Progress, Say
from pipeline.trunk.alexnet import AlexNet, AlexNetConfig, fold_batch_norm, make_config
from pipeline.trunk.card import Preprocessing, TrunkCard, save_trunk
from pipeline.trunk.pretrain.augmentation import augment, normalise
from pipeline.trunk.pretrain.images import LabelledPictures
from pipeline.trunk.settings import PretrainSettings

EVALUATION_BATCH = 500


class DivergedError(PipelineError):
    """The loss of a training is not finite."""


class Classifier(nn.Module):
    """A trunk with FC8: one output a source class."""

    def __init__(self, trunk: AlexNet, n_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.fc8 = nn.Linear(trunk.config.fc_widths[1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc8(self.trunk(x)["fc7"])


@torch.inference_mode()
def assess(model: nn.Module, pictures: LabelledPictures) -> tuple[float, float]:
    """Share of pictures whose highest output is their class, and the mean cross-entropy."""
    model.eval()
    device = next(model.parameters()).device
    right, loss = 0, 0.0
    for start in range(0, len(pictures.labels), EVALUATION_BATCH):
        pixels = pictures.pixels[start : start + EVALUATION_BATCH]
        labels = pictures.labels[start : start + EVALUATION_BATCH]
        outputs = model(normalise(pixels).contiguous(memory_format=torch.channels_last).to(device)).cpu()
        right += int((outputs.argmax(1) == labels).sum())
        loss += float(functional.cross_entropy(outputs, labels, reduction="sum"))
    return right / len(pictures.labels), loss / len(pictures.labels)


def one_cycle(step: int, n_steps: int, peak: float) -> float:
    """Learning rate at `step`: up to `peak` over the first fifth, down to zero along a cosine.

    >>> [round(one_cycle(s, 100, 0.1), 3) for s in (0, 20, 60, 100)]
    [0.004, 0.1, 0.05, 0.0]
    """
    rise = 0.2 * n_steps
    if step < rise:
        return peak * (0.04 + 0.96 * step / rise)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / (n_steps - rise)))


@dataclass
class Training:
    """One training of a classifier, which resumes after the last whole epoch that its checkpoint holds.

    The order of pictures and their changes depend on the seed and the epoch alone, so a run that was
    interrupted sees what an uninterrupted one would have seen.

    Parameters
    ----------
    train : what is trained on
    held_out : what is measured on after each epoch, or None
    config : the architecture
    settings : `peak_rate` is the one that is used; `peak_rates` is ignored
    checkpoint : file of weights, optimiser and history, written after each epoch
    """

    train: LabelledPictures
    held_out: LabelledPictures | None
    config: AlexNetConfig
    settings: PretrainSettings
    checkpoint: Path
    device: torch.device
    say: Say

    def __post_init__(self) -> None:
        s = self.settings
        torch.manual_seed(s.seed)
        model = Classifier(AlexNet(self.config, batch_norm=True, dropout=s.dropout), len(self.train.classes))
        # torch's types of `to` leave its memory_format out.
        self.model: Classifier = model.to(  # type: ignore[call-overload]
            device=self.device, memory_format=torch.channels_last
        )
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": s.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=s.peak_rate,
            momentum=s.momentum,
            nesterov=True,
        )
        self.history: list[dict[str, float]] = []
        self.steps_per_epoch = len(self.train.labels) // s.batch
        self.n_steps = s.updates or s.epochs * self.steps_per_epoch
        self.n_epochs = math.ceil(self.n_steps / self.steps_per_epoch)
        self.recipe = recipe_of(s, self.train, self.held_out)

    def run(self) -> Classifier:
        """Train to the end; the classifier, batch normalisation and all.

        Raises
        ------
        DivergedError
            The loss of an epoch is not finite.
        PipelineError
            The checkpoint is damaged or belongs to another training.
        """
        if self.checkpoint.exists():
            self._load()
            self.say(f"going on after epoch {len(self.history)} of {self.n_epochs}")
        batch = self.settings.batch
        done = min(len(self.history) * self.steps_per_epoch, self.n_steps)
        with Progress("pretrain", self.n_steps * batch, "pictures", done=done * batch) as progress:
            for epoch in range(len(self.history), self.n_epochs):
                started = time.monotonic()
                loss = self._train_epoch(epoch, progress)
                if not math.isfinite(loss):
                    raise DivergedError(f"epoch {epoch + 1}: the loss is not finite; lower --peak-rate")
                entry = {"epoch": epoch + 1, "loss": round(loss, 4)}
                text = f"epoch {epoch + 1}: loss {loss:.3f}"
                if self.held_out is not None:
                    top1, held_out_loss = assess(self.model, self.held_out)
                    entry |= {"top1": round(top1, 4), "held_out_loss": round(held_out_loss, 4)}
                    text += f", val top-1 {100 * top1:.2f} %"
                self.history.append({**entry, "seconds": round(time.monotonic() - started, 1)})
                self.say(text)
                self._save()
        return self.model

    def _train_epoch(self, epoch: int, progress: Progress) -> float:
        """One pass, or what the number of updates leaves of it; the mean loss."""
        s = self.settings
        random = torch.Generator().manual_seed(s.seed * 1_000_003 + epoch)
        torch.manual_seed(s.seed * 1_000_003 + epoch)  # dropout
        order = torch.randperm(len(self.train.labels), generator=random)
        self.model.train()
        first = epoch * self.steps_per_epoch
        losses = torch.zeros(min(self.steps_per_epoch, self.n_steps - first))
        for step in range(len(losses)):
            for group in self.optimizer.param_groups:
                group["lr"] = one_cycle(first + step, self.n_steps, s.peak_rate)
            chosen = order[step * s.batch : (step + 1) * s.batch]
            inputs = augment(normalise(self.train.pixels[chosen]), s, random).to(self.device)
            labels = self.train.labels[chosen].to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16):
                outputs = self.model(inputs)
            loss = functional.cross_entropy(outputs.float(), labels, label_smoothing=s.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            losses[step] = loss.detach()
            progress.advance(len(chosen))
        return float(losses.mean())

    def _load(self) -> None:
        try:
            saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises nearly anything on damaged bytes
            # Its text says how to load the file unsafely, so it is not passed on.
            raise PipelineError(
                f"{self.checkpoint}: damaged, or a pickle of other objects, which is never loaded; "
                "remove it to start anew"
            ) from error
        if not isinstance(saved, dict) or not {"model", "optimizer", "history", "recipe"} <= saved.keys():
            raise PipelineError(f"{self.checkpoint}: not a checkpoint of this command; remove it to start anew")
        refuse_another_recipe(self.checkpoint, saved["recipe"], self.recipe)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.history = saved["history"]

    def _save(self) -> None:
        buffer = io.BytesIO()
        saved = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "recipe": self.recipe,
        }
        torch.save(saved, buffer)
        write_atomic(self.checkpoint, buffer.getvalue())


class OtherTrainingError(PipelineError):
    """A saved file, at `path`, is of another training than the requested one."""

    def __init__(self, path: Path, changed: Sequence[str]) -> None:
        super().__init__(
            f"{path} belongs to other settings ({', '.join(changed)} differ); "
            "choose another --out, or remove it to start anew"
        )
        self.path = path


def recipe_of(settings: PretrainSettings, train: LabelledPictures, held_out: LabelledPictures | None) -> dict[str, Any]:
    """All that a training depends on, flat: what a checkpoint is compared by."""
    return {
        **settings.model_dump(mode="json"),
        "classes": len(train.classes),
        "pictures": len(train.labels),
        "content": train.digest(),
        "held_out_content": held_out.digest() if held_out is not None else None,
    }


def refuse_another_recipe(path: Path, saved: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Stop if a saved file is of another training than the requested one."""
    changed = [key for key in {**recipe, **saved} if saved.get(key) != recipe.get(key)]
    if changed:
        raise OtherTrainingError(path, changed)


def choose_rate(
    train: LabelledPictures,
    held_out: LabelledPictures,
    config: AlexNetConfig,
    settings: PretrainSettings,
    stem: Path,
    device: torch.device,
    say: Say,
) -> tuple[float, list[dict[str, Any]]]:
    """The peak rate of `settings.peak_rates` whose short run has the lowest held-out loss.

    Each is tried in a whole cycle of `settings.trial_updates` steps. What was tried is saved in
    ``<stem>.rates.json``, so that an interrupted choice resumes.

    Returns
    -------
    rate : float
    tried : dicts of ``peak_rate, updates, loss, top1``; the last two None where it diverged

    Raises
    ------
    PipelineError
        All diverged, or the saved trials belong to other settings.
    """
    path = stem.with_name(stem.name + ".rates.json")
    recipe = recipe_of(settings.model_copy(update={"updates": settings.trial_updates}), train, held_out)
    tried: list[dict[str, Any]] = []
    if path.exists():
        try:
            saved = read_json(path)
            tried, kept_recipe = list(saved["tried"]), dict(saved["recipe"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(f"{path}: not the trials of this command; remove it to start anew") from error
        refuse_another_recipe(path, kept_recipe, recipe)
    for rate in settings.peak_rates[len(tried) :]:
        say(f"trying a peak rate of {rate:g} for {settings.trial_updates} updates")
        trial = settings.model_copy(update={"updates": settings.trial_updates, "peak_rate": rate})
        checkpoint = stem.with_name(f"{stem.name}.rate-{rate:g}.checkpoint.pt")
        found: dict[str, Any] = {"peak_rate": rate, "updates": settings.trial_updates, "loss": None, "top1": None}
        training = Training(train, held_out, config, trial, checkpoint, device, say)
        try:
            top1, loss = assess(training.run(), held_out)
            if math.isfinite(loss):
                found |= {"loss": round(loss, 4), "top1": round(top1, 4)}
        except DivergedError as error:
            say(f"peak rate {rate:g}: {error}")
        tried.append(found)
        write_json(path, {"recipe": recipe, "tried": tried})
        checkpoint.unlink(missing_ok=True)
    finite = [trial for trial in tried if trial["loss"] is not None]
    if not finite:
        rates = ", ".join(f"{rate:g}" for rate in settings.peak_rates)
        raise PipelineError(f"the loss is not finite with any peak rate of {rates}; give lower --peak-rates")
    best = min(finite, key=lambda trial: trial["loss"])["peak_rate"]
    say(f"peak rate {best:g} has the lowest held-out loss of {', '.join(f'{r:g}' for r in settings.peak_rates)}")
    if len(settings.peak_rates) > 1 and best in (min(settings.peak_rates), max(settings.peak_rates)):
        say("it is at the edge of what was tried: a further rate on that side may be better")
    return best, tried


def pretrain(
    train: LabelledPictures,
    held_out: LabelledPictures | None,
    out_dir: Path,
    name: str,
    settings: PretrainSettings,
    about: dict[str, Any],
    device: torch.device,
    say: Say,
) -> TrunkCard:
    """Train a trunk, or go on from the last whole epoch in `out_dir`, and save it with its card.

    Parameters
    ----------
    held_out : pictures of the same classes, measured on only; None if there are none
    about : what the card says besides: ``source``, ``evaluated_on``, ``command`` and the like

    Returns
    -------
    TrunkCard
        Also written as ``out_dir/<name>.yaml`` beside ``<name>.safetensors`` (half precision, FC8
        included). Its `trained` holds, beside `about`: ``classes`` in the order of FC8's outputs,
        ``top1`` (held out; absent without), ``fit_accuracy`` (on `train`), ``updates``, ``rates_tried``.

    Raises
    ------
    PipelineError
        As `Training.run` and `choose_rate`; there are fewer pictures than a batch.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    config = make_config(settings.architecture, settings.fc_width)
    if len(train.labels) < settings.batch:
        raise DatasetError(f"{len(train.labels)} pictures, fewer than one batch of {settings.batch}")

    tried: list[dict[str, Any]] = []
    if settings.peak_rates:
        if held_out is None:
            raise PipelineError("peak rates are compared on held-out pictures, and there are none; give one rate")
        rate, tried = choose_rate(train, held_out, config, settings, out_dir / name, device, say)
        settings = settings.model_copy(update={"peak_rate": rate})
    training = Training(train, held_out, config, settings, out_dir / f"{name}.checkpoint.pt", device, say)
    model = training.run()

    frozen = Classifier(AlexNet(config), len(train.classes))
    weights = {f"trunk.{k}": v for k, v in fold_batch_norm(model.trunk).items()}
    weights |= {"fc8.weight": model.fc8.weight.detach(), "fc8.bias": model.fc8.bias.detach()}
    weights = {k: v.cpu().half().contiguous() for k, v in weights.items()}
    frozen.load_state_dict({k: v.float() for k, v in weights.items()})
    frozen.to(device)
    measured = {"fit_accuracy": round(assess(frozen, train)[0], 4)}
    text = f"frozen trunk (batch norm folded, half precision): fit accuracy {100 * measured['fit_accuracy']:.2f} %"
    if held_out is not None:
        measured["top1"] = round(assess(frozen, held_out)[0], 4)
        text += f", val top-1 {100 * measured['top1']:.2f} %"
    say(text)
    return save_trunk(
        out_dir / name,
        {k.removeprefix("trunk."): v for k, v in weights.items()},
        TrunkCard(
            name=name,
            architecture=settings.architecture,
            input_px=config.input_px,
            layers=config.widths,
            preprocessing=Preprocessing(),
            trained={
                **about,
                **measured,
                "largest_class": round(train.largest_share(), 4),
                "updates": training.n_steps,
                "rates_tried": tried,
                "settings": settings.model_dump(mode="json"),
                "seconds": round(sum(h["seconds"] for h in training.history)),
                "history": training.history,
                "classes": list(train.classes),
                "torch": torch.__version__,
            },
        ),
    )
