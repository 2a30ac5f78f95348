"""Names of files, from settings alone: a cache that was made before is found again."""

from __future__ import annotations

from contextlib import suppress

from surface import PipelineError, Workspace, builtin_recipes, recipe_digest, recipe_path, recipe_workspace, workspace

NETWORK = {"hidden": [64], "dropout": 0.25}
CASES = {
    "defaults": {},
    "whole pictures": {"source": "whole"},
    "crops": {"source": "crops", "crops": {"whole": False, "shares": [0.7, 0.9], "flips": False}},
    "boxes": {"source": "boxes", "boxes": {"margin": 1.5, "flips": True}},
    "scales": {"grid": {"scales": [1.0, 2.0], "overlap": 0.5, "max_patches": 100, "min_side_px": 4}},
    "dense": {"method": "dense"},
    "dense, of whole pictures": {"method": "dense", "source": "whole"},
    "codes": {"dtype": "8bit"},
    "codec": {"codec": "fast"},
    "labelled rows": {"rows": "labelled", "head": "fcb", "seed": 5, "seeds": [0, 3]},
    "trunk of the target alone": {"trunk": "no-pretrain", "trunk_seed": 2, "no_pretrain": {"updates": 100}},
    "trunk of the target alone, wide": {"trunk": "no-pretrain", "no_pretrain": {"fc_width": 512}},
    "Fisher vectors": {"trunk": "fisher", "layer": "fisher", "fisher": {"words": 8}},
    "random": {"trunk": "random", "trunk_seed": 7, "layer": "fc6"},
    "torchvision": {"trunk": "torchvision/resnet18@flatten", "layer": "flatten", "weights": "resnet18.safetensors"},
    "timm": {"trunk": "timm/resnet10t.c3_in1k@global_pool"},
    "a card": {"trunk": "cards/own.yaml", "layer": "pool5"},
    "layers": {"layer": "fc6", "layers": ["pool5", "fc7"]},
    "other places": {"stores": "s3://bucket/stores", "cache": "kept", "results": "found/here"},
    "pictures elsewhere": {"data_root": "pictures", "on_error": "skip", "max_skipped": 0.2},
    "arithmetic": {"compiled": True, "precision": "bf16", "batch": 64},
    "second device": {"device": "cuda:1"},
    "seeds": {"seed": 3, "seeds": [3, 4], "trunk_seed": 1},
    "labels": {"labels": {"single_object": "touches", "background": "unfilled"}},
    "held out": {"held_out": 0.5},
    "aggregations": {"aggregation": "max", "aggregations": [1, "top:5", "lme:2"]},
    "all kinds of heads": {
        "layer": "pool5",
        "head": "mine",
        "heads": {
            "mine": {**NETWORK, "targets": "several", "background_share": 0.5},
            "weak": {**NETWORK, "kind": "weak", "top": 5},
            "svm": {"kind": "svm", "pooling": ["max"], "costs": [1]},
            "adapted": {**NETWORK, "kind": "adapted", "retrain": ["fc6", "fc7"]},
            "own": {"kind": "own"},
        },
    },
    "recipes of one's own": {
        "recipes": {
            "strong": {"title": "another", "published": "PRE-1000C", "head": NETWORK, "aggregation": 3},
            "first": {"layer": "fc6", "source": "whole", "head": {"kind": "svm"}, "trunk": "random"},
            "strong+weak": {"join": ["strong", "first"], "by": "stack", "title": "stacked"},
        },
    },
}
RECIPES = ("strong", "svm-whole", "strong+weak")
DATASET = "voc12"


def paths_of(ws: Workspace) -> dict[str, object]:
    """Names of every kind of file; of heads, those that are configured and the main one."""
    heads = list(dict.fromkeys((ws.settings.head, *ws.settings.heads)))
    found = {
        "patch table": ws.table_path(DATASET, "train"),
        "receipt": ws.receipt_path(DATASET, "val"),
        "share": ws.share_path(DATASET, "train", 2, 3),
        "digests of files": ws.digest_memory,
        "heads": ws.heads_path(DATASET),
        "comparison": ws.compare_path(DATASET),
        "report": ws.report_path(DATASET),
        "sweep": ws.sweep_path(DATASET),
    }
    if ws.makes_trunk:
        found["trunk card"] = ws.trunk_path(DATASET)
    for head in heads:
        found |= {
            f"{head}: head": ws.head_path(DATASET, head),
            f"{head}: held-out head": ws.head_path(DATASET, head, held_out=True),
            f"{head}: scores": ws.scores_path(DATASET, head, "val"),
            f"{head}: held-out scores": ws.scores_path(DATASET, head, "train", held_out=True),
            f"{head}: run": ws.run_dir(DATASET, head),
        }
    for layer in ws.settings.layers:
        found[f"{layer}: receipt"] = ws.with_layer(layer).receipt_path(DATASET, "val")
    return {what: path.as_posix() for what, path in found.items()}


def recipes_of(ws: Workspace, names) -> dict[str, dict[str, str]]:
    """Names of what recipes come to, and of the files of the run with the first seed; None where one cannot run."""
    found = {}
    for name in names:
        found[name] = None
        with suppress(PipelineError):
            found[name] = {"outcome": recipe_path(ws, DATASET, name).as_posix()}
        with suppress(PipelineError):
            run = recipe_workspace(ws, name, ws.settings.seeds[0])
            found[name] |= {
                "receipt": run.receipt_path(DATASET, "val").as_posix(),
                "head": run.head_path(DATASET, name).as_posix(),
                "run": run.run_dir(DATASET).as_posix(),
            }
    return found


def test_every_kind_of_file_keeps_its_name_under_every_kind_of_setting(golden):
    golden.check_json("names.json", {case: paths_of(workspace(**settings)) for case, settings in CASES.items()})


def test_every_built_in_recipe_keeps_its_names(golden):
    golden.check_json("recipe_names.json", recipes_of(workspace(), builtin_recipes()))


def test_recipes_keep_their_names_under_every_kind_of_setting(golden):
    names = {
        case: recipes_of(workspace(**settings), dict.fromkeys((*RECIPES, *settings.get("recipes", ()))))
        for case, settings in CASES.items()
    }
    golden.check_json("recipe_names_under_settings.json", names)


def test_the_cases_differ():
    """Else one of them would pin nothing. A codec decides no name, nor does the method where there is no grid."""
    cases_of = {}
    for case, settings in CASES.items():
        ws = workspace(**settings)
        head, places = ws.settings.head, (ws.settings.cache, ws.settings.results)
        names = (ws.run_digest(head), ws.head_digest(head, held_out=True), recipe_digest(ws, "strong"))
        cases_of.setdefault((names, places, ws.settings.layers), []).append(case)
    alike = [cases for cases in cases_of.values() if len(cases) > 1]
    assert alike == [["defaults", "codec"], ["whole pictures", "dense, of whole pictures"]]
