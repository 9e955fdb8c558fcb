# Needs: nothing (pocket_models), the rows of local tasks (local_models), or GGUF files (gguf_model).
# Makes: pocket-models, to compare with or to replace mend/pocket/models; local-models, to try the
#        path on real rows without downloading a model; gguf-models, real ones of Python packages.


rule pocket_models:
    output:
        folder=directory(f"{R}/pocket-models"),
    log:
        f"{R}/logs/pocket-models.log",
    benchmark:
        f"{R}/benchmarks/pocket-models.jsonl"
    conda:
        ENVIRONMENT
    threads: workflow.resource_settings.cores or 2
    resources:
        mem_mb=4000,
        runtime=1440,
        gpu=1,
    params:
        code=code("mend.pocket.pretrain"),
    message:
        "pretraining the pocket language models from nothing; minutes on a GPU, hours on processors"
    shell:
        "python -m mend pocket-models --output {output.folder:q} --log {log:q}"


rule local_models:
    input:
        benchmark_rows,
        spec=f"{R}/local-models.spec.json",
    output:
        [f"{R}/local-models/gpt2/{name}" for name in MODEL_FILES],
        [f"{R}/local-models/gpt2-small/{name}" for name in MODEL_FILES],
    log:
        f"{R}/logs/local-models.log",
    benchmark:
        f"{R}/benchmarks/local-models.jsonl"
    priority: 40
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=1,
    params:
        folder=CONFIGURATION.benchmark_folder,
        output=subpath(output[0], ancestor=2),
        code=code("mend.models.local_models"),
    message:
        "training a small tokenizer and two small language models on the tasks' own text"
    shell:
        "python -m mend local-models --spec {input.spec:q} --folder {params.folder:q}"
        " --output {params.output:q} --log {log:q}"


rule gguf_model:
    # The specification pins what the file holds, so the file itself is no input.
    input:
        spec=f"{R}/gguf-models/{{model}}.spec.json",
    output:
        [f"{R}/gguf-models/{{model}}/{name}" for name in MODEL_FILES],
    log:
        f"{R}/logs/gguf-models/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/gguf-models/{{model}}.jsonl"
    wildcard_constraints:
        model=one_of(VALUES.gguf_models),
    priority: 40
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    resources:
        mem_mb=8000,
    params:
        folder=subpath(output[0], parent=True),
        code=code("mend.models.gguf_models"),
    message:
        "turning a GGUF file into a model's folder: {wildcards.model}"
    shell:
        "python -m mend gguf-model --spec {input.spec:q} --output {params.folder:q} --log {log:q}"
