"""Which stores hold rows that other stores hold, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.activations.identity import how_part, value_fields
from pipeline.cache.inventory import CachedStore


@dataclass(frozen=True)
class Sharing:
    """What another store holds of the pictures of a store.

    Attributes
    ----------
    holder : name of the store that holds most of them
    n_pictures, of : pictures whose rows it holds, of all pictures of the store
    """

    holder: str
    n_pictures: int
    of: int

    @property
    def whole(self) -> bool:
        return self.n_pictures == self.of

    def __str__(self) -> str:
        """
        >>> str(Sharing("demo-train.zarr", 4, 5)), str(Sharing("demo-train.zarr", 5, 5))
        ('4 of 5 pictures are in demo-train.zarr', 'all 5 pictures are in demo-train.zarr')
        """
        pictures = f"all {self.of:,}" if self.whole else f"{self.n_pictures:,} of {self.of:,}"
        return f"{pictures} pictures are in {self.holder}"


def find_sharing(stores: Sequence[CachedStore]) -> dict[str, Sharing]:
    """Find for each store the sealed store that holds the rows of most of its pictures, by the store's name.

    Only stores whose windows follow from a picture's size are compared, with all rows of their pictures: those of the
    same grid, or of whole pictures and crops. Stores of versions that did not record the files of pictures hold an
    unknown share, and are left out.
    """
    pictures = {store.folder.name: _pictures(store) for store in stores}
    found = {}
    for store in stores:
        own = pictures[store.folder.name]
        best: Sharing | None = None
        for other in stores:
            theirs = pictures[other.folder.name]
            if other is store or not (own and theirs and other.sealed and _same_rows(store, other)):
                continue
            shared = len(own & theirs)
            if shared and (best is None or shared > best.n_pictures):
                best = Sharing(other.folder.name, shared, len(own))
        if best is not None:
            found[store.folder.name] = best
    return found


def _pictures(store: CachedStore) -> set[tuple[str, bool]]:
    """Return what decides the pixels of each picture; nothing where the windows do not follow from it."""
    identity, files = store.identity, store.picture_files
    if identity is None or files is None or identity.which_rows != "all" or identity["how.source"] == "boxes":
        return set()
    return set(zip(files.sha256, files.apply_exif, strict=True))


def _same_rows(store: CachedStore, other: CachedStore) -> bool:
    assert store.identity is not None and other.identity is not None
    return value_fields(how_part(store.identity)) == value_fields(how_part(other.identity))
