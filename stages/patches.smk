# Decode every picture, find the bad ones, fix the row plan of a split.
rule patches:
    input:
        shares=ask(FLOW.patch_shares),
        due=ask(DUE.patches),
    output:
        table=f"{RUN.settings.cache}/patches/{{dataset}}-{{split}}-{{digest}}.h5",
    log:
        f"logs/patches/{{dataset}}-{{split}}-{{digest}}.log",
    benchmark:
        f"logs/patches/{{dataset}}-{{split}}-{{digest}}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or min(2, workflow.cores)
    params:
        config=ask(FLOW.table_config),
    shell:
        "pipeline patches --dataset {wildcards.dataset:q} --split {wildcards.split:q}"
        " --threads {threads} --config {params.config} 2>&1 | tee {log:q} >&2"


# With scatter=N: a range of the pictures, as a job of its own. What it finds is remembered in the cache,
# and the table has the same bytes whatever N is.
rule patches_share:
    input:
        due=ask(DUE.patches),
    output:
        share=temp(
            f"{RUN.settings.cache}/shares/{{dataset}}-{{split}}-{{digest}}-{{i}}of{{n}}-patches.json"
        ),
    log:
        "logs/patches_share/{dataset}-{split}-{digest}-{i}of{n}.log",
    benchmark:
        "logs/patches_share/{dataset}-{split}-{digest}-{i}of{n}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or max(1, (workflow.cores or 1) // RUN.settings.scatter)
    params:
        config=ask(FLOW.table_config),
    shell:
        "pipeline patches --dataset {wildcards.dataset:q} --split {wildcards.split:q} --share {wildcards.i:q}/{wildcards.n:q}"
        " --threads {threads} --config {params.config} 2>&1 | tee {log:q} >&2"
