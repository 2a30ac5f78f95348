# Results: one folder a run, named files as copies of the latest. They take seconds, less than a
# cluster's queue does.
localrules:
    evaluate,
    map,
    html_report,
    heads,
    compare,


rule evaluate:
    input:
        unpack(ask(FLOW.evaluate_inputs)),
        due=ask(DUE.evaluate),
    output:
        result=f"{RUN.settings.results}/runs/{{dataset}}-{{head}}-{{digest}}/map.json",
    log:
        "logs/evaluate/{dataset}-{head}-{digest}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        config=ask(FLOW.result_config),
    shell:
        "pipeline evaluate --dataset {wildcards.dataset:q} --head {wildcards.head:q}"
        " --config {params.config} > {log:q} 2>&1"


rule map:
    input:
        due=ask(DUE.named_result),
        result=ask(FLOW.main_run),
    output:
        named=f"{RUN.settings.results}/{{dataset}}_map.json",
    log:
        "logs/map/{dataset}.log",
    conda:
        "../envs/pipeline.yaml"
    shell:
        "cp {input.result:q} {output.named:q} 2> {log:q} && pipeline show {output.named:q} | tee -a {log:q}"


# With a comparison of recipes in it, if there is one when it is made.
rule html_report:
    input:
        f"{RUN.settings.results}/{{dataset}}_map.json",
        due=ask(DUE.report),
    output:
        page=report(
            f"{RUN.settings.results}/{{dataset}}_report.html",
            category="Results",
            labels={"dataset": "{dataset}"},
        ),
    log:
        "logs/report/{dataset}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        config=ask(FLOW.comparison_config),
    shell:
        "pipeline report --dataset {wildcards.dataset:q} --output {output.page:q} --config {params.config} 2>&1 | tee {log:q}"


# Rows of a dataset with one split, such as pictures without labels, for other programs.
rule features:
    input:
        unpack(ask(FLOW.features_inputs)),
        due=ask(DUE.features),
    output:
        features=f"{RUN.settings.results}/{{dataset}}_features.parquet",
    log:
        "logs/features/{dataset}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        config=ask(FLOW.features_config),
    shell:
        "pipeline export --dataset {wildcards.dataset:q} --to {output.features:q} --overwrite"
        " --config {params.config} > {log:q} 2>&1"


rule heads:
    input:
        due=ask(DUE.heads),
        outcomes=ask(FLOW.heads_inputs),
    output:
        comparison=f"{RUN.settings.results}/{{dataset}}_heads.json",
    log:
        "logs/heads/{dataset}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        config=ask(FLOW.comparison_config),
    shell:
        "pipeline compare --dataset {wildcards.dataset:q} --heads --config {params.config} 2>&1 | tee {log:q}"


rule compare:
    input:
        due=ask(DUE.compare),
        outcomes=ask(FLOW.compare_inputs),
    output:
        comparison=f"{RUN.settings.results}/{{dataset}}_compare.json",
    log:
        "logs/compare/{dataset}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        config=ask(FLOW.comparison_config),
    shell:
        "pipeline compare --dataset {wildcards.dataset:q} --config {params.config} 2>&1 | tee {log:q}"


rule sweep:
    input:
        due=ask(DUE.sweep),
        tables=ask(FLOW.sweep_inputs),
    output:
        sweep=f"{RUN.settings.results}/{{dataset}}_sweep.json",
    log:
        "logs/sweep/{dataset}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: RUN.settings.threads or workflow.cores
    params:
        config=ask(FLOW.comparison_config),
    shell:
        "pipeline sweep --dataset {wildcards.dataset:q} --threads {threads} --config {params.config} 2>&1 | tee {log:q}"
