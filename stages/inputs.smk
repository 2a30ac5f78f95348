# Inputs of rules that join splits, heads and trunks; kept apart from the rules, as the linter asks.


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
    split = manifest(wildcards).fit
    ws = HEADS[wildcards.digest]
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


def compared_runs(wildcards):
    """Results of the configured heads, and of the main head on each baseline trunk."""
    heads = [
        RUN.run_dir(wildcards.dataset, head) / "map.json"
        for head in RUN.settings.compare
    ]
    return heads + [ws.run_dir(wildcards.dataset) / "map.json" for ws in WORKSPACES[1:]]


def swept_inputs(wildcards):
    entry = manifest(wildcards)
    return [
        path(wildcards.dataset, split)
        for path in (RUN.table_path, RUN.receipt_path)
        for split in (entry.fit, entry.eval)
    ]
