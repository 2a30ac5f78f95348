# The run: manifest -> patch table -> activations -> head -> scores -> results.
#
#   snakemake --cores 8 results/voc12_map.json            the main job
#   snakemake --cores 8 results/voc12_report.html         it as one HTML file, with maps and pictures
#   snakemake --cores 8 results/voc12_heads.json          all configured heads over one store
#   snakemake --cores 8 results/voc12_compare.json        all recipes compared with each other and published rows
#   snakemake --cores 8 results/voc12_sweep.json          head, reading and k chosen on held-out pictures
#   snakemake --cores 8 results/photos_features.parquet   rows of pictures without labels, for other programs
#
# Any manifest's name may stand for voc12. Settings: --config trunk=random aggregation=3 data_root=DIR ...
from snakemake.utils import min_version

min_version("9.0")


include: "stages/common.smk"
include: "stages/patches.smk"
include: "stages/trunk.smk"
include: "stages/extract.smk"
include: "stages/head.smk"
include: "stages/score.smk"
include: "stages/recipe.smk"
include: "stages/results.smk"


rule all:
    default_target: True
    input:
        "results/demo_map.json",
        "results/demo_heads.json",
