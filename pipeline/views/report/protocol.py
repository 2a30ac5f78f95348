"""How the figures of a result came about, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.patches.settings import SourceSettings
from pipeline.scoring.aggregation import Aggregation

RULES = {
    "voc07": "the mean of the highest precision at eleven recalls (the devkit's rule of 2007)",
    "voc12": "the area under the curve of precision made monotone (the devkit's rule since 2010)",
}


def protocol(result: Mapping[str, Any], sources: SourceSettings) -> list[str]:
    """Return one paragraph per step, from pictures to mAP."""
    used = result["pictures"]
    return [
        _windows(sources),
        f"The trunk {result['trunk']}, which is not trained here, runs once on each patch. The activations of its "
        f"layer {result['layer']} are cached, and everything below reads them from the cache.",
        _fit(result),
        Aggregation.from_json(result["k"]).in_words(),
        f"Average precision is {RULES[result['metric']]}. A picture in which all objects of a class are difficult is "
        f"left out for that class. mAP is the mean over classes, on {used['eval']['used']:,} pictures of "
        f"{result['split']}.",
    ]


def _windows(sources: SourceSettings) -> str:
    """Say which patches are cut."""
    if sources.source == "whole":
        return "Each picture is one patch: the whole of it, resized to a square."
    if sources.source == "crops":
        crops = sources.crops
        parts = ["the whole picture, resized to a square"] if crops.whole else []
        parts += [
            f"squares whose side is {100 * share:g} % of the shorter side, in the centre and the four corners"
            for share in crops.shares
        ]
        if crops.turns:
            degrees = " and ".join(f"{turn:g}" for turn in crops.turns)
            parts.append(
                f"the whole picture turned by {degrees} degrees, mirrored beyond its edges, resized to a square"
            )
        return f"Of each picture these patches are cut: {'; '.join(parts)}{_flipped(crops.flips)}."
    if sources.source == "boxes":
        boxes = sources.boxes
        return (
            f"One square patch is cut per person, centred on the person's box, with {boxes.margin:g} times its longer "
            f"side{_flipped(boxes.flips)}."
        )
    grid = sources.grid
    return (
        f"Square patches of {len(grid.scales)} {'sizes' if len(grid.scales) > 1 else 'size'} are cut from each "
        f"picture. Their sides are the picture's shorter side divided by "
        f"{', '.join(f'{scale:g}' for scale in grid.scales)}; neighbours share {100 * grid.overlap:.0f} % or more."
    )


def _flipped(flips: bool) -> str:
    return ", each once more mirrored left to right" if flips else ""


def _fit(result: Mapping[str, Any]) -> str:
    head, patches = result["recipe"]["head"], result["patches"] or {}
    pictures = f"{result['pictures']['fit']['used']:,} pictures of {result['fit_split']}, with seed {result['seed']}"
    if head["kind"] == "own":
        return "The scores are the outputs of the trunk's own last layer; nothing was fitted."
    if "positive" not in patches:  # of labels of pictures
        seen = f"{patches['looked_at']:,} patches of " if "looked_at" in patches else ""
        return f"A head of kind {head['kind']} was fitted on {seen}{pictures}."
    second = result["recipe"]["reading"]["single_object"]
    return (
        "A patch is a positive of a class if an object of it covers at least a fifth of the patch, at least three "
        f"fifths of the object lie in the patch, and no second object {second} it. The head was fitted on "
        f"{patches['positive']:,} positives and {patches['background']:,} of {patches['background_of']:,} background "
        f"patches of {pictures}."
    )
