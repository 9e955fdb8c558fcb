# Needs: an LLM, MEND's weights of one partition, and its test rows.
# Makes: attention/LLM.parquet, the induction heads and where they look, and figures 5 and 8.


rule attention:
    input:
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].path),
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].distiller.path),
        weights=mend_weights,
        episodes=f"{R}/data/episodes/{SAMPLING}/test.parquet",
        tasks=f"{R}/data/tasks",
        spec=f"{R}/attention/{{llm}}.spec.json",
    output:
        f"{R}/attention/{{llm}}.parquet",
    log:
        f"{R}/logs/attention/{{llm}}.log",
    benchmark:
        f"{R}/benchmarks/attention/{{llm}}.jsonl"
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=16000,
        runtime=60,
        gpu=1,
        processors=processors,
    params:
        weights=subpath(input.weights, parent=True),
        code=code("mend.analysis.induction_heads", "mend.methods.mend", "mend.methods.vanilla_icl"),
    message:
        "looking at attention: {wildcards.llm}"
    shell:
        "python -m mend attention --spec {input.spec:q} --episodes {input.episodes:q}"
        " --tasks {input.tasks:q} --weights {params.weights:q} --output {output:q}"
        " --threads {resources.processors} --log {log:q}"


rule attention_figure:
    input:
        expand(f"{R}/attention/{{llm}}.parquet", llm=ATTENTION),
    output:
        png=report(f"{R}/{{figure}}.png", caption="../report/attention.rst", category="Figures"),
        parquet=f"{R}/{{figure}}.parquet",
    log:
        f"{R}/logs/{{figure}}.log",
    benchmark:
        f"{R}/benchmarks/{{figure}}.jsonl"
    wildcard_constraints:
        figure="figure5|figure8",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.figures.attention"),
    message:
        "figure: {output.png}"
    shell:
        "python -m mend {wildcards.figure} --parquets {input:q} --png {output.png:q}"
        " --parquet {output.parquet:q} --log {log:q}"
