"""Weights of timm's models: from a file, from the cache of the hub, or from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.trunk.hubs import cached_by_torch, require_hub
from pipeline.trunk.state import assign_state, fit_state, strip_prefix


class TimmModel(nn.Module):
    """Members of timm's models that are used here; the models have no common class."""

    pretrained_cfg: dict[str, Any]

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        raise NotImplementedError


@contextmanager
def hub_offline() -> Iterator[None]:
    """Let the hub's library use its cache alone, without a request."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def fetch_model(name: str, timm: ModuleType, model_name: str, *, download: bool) -> TimmModel:
    """Make the model with timm's own weights: from the cache, else from the hub, which is asked only if it answers.

    Raises
    ------
    MissingDataError
    """
    from huggingface_hub import constants

    config = timm.get_pretrained_cfg(model_name)
    of_hub = getattr(config, "hf_hub_id", None)
    url = constants.ENDPOINT if of_hub else getattr(config, "url", None)
    file = f"model.safetensors of {constants.ENDPOINT}/{of_hub}" if of_hub else f"{url}"
    ways = (
        f"you can: connect once (the hub caches them); or download {file} elsewhere, then --weights FILE.safetensors; "
        "or use the embedded trunk alexnet64"
    )
    create = partial(timm.create_model, model_name, pretrained=True)
    try:
        if of_hub:
            try:
                with hub_offline():
                    return create().eval()
            except (OSError, RuntimeError, KeyError, ValueError):
                require_hub(name, "timm", constants.ENDPOINT, ways, download=download and not constants.HF_HUB_OFFLINE)
        elif url and not cached_by_torch(url):
            require_hub(name, "timm", url, ways, download=download)
        return create().eval()
    except MissingDataError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise MissingDataError(
            f"trunk {name!r}: timm's weights are not on this machine and could not be downloaded: {first}\n{ways}"
        ) from error


def model_of_file(name: str, timm: ModuleType, model_name: str, state: dict[str, Tensor], where: Path) -> TimmModel:
    """Make the model with a file's tensors, renamed by timm where they have older names.

    Raises
    ------
    TrunkError
    """
    overlay = {"state_dict": state, "custom_load": False}
    try:
        return timm.create_model(model_name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    except (OSError, RuntimeError, KeyError) as error:
        raise TrunkError(f"{name} from {where}: weights do not fit\n{error}") from error


def has_fixed_size(model: TimmModel) -> bool:
    """Whether a model is made for one input size, so that another one needs tensors that are resampled."""
    return bool(model.pretrained_cfg.get("fixed_input_size"))


def resize_model(name: str, timm: ModuleType, model_name: str, model: TimmModel, px: int) -> TimmModel:
    """Make the model for another input size, with weights that timm resamples, such as position embeddings.

    Parameters
    ----------
    model : with weights, at its own size
    px : side of the input in pixels

    Raises
    ------
    TrunkError
        timm does not resample the tensors of this model.
    """
    overlay = {"state_dict": model.state_dict(), "custom_load": False}
    try:
        return timm.create_model(model_name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=px).eval()
    except (OSError, RuntimeError, KeyError, ValueError, AssertionError) as error:
        lines = "\n".join(str(error).strip().splitlines()[:5])
        raise TrunkError(
            f"trunk {name!r}: got trunk_px {px}: timm does not resample this network's weights; leave it out\n{lines}"
        ) from error


def load_file_weights(
    name: str,
    timm: ModuleType,
    model_name: str,
    bare: TimmModel,
    used: frozenset[str],
    state: dict[str, Tensor],
    weights: Path,
) -> tuple[TimmModel, dict[str, Tensor], tuple[str, ...]]:
    """Make the model with the weights of a file.

    Parameters
    ----------
    bare : the model without weights
    used : names of the tensors that the layer needs
    state : the file's tensors
    weights : the file, for messages

    Returns
    -------
    the model, the tensors that name the trunk, and notes

    Raises
    ------
    TrunkError
    """
    own = bare.state_dict()
    needed = frozenset(key for key in used if not key.endswith("num_batches_tracked"))
    prefix, stripped = strip_prefix(state, needed, f"{name} from {weights}")
    modules = {known for known, _ in bare.named_modules() if known}
    whole = all(key in stripped and stripped[key].shape == own[key].shape for key in own if "num_batches" not in key)
    if not whole or prefix or len(stripped) < len(state):
        try:
            fitted = fit_state(state, own, modules, used, f"{name} from {weights}")
        except TrunkError:
            # Older names, which timm knows; where it does not either, the tensors that miss are named.
            if sum(key in stripped for key in needed) > len(needed) / 2:
                raise
            try:
                model = model_of_file(name, timm, model_name, stripped, weights)
            except TrunkError:
                fit_state(state, own, modules, used, f"{name} from {weights}")
                raise
            return model, model.state_dict(), ()
        model = timm.create_model(model_name, pretrained=False).eval()
        assign_state(model, fitted.tensors if fitted.complete else fitted.used)
        tensors = model.state_dict()
        identity = tensors if fitted.complete else {key: tensors[key] for key in sorted(fitted.used)}
        return model, identity, fitted.notes
    model = model_of_file(name, timm, model_name, stripped, weights)
    return model, model.state_dict(), ()
