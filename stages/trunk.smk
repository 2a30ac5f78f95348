# A trunk that is made from the fit split of a dataset: the network trained on its patches alone, or the
# codebook of hand-made descriptors.
rule trunk:
    input:
        due=ask(DUE.trunk),
        table=ask(FLOW.trunk_inputs),
    output:
        card=f"{RUN.settings.cache}/trunks/{{dataset}}-{{trunk}}-{{digest}}.yaml",
    log:
        "logs/trunk/{dataset}-{trunk}-{digest}.log",
    benchmark:
        "logs/trunk/{dataset}-{trunk}-{digest}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or workflow.cores
    params:
        config=ask(FLOW.trunk_config),
    shell:
        "pipeline trunk make --dataset {wildcards.dataset:q}"
        " --threads {threads} --config {params.config} 2>&1 | tee {log:q} >&2"
