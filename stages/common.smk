# Settings of this run, and what rules ask of them. No numerics; nothing here imports torch.
import shlex
import sys
from functools import cache

import yaml
from snakemake.exceptions import WorkflowError

from pipeline.recipes.paths import recipe_digest, recipe_path, recipe_workspace
from pipeline.dataset.manifest import known_datasets, load_manifest
from pipeline.io.errors import MissingDataError, PipelineError
from pipeline.io.digests import digest_of
from pipeline.io.atomic import write_atomic
from pipeline.recipes.catalogue import (
    compared_recipes,
    find_recipe,
    heads_run,
    members_of,
    needs_boxes,
    parts_of,
)
from pipeline.stages.settings import parse_run_settings
from pipeline.stages.workspace import VERSIONS, Workspace


def stop(error):
    """End the parse with the message alone: everything in it is the user's to mend."""
    sys.stderr.write(f"\nerror: {error}\n")
    sys.exit(2)


def parse_config():
    values = {key: value for key, value in config.items() if value is not None}
    try:
        return parse_run_settings(values, "--config")
    except PipelineError as error:
        stop(error)


RUN = Workspace(parse_config())
DATASETS = known_datasets()


wildcard_constraints:
    dataset="|".join(DATASETS),
    split=r"[A-Za-z0-9_]+",
    head=r"[A-Za-z0-9.-]+",
    recipe=r"[A-Za-z0-9.+-]+",
    trunk="no-pretrain|fisher",
    digest=r"[0-9a-f]{10}",
    i=r"\d+",
    n=r"\d+",


def parse_recipes():
    """Each comparison's workspace, and its recipes."""
    try:
        heads = Workspace(heads_run(RUN.settings))
        return {
            "heads": (heads, compared_recipes(heads.settings)[0]),
            "compare": (RUN, compared_recipes(RUN.settings)[0]),
        }
    except PipelineError as error:
        stop(error)


# What each digest in a file's name stands for: the main run, and the runs of every compared recipe.
COMPARISONS = parse_recipes()
RECIPES = {
    (name, recipe_digest(ws, name)): ws
    for ws, names in COMPARISONS.values()
    for name in (part for compared in names for part in parts_of(ws.settings, compared))
}


def recipe_runs(ws, name):
    """The runs of a recipe, one a seed; of a join, its members'."""
    return [
        recipe_workspace(ws, member, seed)
        for member in members_of(ws.settings, name)
        for seed in ws.settings.seeds
    ]


WORKSPACES = [RUN] + [
    run for (name, _), ws in RECIPES.items() for run in recipe_runs(ws, name)
]
TABLES = {ws.table_digest: ws for ws in reversed(WORKSPACES)}
TRUNKS = {ws.trunk_digest: ws for ws in reversed(WORKSPACES) if ws.makes_trunk}
STORES = {ws.store_digest: ws for ws in reversed(WORKSPACES)}
# Stores of further layers, which the main run's pass makes along the way.
JOINT_LAYERS = {
    RUN.with_layer(layer).store_digest
    for layer in RUN.settings.layers
    if layer != RUN.settings.layer
}
HEADS = {RUN.head_digest(RUN.settings.head): RUN}
SCORES = {RUN.scores_digest(RUN.settings.head): RUN}
RUNS = {RUN.run_digest(RUN.settings.head): RUN}


def settings_file(ws, stage, digest):
    """All settings of a workspace, as a file that any command takes as --config.

    Its name, which Snakemake compares as a parameter, holds the digest of the settings that the
    stage depends on, so that a changed k reruns no head.
    """
    path = ws.results / "settings" / f"{stage}-{digest}.yaml"
    data = yaml.safe_dump(ws.settings.model_dump(mode="json"), sort_keys=False).encode()
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)
    return shlex.quote(path.as_posix())


def manifest(wildcards):
    try:
        return load_manifest(wildcards.dataset)
    except PipelineError as error:
        stop(error)


