# Needs: test rows with their demonstrations, the LLM, and a run's weights if its method trains any.
# Makes: runs/LLM/METHOD/VARIANT/PARTITION/chosen, the candidate with the best dev score, if there are several;
#        runs/LLM/METHOD/VARIANT/PARTITION/CONDITION/predictions.parquet, every option's score of every row.

CHOSEN = ["weights.safetensors", "mend.json", "record.json"]


rule choose:
    # Candidates are trained, and the chosen one alone is predicted.
    input:
        lambda wildcards: [
            f"{folder}/{name}" for folder in candidates_of(wildcards) for name in CHOSEN
        ],
        spec=f"{R}/{RUN}/{{partition}}/chosen.spec.json",
    output:
        [f"{R}/{RUN}/{{partition}}/chosen/{name}" for name in CHOSEN],
    log:
        f"{R}/logs/{RUN}/{{partition}}/chosen.log",
    benchmark:
        f"{R}/benchmarks/{RUN}/{{partition}}/chosen.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        folder=subpath(output[0], parent=True),
        candidates=candidates_of,
        code=code("mend.evaluation.choice"),
    message:
        "choosing on dev rows: {wildcards.llm} {wildcards.method} {wildcards.variant} {wildcards.partition}"
    shell:
        "python -m mend choose --spec {input.spec:q} --candidates {params.candidates:q}"
        " --output {params.folder:q} --log {log:q}"


rule predict:
    input:
        run_models,
        unpack(final_weights),
        episodes=lambda wildcards: f"{R}/data/episodes/{sampling_of(wildcards.condition)}/test.parquet",
        tasks=f"{R}/data/tasks",
        spec=f"{R}/{RUN}/{{partition}}/{{condition}}/predict.spec.json",
    output:
        f"{R}/{RUN}/{{partition}}/{{condition}}/predictions.parquet",
    log:
        f"{R}/logs/{RUN}/{{partition}}/{{condition}}/predict.log",
    benchmark:
        f"{R}/benchmarks/{RUN}/{{partition}}/{{condition}}/predict.jsonl"
    priority: 10
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=memory,
        runtime=1440,
        gpu=1,
        processors=processors,
    params:
        optional=lambda wildcards, input: flags(input, "weights"),
        code=prediction_code("mend.evaluation.predict"),
    message:
        "predicting: {wildcards.llm} {wildcards.method} {wildcards.variant} {wildcards.partition}"
        " {wildcards.condition}"
    shell:
        "python -m mend predict --spec {input.spec:q} --episodes {input.episodes:q}"
        " --tasks {input.tasks:q} {params.optional:q}"
        " --output {output:q} --threads {resources.processors} --log {log:q}"
