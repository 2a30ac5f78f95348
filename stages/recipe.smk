# One recipe with all its seeds: heads, scores and results, over the same kept activations. A job a recipe:
# what is done stays done, so a comparison that was interrupted goes on at the recipe and the seed.
rule recipe:
    input:
        ask(FLOW.recipe_inputs),
        due=ask(DUE.recipe),
    output:
        outcome=f"{RUN.settings.results}/recipes/{{dataset}}-{{recipe}}-{{digest}}.json",
    log:
        "logs/recipe/{dataset}-{recipe}-{digest}.log",
    benchmark:
        "logs/recipe/{dataset}-{recipe}-{digest}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or workflow.cores
    params:
        config=ask(FLOW.recipe_config),
    shell:
        "pipeline recipe run {wildcards.recipe:q} --dataset {wildcards.dataset:q}"
        " --threads {threads} --config {params.config} 2>&1 | tee {log:q} >&2"
