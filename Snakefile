# The workflow, as `snakemake --cores 8 TARGET` finds it; workflow/Snakefile says what can be asked for.
include: "workflow/Snakefile"


# What an included file says of its default target is not heard.
rule default:
    default_target: True
    input:
        rules.all.input,
    localrule: True
