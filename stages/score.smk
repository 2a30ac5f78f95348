# Picture scores of the evaluation split, for all k in one pass.
rule score:
    input:
        unpack(ask(FLOW.score_inputs)),
        due=ask(DUE.score),
    output:
        scores=f"{RUN.settings.results}/scores/{{dataset}}-{{split}}-{{head}}-{{digest}}.h5",
    log:
        "logs/score/{dataset}-{split}-{head}-{digest}.log",
    benchmark:
        "logs/score/{dataset}-{split}-{head}-{digest}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or workflow.cores
    params:
        config=ask(FLOW.scores_config),
    shell:
        "pipeline score --dataset {wildcards.dataset:q} --split {wildcards.split:q} --head {wildcards.head:q}"
        " --threads {threads} --config {params.config} 2>&1 | tee {log:q} >&2"
