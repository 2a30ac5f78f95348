"""Find pictures by the paths that files of annotations state: below a folder above, or on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pipeline.dataset.voc_folder import FileIndex
from pipeline.io.names import normalise


class Place(NamedTuple):
    """Where a stated path was found.

    Attributes
    ----------
    id : of the picture
    above : the parts of the path before it, which name the folder of the pictures or are of another machine
    """

    id: str
    above: tuple[str, ...]


@dataclass(frozen=True)
class PictureFinder:
    """Finds pictures by the paths that files of annotations state."""

    index: FileIndex

    @cached_property
    def _ids(self) -> dict[str, str]:
        paths = {normalise(name): i for i, names in self.index.by_id.items() for name in names}
        return {**{normalise(i): i for i in self.index.by_id}, **paths}

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        return tuple(map(normalise, self.index.folder.parts))

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and normalise(path) in self._ids

    def find(self, stated: str) -> str | None:
        """Return the id of a picture: the longest end of the stated path that is one below the folder; or None."""
        place = self._place(stated)
        return None if place is None else place.id

    def find_all(self, stated: Sequence[str]) -> list[str | None]:
        """Return the id of the picture of each path of one source, or None."""
        return [None if place is None else place.id for place in self.places(stated)]

    def places(self, stated: Sequence[str]) -> list[Place | None]:
        """Find the pictures of all paths of one source.

        The paths are of one machine. Where those of some pictures agree with the folder's own path, others that name
        another folder are of pictures that are not there: ``b/0.jpg`` beside ``a/1.jpg`` is none of a folder ``a``.
        If no path agrees, the folder has another name here, and the ends count.
        """
        places = [self._place(path) for path in stated]
        alike = {place.above: self._n_alike(place.above) for place in places if place is not None}
        whole = [n for above, n in alike.items() if n == len(above)]
        least = max(*whole, 1) if whole else max(alike.values(), default=0)
        return [
            place if place is None or alike[place.above] >= min(least, len(place.above)) else None for place in places
        ]

    def _place(self, stated: str) -> Place | None:
        parts = [part for part in normalise(stated.strip()).replace("\\", "/").split("/") if part not in ("", ".")]
        ends = ((k, "/".join(parts[k:])) for k in range(len(parts)))
        return next((Place(self._ids[end], tuple(parts[:k])) for k, end in ends if end in self._ids), None)

    def _n_alike(self, above: tuple[str, ...]) -> int:
        """Count the last parts that are those of the folder's own path."""
        pairs = list(zip(reversed(above), reversed(self._parts), strict=False))
        return next((k for k, (part, own) in enumerate(pairs) if part != own), len(pairs))
