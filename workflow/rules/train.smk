# Needs: chunks (pretraining), episodes and tasks (finetuning), the LLM and the distiller.
# Makes: data/teacher/LLM, what the LLM itself makes of these examples, for all that distil it;
#        runs/LLM/METHOD/VARIANT/pretrain and runs/LLM/METHOD/VARIANT/PARTITION/finetune.
#        A checkpoint lies beside each folder while its job runs, so that a killed job goes on.

RUN = "runs/{llm}/{method}/{variant}"
TRAINED = ["weights.safetensors", "mend.json", "record.json", "metrics.jsonl"]


rule pretraining_teacher:
    input:
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].path),
        chunks=f"{R}/data/chunks/{{llm}}.parquet",
        spec=f"{R}/data/teacher/{{llm}}/pretrain/{{beta}}.spec.json",
    output:
        folder=directory(f"{R}/data/teacher/{{llm}}/pretrain/{{beta}}/states"),
    log:
        f"{R}/logs/data/teacher/{{llm}}/pretrain/{{beta}}.log",
    benchmark:
        f"{R}/benchmarks/data/teacher/{{llm}}/pretrain/{{beta}}.jsonl"
    wildcard_constraints:
        beta="beta=[^/]+",
    priority: 30
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=memory,
        runtime=1440,
        gpu=1,
        processors=processors,
    params:
        code=code("mend.training.teacher"),
    message:
        "teacher's states of chunks: {wildcards.llm} {wildcards.beta}"
    shell:
        "python -m mend teacher --spec {input.spec:q} --chunks {input.chunks:q}"
        " --output {output.folder:q} --threads {resources.processors} --log {log:q}"


rule finetuning_teacher:
    input:
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].path),
        episodes=f"{R}/data/episodes/train/{{partition}}.parquet",
        tasks=f"{R}/data/tasks",
        spec=f"{R}/data/teacher/{{llm}}/finetune/{{partition}}.spec.json",
    output:
        folder=directory(f"{R}/data/teacher/{{llm}}/finetune/{{partition}}/states"),
    log:
        f"{R}/logs/data/teacher/{{llm}}/finetune/{{partition}}.log",
    benchmark:
        f"{R}/benchmarks/data/teacher/{{llm}}/finetune/{{partition}}.jsonl"
    priority: 20
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=memory,
        runtime=1440,
        gpu=1,
        processors=processors,
    params:
        code=code("mend.training.teacher"),
    message:
        "teacher's states of episodes: {wildcards.llm} {wildcards.partition}"
    shell:
        "python -m mend teacher --spec {input.spec:q} --episodes {input.episodes:q}"
        " --tasks {input.tasks:q} --output {output.folder:q} --threads {resources.processors}"
        " --log {log:q}"


rule pretrain:
    input:
        run_models,
        unpack(development_rows("pretrain")),
        unpack(teacher_states("pretrain")),
        chunks=f"{R}/data/chunks/{{llm}}.parquet",
        spec=f"{R}/{RUN}/pretrain.spec.json",
    output:
        [f"{R}/{RUN}/pretrain/{name}" for name in TRAINED],
    log:
        f"{R}/logs/{RUN}/pretrain.log",
    benchmark:
        f"{R}/benchmarks/{RUN}/pretrain.jsonl"
    priority: 30
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=memory,
        runtime=1440,
        gpu=1,
        processors=processors,
    params:
        folder=subpath(output[0], parent=True),
        optional=lambda wildcards, input: flags(input, "dev", "tasks", "teacher"),
        code=training_code("pretrain"),
    message:
        "pretraining: {wildcards.llm} {wildcards.method} {wildcards.variant}"
    shell:
        "python -m mend train --spec {input.spec:q} --chunks {input.chunks:q} {params.optional:q}"
        " --output {params.folder:q} --threads {resources.processors}"
        " --processes {resources.gpu} --log {log:q}"


rule finetune:
    input:
        run_models,
        unpack(development_rows("finetune")),
        unpack(teacher_states("finetune")),
        unpack(initial_weights),
        episodes=f"{R}/data/episodes/train/{{partition}}.parquet",
        tasks=f"{R}/data/tasks",
        spec=f"{R}/{RUN}/{{partition}}/finetune.spec.json",
    output:
        [f"{R}/{RUN}/{{partition}}/finetune/{name}" for name in TRAINED],
    log:
        f"{R}/logs/{RUN}/{{partition}}/finetune.log",
    benchmark:
        f"{R}/benchmarks/{RUN}/{{partition}}/finetune.jsonl"
    priority: 20
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=memory,
        runtime=1440,
        gpu=1,
        processors=processors,
    params:
        folder=subpath(output[0], parent=True),
        optional=lambda wildcards, input: flags(input, "dev", "initial", "teacher"),
        code=training_code("finetune"),
    message:
        "finetuning: {wildcards.llm} {wildcards.method} {wildcards.variant} {wildcards.partition}"
    shell:
        "python -m mend train --spec {input.spec:q} --episodes {input.episodes:q}"
        " --tasks {input.tasks:q} {params.optional:q}"
        " --output {params.folder:q} --threads {resources.processors}"
        " --processes {resources.gpu} --log {log:q}"
