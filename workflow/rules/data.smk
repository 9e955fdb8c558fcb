# Needs: the configuration; a folder in MetaICL's layout, or the network, unless tasks are pocket.
# Makes: data/benchmark and data/corpus (rows and text as found), data/tasks, data/chunks and
#        data/episodes (Parquet).


rule spec:
    # A job's settings, and its only source of them: the job reruns when they change.
    output:
        f"{R}/{{path}}.spec.json",
    log:
        f"{R}/logs/{{path}}.spec.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: told(specification_json, CONFIGURATION, wildcards.path),
    message:
        "settings: {wildcards.path}"
    shell:
        r"printf '%s\n' {params.spec:q} > {output:q} 2> {log:q}"


if TASKS_SOURCE == "pocket":

    rule pocket_world:
        input:
            spec=f"{R}/data/benchmark.spec.json",
        output:
            folder=directory(f"{R}/data/benchmark"),
        log:
            f"{R}/logs/data/benchmark.log",
        benchmark:
            f"{R}/benchmarks/data/benchmark.jsonl"
        conda:
            ENVIRONMENT
        params:
            code=code("mend.pocket.world"),
        message:
            "making the pocket world: tasks and text"
        shell:
            "python -m mend pocket-world --spec {input.spec:q} --output {output.folder:q}"
            " --log {log:q}"


if TASKS_SOURCE == "hub":

    rule download_benchmark:
        input:
            spec=f"{R}/data/benchmark.spec.json",
        output:
            folder=directory(f"{R}/data/benchmark"),
        log:
            f"{R}/logs/data/benchmark.log",
        benchmark:
            f"{R}/benchmarks/data/benchmark.jsonl"
        localrule: True
        conda:
            ENVIRONMENT
        params:
            code=code("mend.data.hub"),
        message:
            "downloading the tasks"
        shell:
            "python -m mend download-benchmark --spec {input.spec:q} --output {output.folder:q}"
            " --log {log:q}"


if VALUES.benchmark.corpus.source == "hub":

    rule download_corpus:
        input:
            spec=f"{R}/data/corpus.spec.json",
        output:
            folder=directory(f"{R}/data/corpus"),
        log:
            f"{R}/logs/data/corpus.log",
        benchmark:
            f"{R}/benchmarks/data/corpus.jsonl"
        localrule: True
        conda:
            ENVIRONMENT
        params:
            code=code("mend.data.hub"),
        message:
            "downloading the corpus"
        shell:
            "python -m mend download-files --spec {input.spec:q} --output {output.folder:q}"
            " --log {log:q}"


if VALUES.benchmark.corpus.source == "meta-train":

    rule meta_train_text:
        input:
            tasks=f"{R}/data/tasks",
            spec=f"{R}/data/corpus.spec.json",
        output:
            folder=directory(f"{R}/data/corpus"),
        log:
            f"{R}/logs/data/corpus.log",
        benchmark:
            f"{R}/benchmarks/data/corpus.jsonl"
        conda:
            ENVIRONMENT
        params:
            code=code("mend.data.meta_train_text"),
        message:
            "writing the inputs of meta-train rows as a corpus"
        shell:
            "python -m mend meta-train-text --spec {input.spec:q} --tasks {input.tasks:q}"
            " --output {output.folder:q} --log {log:q}"


if VALUES.benchmark.pool_files:

    rule download_pool:
        input:
            spec=f"{R}/data/pool-files.spec.json",
        output:
            folder=directory(f"{R}/data/pool-files"),
        log:
            f"{R}/logs/data/pool-files.log",
        benchmark:
            f"{R}/benchmarks/data/pool-files.jsonl"
        localrule: True
        conda:
            ENVIRONMENT
        params:
            code=code("mend.data.hub"),
        message:
            "downloading the pools of demonstrations"
        shell:
            "python -m mend download-files --spec {input.spec:q} --output {output.folder:q}"
            " --log {log:q}"

    rule pool:
        # Files that have all tasks together become larger train files in MetaICL's layout.
        input:
            pool_source,
            spec=f"{R}/data/pool.spec.json",
        output:
            folder=directory(f"{R}/data/pool"),
        log:
            f"{R}/logs/data/pool.log",
        benchmark:
            f"{R}/benchmarks/data/pool.jsonl"
        conda:
            ENVIRONMENT
        params:
            files=CONFIGURATION.pool_files,
            code=code("mend.data.pool"),
        message:
            "reading the pools of demonstrations"
        shell:
            "python -m mend pool --spec {input.spec:q} --files {params.files:q}"
            " --output {output.folder:q} --log {log:q}"


