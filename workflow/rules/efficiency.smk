# Needs: an LLM and its distiller (their weights do not matter), demonstrations of test rows.
# Makes: efficiency/LLM.parquet, what inference costs each method, and figure 3.


rule efficiency_of:
    input:
        f"{PACKAGE}/paper/figure3.csv",
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].path),
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].distiller.path),
        episodes=f"{R}/data/episodes/{SAMPLING}/test.parquet",
        tasks=f"{R}/data/tasks",
        spec=f"{R}/efficiency/{{llm}}.spec.json",
    output:
        f"{R}/efficiency/{{llm}}.parquet",
    log:
        f"{R}/logs/efficiency/{{llm}}.log",
    benchmark:
        f"{R}/benchmarks/efficiency/{{llm}}.jsonl"
    conda:
        ENVIRONMENT
    # All of them, so that nothing runs beside what is timed; it computes with one.
    threads: CORES
    resources:
        mem_mb=16000,
        runtime=120,
        gpu=1,
    params:
        code=efficiency_code(
            "mend.analysis.efficiency",
            "mend.methods.mend",
            "mend.methods.prompt_tuning",
            "mend.methods.vanilla_icl",
        ),
    message:
        "measuring what inference costs: {wildcards.llm}"
    shell:
        "python -m mend efficiency --spec {input.spec:q} --episodes {input.episodes:q}"
        " --tasks {input.tasks:q} --output {output:q} --log {log:q}"


rule figure3:
    input:
        expand(f"{R}/efficiency/{{llm}}.parquet", llm=EFFICIENCY),
    output:
        png=report(f"{R}/figure3.png", caption="../report/figure3.rst", category="Figures"),
        parquet=f"{R}/figure3.parquet",
    log:
        f"{R}/logs/figure3.log",
    benchmark:
        f"{R}/benchmarks/figure3.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.figures.efficiency"),
    message:
        "figure: {output.png}"
    shell:
        "python -m mend figure3 --parquets {input:q} --png {output.png:q}"
        " --parquet {output.parquet:q} --log {log:q}"


rule efficiency:
    input:
        rules.figure3.output if EFFICIENCY else [],
    localrule: True
