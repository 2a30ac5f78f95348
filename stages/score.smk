# Picture scores of the evaluation split, for all k in one pass.
rule score:
    input:
        unpack(ask(FLOW.score_inputs)),
        shares=ask(FLOW.score_shares),
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


# With scatter=N: the pictures of a range of the store's parts, as a job of its own. Any N makes the same
# bytes, and `score` joins them.
rule score_share:
    input:
        unpack(ask(FLOW.score_inputs)),
        due=ask(DUE.score),
    output:
        share=temp(
            f"{RUN.settings.cache}/shares/{{dataset}}-{{split}}-{{head}}-{{digest}}-{{i}}of{{n}}.h5"
        ),
    log:
        "logs/score_share/{dataset}-{split}-{head}-{digest}-{i}of{n}.log",
    benchmark:
        "logs/score_share/{dataset}-{split}-{head}-{digest}-{i}of{n}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or max(1, (workflow.cores or 1) // RUN.settings.scatter)
    params:
        config=ask(FLOW.scores_config),
    shell:
        "pipeline score --dataset {wildcards.dataset:q} --split {wildcards.split:q} --head {wildcards.head:q}"
        " --share {wildcards.i:q}/{wildcards.n:q} --threads {threads} --config {params.config} 2>&1 | tee {log:q} >&2"