@cache
def split_state(dataset, split):
    """Changes with any picture, XML or list of the split, which Snakemake cannot see by itself.

    Where the pictures are gone and the table is there, it is the state they were last seen in:
    everything after the store needs no pictures.
    """
    seen = RUN.cache / "states" / f"{dataset}-{split}-{RUN.table_digest}.txt"
    try:
        state = RUN.dataset_state(load_manifest(dataset), split)
    except MissingDataError as error:
        if not RUN.table_path(dataset, split).is_file():
            stop(error)
        return seen.read_text() if seen.is_file() else "absent"
    except PipelineError as error:
        stop(error)
    if not seen.is_file() or seen.read_text() != state:
        write_atomic(seen, state.encode())
    return state


def dataset_state(wildcards):
    return split_state(wildcards.dataset, wildcards.split)


def fit_state(wildcards):
    """State of all that a head depends on."""
    data = split_state(wildcards.dataset, manifest(wildcards).fit)
    return [data, state_of_weights(HEADS[wildcards.digest].store_digest)]


def evaluation_state(wildcards):
    """State of the splits, and what the manifest says of them."""
    entry = manifest(wildcards)
    roles = (entry.fit, entry.eval)
    return [
        *(split_state(wildcards.dataset, split) for split in roles),
        [
            entry.metric,
            entry.official,
            entry.unscored,
            *roles,
            *(entry.splits[role].pictures for role in roles),
        ],
    ]


def result_state(wildcards):
    """State of all that the main run's scores and results depend on."""
    return [*evaluation_state(wildcards), state_of_weights(RUN.store_digest)]


@cache
def state_of_weights(store_digest):
    """Changes with a local weights file; where it is gone, the state that it was last seen in."""
    ws = STORES[store_digest]
    seen = ws.cache / "states" / f"weights-{ws.store_digest}.txt"
    try:
        ws.check_weights()
    except PipelineError as error:
        if not seen.is_file():
            stop(error)
        return seen.read_text()
    state = ws.weights_state()
    if not seen.is_file() or seen.read_text() != state:
        write_atomic(seen, state.encode())
    return state


def weights_state(wildcards):
    return state_of_weights(wildcards.digest)


def joint_layers(wildcards):
    """The layers that the main run's pass keeps, as an option; other stores are of one layer."""
    layers = RUN.settings.layers
    if not layers or wildcards.digest != RUN.store_digest:
        return ""
    return f" --layers {','.join(dict.fromkeys((RUN.settings.layer, *layers)))}"


def store_making(wildcards):
    """One more than the receipt says if its store was deleted behind it."""
    return STORES[wildcards.digest].store_making(wildcards.dataset, wildcards.split)


def table_config(wildcards):
    return settings_file(TABLES[wildcards.digest], "patches", wildcards.digest)


def trunk_config(wildcards):
    return settings_file(TRUNKS[wildcards.digest], "trunk", wildcards.digest)


def store_config(wildcards):
    return settings_file(STORES[wildcards.digest], "extract", wildcards.digest)


def head_config(wildcards):
    return settings_file(HEADS[wildcards.digest], "fit-head", wildcards.digest)


def scores_config(wildcards):
    return settings_file(SCORES[wildcards.digest], "score", wildcards.digest)


def result_config(wildcards):
    return settings_file(RUNS[wildcards.digest], "evaluate", wildcards.digest)


def recipe_config(wildcards):
    ws = RECIPES[wildcards.recipe, wildcards.digest]
    return settings_file(ws, "recipe", wildcards.digest)


def recipe_state(wildcards):
    """State of all that a recipe depends on."""
    ws = RECIPES[wildcards.recipe, wildcards.digest]
    stores = {run.store_digest for run in recipe_runs(ws, wildcards.recipe)}
    return [*evaluation_state(wildcards), *map(state_of_weights, sorted(stores))]


def comparison_state(wildcards):
    """Changes with the comparison of recipes that a report takes in."""
    paths = (RUN.compare_path(wildcards.dataset), RUN.heads_path(wildcards.dataset))
    return [path.stat().st_mtime_ns if path.is_file() else None for path in paths]


def comparison_config(wildcards):
    """Of the rules that take in several recipes: any change of settings makes them anew."""
    everything = {
        "settings": RUN.settings.model_dump(mode="json"),
        "versions": VERSIONS,
    }
    return settings_file(RUN, "compare", digest_of(everything)[:10])
