# Decode every picture, find the bad ones, fix the row plan of a split.
rule patches:
    input:
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
        " --threads {threads} --config {params.config} > {log:q} 2>&1"
