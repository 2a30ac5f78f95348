"""The report of a finished run, and the workflow as a part of other people's."""

from __future__ import annotations

import json

from support.workflow import CHECKOUT, NOTHING

# --- the report, and other people's workflows


def test_the_report_follows_from_a_finished_run(finished_work):
    target = "results/tiny_report.html"
    made = finished_work.snakemake(target)
    assert made.code == 0, made.output
    assert made.jobs == ["html_report"]
    assert "own pictures in tiny" in (finished_work.path / target).read_text()
    assert NOTHING in finished_work.snakemake(target, "--dry-run").output

    # A comparison that is new belongs into it.
    (finished_work.path / "results/tiny_compare.json").write_text('{"recipes": []}')
    assert finished_work.snakemake(target, "--dry-run").jobs == ["html_report"]
    finished_work.settings.append("aggregation=1")
    assert sorted(finished_work.snakemake(target, "--dry-run").jobs) == ["evaluate fca", "html_report", "map"]


def test_the_report_goes_into_snakemakes_own(finished_work):
    target = "results/tiny_report.html"
    assert finished_work.snakemake(target).code == 0
    made = finished_work.snakemake(target, "--report", "all.html")
    assert made.code == 0, made.output
    assert "tiny_report.html" in (finished_work.path / "all.html").read_text()


def test_the_workflow_is_a_module_of_another(new_work):
    (new_work.path / "Snakefile").unlink()
    (new_work.path / "Snakefile").write_text(
        'configfile: "config.yaml"\n\n'
        "module features:\n"
        f"    snakefile: {str(CHECKOUT / 'Snakefile')!r}\n"
        "    config: config\n\n"
        "use rule * from features as features_*\n\n"
        "rule mine:\n"
        "    default_target: True\n"
        '    input: "results/tiny_map.json"\n'
        '    output: "mine.txt"\n'
        '    shell: "cp {input} {output}"\n'
    )
    finished = new_work.snakemake("mine.txt")
    assert finished.code == 0, finished.output
    assert json.loads((new_work.path / "mine.txt").read_text())["dataset"] == "tiny"
    assert NOTHING in new_work.snakemake("mine.txt", "--dry-run").output
