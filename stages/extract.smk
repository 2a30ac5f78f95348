# The trunk, once. The store is resumable, and Snakemake deletes outputs before a job: so the output
# is the receipt, written last, and the store is next to it.
rule extract:
    input:
        unpack(ask(FLOW.store_inputs)),
        shares=ask(FLOW.extract_shares),
        due=ask(DUE.extract),
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
        made=ask(FLOW.store_making),
        config=ask(FLOW.store_config),
        layers=ask(FLOW.joint_layers),
    shell:
        "pipeline extract --dataset {wildcards.dataset:q} --split {wildcards.split:q}"
        " --threads {threads} --config {params.config} --made {params.made}{params.layers} 2>&1 | tee {log:q} >&2"


# With scatter=N: a range of the store's parts, as a job of its own, on its own device. Which ranges
# there are is no part of the store: any N makes the same bytes, and `extract` completes and seals.
rule extract_share:
    input:
        unpack(ask(FLOW.store_inputs)),
        due=ask(DUE.extract),
    output:
        share=temp(
            f"{RUN.settings.cache}/shares/{{dataset}}-{{split}}-{{digest}}-{{i}}of{{n}}.json"
        ),
    log:
        "logs/extract_share/{dataset}-{split}-{digest}-{i}of{n}.log",
    benchmark:
        "logs/extract_share/{dataset}-{split}-{digest}-{i}of{n}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or max(1, (workflow.cores or 1) // RUN.settings.scatter)
    params:
        # In no option: it changes when the store was deleted, and then the share runs again.
        made=ask(FLOW.store_making),
        config=ask(FLOW.store_config),
        layers=ask(FLOW.joint_layers),
    shell:
        "pipeline extract --dataset {wildcards.dataset:q} --split {wildcards.split:q} --share {wildcards.i:q}/{wildcards.n:q}"
        " --threads {threads} --config {params.config}{params.layers} 2>&1 | tee {log:q} >&2"
