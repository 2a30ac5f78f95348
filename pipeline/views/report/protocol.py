"""How the figures of a result came about, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.patches.settings import GridSettings
from pipeline.scoring.aggregation import Aggregation

RULES = {
    "voc07": "the mean of the highest precision at eleven recalls (the devkit's rule of 2007)",
    "voc12": "the area under the curve of precision made monotone (the devkit's rule since 2010)",
}


def protocol(result: Mapping[str, Any], grid: GridSettings) -> list[str]:
    """One paragraph a step, from pictures to mAP."""
    used = result["pictures"]
    return [
        f"Square patches of {len(grid.scales)} sizes are cut from each picture. Their sides are the picture's shorter "
        f"side divided by {', '.join(f'{scale:g}' for scale in grid.scales)}; neighbours share "
        f"{100 * grid.overlap:.0f} % or more.",
        f"The trunk {result['trunk']}, which is not trained here, looks at each patch once. Its layer "
        f"{result['layer']} is kept, and everything below reads what was kept.",
        _fit(result),
        Aggregation.from_json(result["k"]).in_words(),
        f"Average precision is {RULES[result['metric']]}. A picture in which all objects of a class are difficult is "
        f"left out for that class. mAP is the mean over classes, on {used['eval']['used']:,} pictures of "
        f"{result['split']}.",
    ]


def _fit(result: Mapping[str, Any]) -> str:
    head, patches = result["recipe"]["head"], result["patches"]
    pictures = f"{result['pictures']['fit']['used']:,} pictures of {result['fit_split']}, with seed {result['seed']}"
    if head["kind"] == "own":
        return "The scores are the outputs of the trunk's own last layer; nothing was fitted."
    if not patches:
        return f"A head of kind {head['kind']} was fitted on {pictures}."
    second = result["recipe"]["reading"]["single_object"]
    return (
        "A patch is a positive of a class if an object of it covers at least a fifth of the patch, at least three "
        f"fifths of the object lie in the patch, and no second object {second} it. The head was fitted on "
        f"{patches['positive']:,} positives and {patches['background']:,} of {patches['background_of']:,} background "
        f"patches of {pictures}."
    )
