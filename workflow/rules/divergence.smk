# Needs: dev rows with their demonstrations, the LLM, and a run's weights if its method trains any.
# Makes: runs/LLM/METHOD/VARIANT/PARTITION/CONDITION/divergence.parquet, how far the LLM with the run's context is from
#        the LLM with the demonstrations, token by token, and a picture of a study's runs.


rule divergence:
    input:
        run_models,
        unpack(final_weights),
        episodes=lambda wildcards: f"{R}/data/episodes/{sampling_of(wildcards.condition)}/dev.parquet",
        tasks=f"{R}/data/tasks",
        spec=f"{R}/{RUN}/{{partition}}/{{condition}}/divergence.spec.json",
    output:
        f"{R}/{RUN}/{{partition}}/{{condition}}/divergence.parquet",
    log:
        f"{R}/logs/{RUN}/{{partition}}/{{condition}}/divergence.log",
    benchmark:
        f"{R}/benchmarks/{RUN}/{{partition}}/{{condition}}/divergence.jsonl"
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=memory,
        runtime=240,
        gpu=1,
        processors=processors,
    params:
        optional=lambda wildcards, input: flags(input, "weights"),
        code=method_code("mend.analysis.divergence", "mend.methods.vanilla_icl"),
    message:
        "divergence: {wildcards.llm} {wildcards.method} {wildcards.variant} {wildcards.partition}"
        " {wildcards.condition}"
    shell:
        "python -m mend divergence --spec {input.spec:q} --episodes {input.episodes:q}"
        " --tasks {input.tasks:q} {params.optional:q}"
        " --output {output:q} --threads {resources.processors} --log {log:q}"


rule divergence_figure:
    input:
        parquets=lambda wildcards: study_files(wildcards.study, "divergences"),
        spec=f"{R}/{{study}}.spec.json",
    output:
        png=report(
            f"{R}/{{study}}.divergence.png", caption="../report/figure.rst", category="Figures"
        ),
        parquet=f"{R}/{{study}}.divergence.parquet",
    log:
        f"{R}/logs/{{study}}.divergence.log",
    benchmark:
        f"{R}/benchmarks/{{study}}.divergence.jsonl"
    wildcard_constraints:
        study=one_of(STUDIES),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.figures.divergence"),
    message:
        "figure: {output.png}"
    shell:
        "python -m mend divergence-figure --spec {input.spec:q} --parquets {input.parquets:q}"
        " --png {output.png:q} --parquet {output.parquet:q} --log {log:q}"
