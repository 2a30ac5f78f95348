# The trunk, once. The store is resumable, and Snakemake deletes outputs before a job: so the output
# is the receipt, written last, and the store stands beside it.
rule extract:
    input:
        table=rules.patches.output.table,
    output:
        receipt=f"{RUN.settings.cache}/receipts/{{dataset}}-{{split}}-{{digest}}.json",
    log:
        "logs/extract/{dataset}-{split}-{digest}.log",
    benchmark:
        "logs/extract/{dataset}-{split}-{digest}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or workflow.cores
    params:
        state=dataset_state,
        weights=weights_state,
        made=store_making,
        config=store_config,
    shell:
        "pipeline extract --dataset {wildcards.dataset} --split {wildcards.split}"
        " --threads {threads} --config {params.config} --made {params.made} 2>&1 | tee {log} >&2"
