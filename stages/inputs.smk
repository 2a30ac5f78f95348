# Inputs of rules that join splits, heads and trunks; kept apart from the rules, as the linter asks.


def trunk_inputs(wildcards):
    split = manifest(wildcards).fit
    return TRUNKS[wildcards.digest].table_path(wildcards.dataset, split)


def store_inputs(wildcards):
    """The table; the card of a trunk that is made from the dataset; the pass that keeps this layer too."""
    ws = STORES[wildcards.digest]
    names = (wildcards.dataset, wildcards.split)
    inputs = {"table": ws.table_path(*names)}
    if ws.makes_trunk:
        inputs["trunk"] = ws.trunk_path(wildcards.dataset)
    if wildcards.digest in JOINT_LAYERS:
        inputs["joint"] = RUN.receipt_path(*names)
    return inputs


def extract_shares(wildcards):
    """Ranges of parts that are made by jobs of their own; none if the extraction is one job."""
    ws, count = STORES[wildcards.digest], RUN.settings.scatter
    names = (wildcards.dataset, wildcards.split)
    return (
        [ws.share_path(*names, i, count) for i in range(1, count + 1)]
        if count > 1
        else []
    )


def fit_inputs(wildcards):
    ws = HEADS[wildcards.digest]
    split = ws.split_of_rows(manifest(wildcards), wildcards.head)
    return {
        "table": ws.table_path(wildcards.dataset, split),
        "receipt": ws.receipt_path(wildcards.dataset, split),
    }


def score_inputs(wildcards):
    split = manifest(wildcards).eval
    ws = SCORES[wildcards.digest]
    return {
        "table": ws.table_path(wildcards.dataset, split),
        "receipt": ws.receipt_path(wildcards.dataset, split),
        "head": ws.head_path(wildcards.dataset, wildcards.head),
    }


def evaluate_inputs(wildcards):
    split = manifest(wildcards).eval
    ws = RUNS[wildcards.digest]
    return {
        "table": ws.table_path(wildcards.dataset, split),
        "scores": ws.scores_path(wildcards.dataset, wildcards.head, split),
    }


def main_run(wildcards):
    return RUN.run_dir(wildcards.dataset) / "map.json"


def recipe_inputs(wildcards):
    """Tables and receipts of a recipe's runs; of a join, what its members came to."""
    ws = RECIPES[wildcards.recipe, wildcards.digest]
    recipe = find_recipe(ws.settings, wildcards.recipe)
    if recipe.join:
        return [recipe_path(ws, wildcards.dataset, member) for member in recipe.join]
    entry = manifest(wildcards)
    return [
        path(wildcards.dataset, split)
        for run in recipe_runs(ws, wildcards.recipe)
        for path in (run.table_path, run.receipt_path)
        for split in {run.split_of_rows(entry, wildcards.recipe), entry.eval}
    ]


def compared_outcomes(comparison):
    """What the recipes of a comparison came to."""
    ws, names = COMPARISONS[comparison]

    def outcomes(wildcards):
        boxes = manifest(wildcards).has_boxes
        able = [name for name in names if boxes or not needs_boxes(ws.settings, name)]
        return [recipe_path(ws, wildcards.dataset, name) for name in able]

    return outcomes


def swept_inputs(wildcards):
    entry = manifest(wildcards)
    return [
        path(wildcards.dataset, split)
        for path in (RUN.table_path, RUN.receipt_path)
        for split in (entry.fit, entry.eval)
    ]
