# Needs: an LLM, the weights of a study's runs, and dev rows with their demonstrations.
# Makes: divergence/STUDY/LLM.parquet, how far the LLM with the runs' contexts is from the LLM with the demonstrations,
#        token by token, and a picture.


rule divergence:
    # One job for all runs of an LLM: starting is longer than measuring.
    input:
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].path),
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].distiller.path),
        lambda wildcards: [
            f"{folder}/weights.safetensors" for folder in measured_weights(wildcards)
        ],
        episodes=lambda wildcards: [
            f"{R}/data/episodes/{sampling_of(run.condition)}/dev.parquet"
            for run in measured_runs(wildcards)
        ],
        tasks=f"{R}/data/tasks",
        spec=f"{R}/divergence/{{study}}/{{llm}}.spec.json",
    output:
        f"{R}/divergence/{{study}}/{{llm}}.parquet",
    log:
        f"{R}/logs/divergence/{{study}}/{{llm}}.log",
    benchmark:
        f"{R}/benchmarks/divergence/{{study}}/{{llm}}.jsonl"
    wildcard_constraints:
        study=one_of(STUDIES),
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=memory,
        runtime=240,
        gpu=1,
        processors=processors,
    params:
        weights=measured_weights,
        code=divergence_code("mend.analysis.divergence", "mend.methods.vanilla_icl"),
    message:
        "divergence from the demonstrations: {wildcards.llm}, {wildcards.study}"
    shell:
        "python -m mend divergence --spec {input.spec:q} --episodes {input.episodes:q}"
        " --tasks {input.tasks:q} --weights {params.weights:q}"
        " --output {output:q} --threads {resources.processors} --log {log:q}"


rule divergence_figure:
    input:
        parquets=lambda wildcards: [
            f"{R}/divergence/{wildcards.study}/{llm}.parquet"
            for llm in VALUES.studies[wildcards.study].llms
        ],
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