if CONFIGURATION.own_tasks:

    rule own_tasks:
        # Tables of one's own become tasks in MetaICL's layout.
        input:
            own_rows,
            spec=f"{R}/data/own-tasks.spec.json",
        output:
            folder=directory(f"{R}/data/own-tasks"),
        log:
            f"{R}/logs/data/own-tasks.log",
        benchmark:
            f"{R}/benchmarks/data/own-tasks.jsonl"
        conda:
            ENVIRONMENT
        params:
            code=code("mend.data.own_tasks"),
        message:
            "reading the rows of your own tasks"
        shell:
            "python -m mend own-tasks --spec {input.spec:q} --output {output.folder:q}"
            " --log {log:q}"


rule tasks:
    # Rows in MetaICL's layout become one Parquet file for each task.
    input:
        benchmark_rows,
        unpack(pool_folder),
        unpack(own_folder),
        spec=f"{R}/data/tasks.spec.json",
    output:
        folder=directory(f"{R}/data/tasks"),
    log:
        f"{R}/logs/data/tasks.log",
    benchmark:
        f"{R}/benchmarks/data/tasks.jsonl"
    conda:
        ENVIRONMENT
    params:
        folder=CONFIGURATION.benchmark_folder,
        optional=lambda wildcards, input: flags(input, "pool", "own"),
        code=code("mend.data.tasks"),
    message:
        "reading the tasks' rows"
    shell:
        "python -m mend tasks --spec {input.spec:q} --folder {params.folder:q}"
        " {params.optional:q} --output {output.folder:q} --log {log:q}"


rule chunks:
    # Running text becomes chunks of tokens of an LLM.
    input:
        corpus_source,
        lambda wildcards: model_files(VALUES.llms[wildcards.llm].path),
        spec=f"{R}/data/chunks/{{llm}}.spec.json",
    output:
        f"{R}/data/chunks/{{llm}}.parquet",
    log:
        f"{R}/logs/data/chunks/{{llm}}.log",
    benchmark:
        f"{R}/benchmarks/data/chunks/{{llm}}.jsonl"
    priority: 30
    conda:
        ENVIRONMENT
    threads: CORES_PER_PROCESSOR
    params:
        files=CONFIGURATION.corpus_files,
        code=code("mend.data.corpus"),
    message:
        "cutting the corpus into chunks of tokens of {wildcards.llm}"
    shell:
        "python -m mend chunks --spec {input.spec:q} --files {params.files:q} --output {output:q}"
        " --log {log:q}"


rule train_episodes:
    input:
        tasks=f"{R}/data/tasks",
        spec=f"{R}/data/episodes/train/{{partition}}.spec.json",
    output:
        f"{R}/data/episodes/train/{{partition}}.parquet",
    log:
        f"{R}/logs/data/episodes/train/{{partition}}.log",
    benchmark:
        f"{R}/benchmarks/data/episodes/train/{{partition}}.jsonl"
    conda:
        ENVIRONMENT
    params:
        code=code("mend.data.training_episodes"),
    message:
        "sampling training episodes of {wildcards.partition}"
    shell:
        "python -m mend train-episodes --spec {input.spec:q} --tasks {input.tasks:q}"
        " --output {output:q} --log {log:q}"


rule evaluation_episodes:
    input:
        retrieval_model,
        tasks=f"{R}/data/tasks",
        spec=f"{R}/data/episodes/{{sampling}}/{{split}}.spec.json",
    output:
        f"{R}/data/episodes/{{sampling}}/{{split}}.parquet",
    log:
        f"{R}/logs/data/episodes/{{sampling}}/{{split}}.log",
    benchmark:
        f"{R}/benchmarks/data/episodes/{{sampling}}/{{split}}.jsonl"
    wildcard_constraints:
        split="dev|test",
        sampling="[^/]*shots=[^/]*",
    conda:
        ENVIRONMENT
    params:
        code=episodes_code,
    message:
        "choosing the demonstrations of {wildcards.split} rows: {wildcards.sampling}"
    shell:
        "python -m mend evaluation-episodes --spec {input.spec:q} --tasks {input.tasks:q}"
        " --split {wildcards.split} --output {output:q} --log {log:q}"
