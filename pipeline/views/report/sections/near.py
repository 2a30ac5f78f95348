"""Near-duplicates on a page: leaks first, then those within each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.io.progress import track
from pipeline.stages import near
from pipeline.stages.context import RunContext
from pipeline.views.report.sections.pictures import Thumbnail, Thumbnails


@dataclass(frozen=True)
class ShownPair:
    """A pair of near-duplicates on the page."""

    pictures: tuple[Thumbnail, Thumbnail]
    names: tuple[str, str]
    why: str


@dataclass(frozen=True)
class ShownList:
    """One list of a section: its heading, how many there are, and those that are shown."""

    heading: str
    total: int
    shown: list[Any]


@dataclass(frozen=True)
class NearSection:
    """Near-duplicates for the page."""

    definition: str
    lists: list[ShownList]
    compared: int
    groups: int
    leaks: int
    file: str


def near_section(run: RunContext, found: Mapping[str, Any], thumbnails: Thumbnails, most: int) -> NearSection:
    """Return what the page shows of near-duplicates.

    Parameters
    ----------
    most : pairs that are shown of each list
    """
    fit, *others = found["splits"]
    by_list: dict[str, list[Mapping[str, Any]]] = {
        f"Leaks: one in {fit}, one in {', '.join(others)}": [p for p in found["pairs"] if p["leak"]],
        **{
            f"Both in {split}": [p for p in found["pairs"] if not p["leak"] and p["first"]["split"] == split]
            for split in found["splits"]
        },
    }
    lists = []
    for heading, pairs in by_list.items():
        if pairs:
            chosen = track(pairs[:most], "pictures of the page", min(most, len(pairs)), "pairs")
            lists.append(ShownList(heading, len(pairs), [_shown_pair(pair, thumbnails) for pair in chosen]))
    return NearSection(
        found["definition"],
        lists,
        found["compared"],
        len(found["groups"]),
        sum(pair["leak"] for pair in found["pairs"]),
        near.path(run).as_posix(),
    )


def _shown_pair(pair: Mapping[str, Any], thumbnails: Thumbnails) -> ShownPair:
    both = pair["first"], pair["second"]
    why = "the same file" if pair["same_file"] else f"pixels {pair['correlation']:.2f}, rows {pair['cosine']:.2f}"
    pictures = thumbnails.of(**_at(both[0])), thumbnails.of(**_at(both[1]))
    names = tuple(f"{picture['id']} ({picture['split']})" for picture in both)
    return ShownPair(pictures, (names[0], names[1]), why + (", mirrored" if pair["mirrored"] else ""))


def _at(picture: Mapping[str, str]) -> dict[str, str]:
    return {"split": picture["split"], "i": picture["id"]}
