# What can be asked for: `snakemake --cores 8 TARGET`.
#
#   results/table2.csv   a table, also .parquet and .html: table1 to table7, and any study
#   results/figure4.png  a figure, also .parquet: figure3 to figure8, and any study that varies something
#   tables, figures      all of them
#   ablations            table 4 and figures 4, 6 and 7
#   perturbations        table 3, with 16 demonstrations and with 4
#   efficiency           figure 3
#   report               results/report.html, one page with everything
#   results/candidates.csv  every candidate of `select` with its dev score, also .parquet
#   all                  everything (the default)
#   plan                 says what everything would cost, and runs nothing
#   pocket_models        make the little language models of mend/pocket/models again, from nothing
#
# `results` is the configuration's folder for everything that is made.

import sys

from snakemake.utils import min_version

min_version("9.20")

# The folder of this file, also where another workflow imports it as a module.
ROOT = str(workflow.current_basedir)
sys.path.insert(0, ROOT)

from mend.planning.plan import plan_text

# A file given with --configfile replaces the default as a whole: merged into it, keys of the
# default would survive.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/divergence.smk"
include: "workflow/rules/efficiency.smk"
include: "workflow/rules/attention.smk"
include: "workflow/rules/render.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        made(*TABLES, *PICTURES),
        f"{R}/report.html",


rule tables:
    input:
        [f"{R}/{name}.html" for name in TABLES],
    localrule: True


rule figures:
    input:
        [f"{R}/{name}.png" for name in PICTURES],
    localrule: True


rule ablations:
    input:
        made("table4", "figure4", "figure6", "figure7"),
    localrule: True


rule perturbations:
    input:
        made("table3", "table3-few"),
    localrule: True


rule report:
    input:
        f"{R}/report.html",
    localrule: True


rule plan:
    log:
        f"{R}/logs/plan.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        text=lambda wildcards: told(plan_text, CONFIGURATION),
    shell:
        "printf '%s\n' {params.text:q} | tee {log:q}"
