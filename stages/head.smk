# One head on the kept activations of the fit split.
rule fit_head:
    input:
        unpack(ask(FLOW.fit_inputs)),
        due=ask(DUE.fit_head),
    output:
        head=f"{RUN.settings.results}/heads/{{dataset}}-{{head}}-{{digest}}.safetensors",
    log:
        "logs/fit_head/{dataset}-{head}-{digest}.log",
    benchmark:
        "logs/fit_head/{dataset}-{head}-{digest}.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or workflow.cores
    params:
        config=ask(FLOW.head_config),
    shell:
        "pipeline fit-head --dataset {wildcards.dataset:q} --head {wildcards.head:q}"
        " --threads {threads} --config {params.config} 2>&1 | tee {log:q} >&2"
