# Needs: predictions, and the records of what their training cost.
# Makes: tables, each as CSV, Parquet and HTML, and pictures of the studies that vary something.


rule table1:
    input:
        glob(f"{PACKAGE}/paper/*.csv"),
        glob(f"{PACKAGE}/reporting/templates/*"),
        lambda wildcards: [
            file
            for name in VALUES.studies["table2"].llms
            for file in model_files(VALUES.llms[name].path)
        ],
        tasks=f"{R}/data/tasks",
        spec=f"{R}/table1.spec.json",
    output:
        csv=f"{R}/table1.csv",
        parquet=f"{R}/table1.parquet",
        html=report(f"{R}/table1.html", caption="../report/table1.rst", category="Tables"),
    log:
        f"{R}/logs/table1.log",
    benchmark:
        f"{R}/benchmarks/table1.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.tables.table1"),
    message:
        "table 1: {output.html}"
    shell:
        "python -m mend table1 --spec {input.spec:q} --tasks {input.tasks:q}"
        " --csv {output.csv:q} --parquet {output.parquet:q} --html {output.html:q} --log {log:q}"


rule table5:
    input:
        glob(f"{PACKAGE}/paper/*.csv"),
        glob(f"{PACKAGE}/reporting/templates/*"),
        spec=f"{R}/table5.spec.json",
    output:
        csv=f"{R}/table5.csv",
        parquet=f"{R}/table5.parquet",
        html=report(f"{R}/table5.html", caption="../report/table5.rst", category="Tables"),
    log:
        f"{R}/logs/table5.log",
    benchmark:
        f"{R}/benchmarks/table5.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.tables.table5"),
    message:
        "table 5: {output.html}"
    shell:
        "python -m mend table5 --spec {input.spec:q} --csv {output.csv:q}"
        " --parquet {output.parquet:q} --html {output.html:q} --log {log:q}"


rule study:
    input:
        glob(f"{PACKAGE}/paper/*.csv"),
        glob(f"{PACKAGE}/reporting/templates/*"),
        predictions=lambda wildcards: study_files(wildcards.study, "predictions"),
        records=lambda wildcards: study_files(wildcards.study, "records"),
        choices=lambda wildcards: study_files(wildcards.study, "choices"),
        spec=f"{R}/{{study}}.spec.json",
    output:
        csv=f"{R}/{{study}}.csv",
        parquet=f"{R}/{{study}}.parquet",
        html=report(f"{R}/{{study}}.html", caption="../report/study.rst", category="Tables"),
        details=f"{R}/{{study}}.details.json",
    log:
        f"{R}/logs/{{study}}.log",
    benchmark:
        f"{R}/benchmarks/{{study}}.jsonl"
    wildcard_constraints:
        study=one_of(STUDIES),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.studies"),
    message:
        "study: {output.html}"
    shell:
        "python -m mend study --spec {input.spec:q} --predictions {input.predictions:q}"
        " --records {input.records:q} --choices {input.choices:q} --csv {output.csv:q} --parquet {output.parquet:q}"
        " --html {output.html:q} --details {output.details:q} --log {log:q}"


rule candidates:
    # All that was tried: what dev scores chose among.
    input:
        choices=[f"{R}/{folder}/record.json" for folder in CHOICES],
    output:
        csv=f"{R}/candidates.csv",
        parquet=f"{R}/candidates.parquet",
    log:
        f"{R}/logs/candidates.log",
    benchmark:
        f"{R}/benchmarks/candidates.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.candidates"),
    message:
        "all that was tried: {output.csv}"
    shell:
        "python -m mend candidates --choices {input.choices:q} --csv {output.csv:q}"
        " --parquet {output.parquet:q} --log {log:q}"


rule learning_curves:
    input:
        lambda wildcards: study_files(wildcards.study, "records"),
        lambda wildcards: study_files(wildcards.study, "metrics"),
        lambda wildcards: study_files(wildcards.study, "choices"),
        spec=f"{R}/{{study}}.spec.json",
    output:
        png=report(
            f"{R}/{{study}}.learning-curves.png",
            caption="../report/figure.rst",
            category="Figures",
        ),
        parquet=f"{R}/{{study}}.learning-curves.parquet",
    log:
        f"{R}/logs/{{study}}.learning-curves.log",
    benchmark:
        f"{R}/benchmarks/{{study}}.learning-curves.jsonl"
    wildcard_constraints:
        study=one_of(STUDIES),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        trainings=lambda wildcards: folders_of(wildcards.study, "records"),
        choices=lambda wildcards: folders_of(wildcards.study, "choices"),
        code=code("mend.reporting.figures.learning_curves"),
    message:
        "figure: {output.png}"
    shell:
        "python -m mend learning-curves --spec {input.spec:q} --trainings {params.trainings:q}"
        " --choices {params.choices:q} --png {output.png:q} --parquet {output.parquet:q}"
        " --log {log:q}"


rule costs_figure:
    input:
        spec=f"{R}/{{study}}.spec.json",
        table=f"{R}/{{study}}.parquet",
    output:
        png=report(f"{R}/{{study}}.costs.png", caption="../report/figure.rst", category="Figures"),
        parquet=f"{R}/{{study}}.costs.parquet",
    log:
        f"{R}/logs/{{study}}.costs.log",
    benchmark:
        f"{R}/benchmarks/{{study}}.costs.jsonl"
    wildcard_constraints:
        study=one_of(STUDIES),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.figures.costs"),
    message:
        "figure: {output.png}"
    shell:
        "python -m mend costs-figure --spec {input.spec:q} --table {input.table:q}"
        " --png {output.png:q} --parquet {output.parquet:q} --log {log:q}"


rule figure:
    # Studies that vary something, side by side.
    input:
        specs=lambda wildcards: [f"{R}/{name}.spec.json" for name in FIGURES[wildcards.figure]],
        tables=lambda wildcards: [f"{R}/{name}.parquet" for name in FIGURES[wildcards.figure]],
    output:
        png=report(f"{R}/{{figure}}.png", caption="../report/figure.rst", category="Figures"),
        parquet=f"{R}/{{figure}}.parquet",
    log:
        f"{R}/logs/{{figure}}.log",
    benchmark:
        f"{R}/benchmarks/{{figure}}.jsonl"
    wildcard_constraints:
        figure=one_of(FIGURES),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.figures.study"),
    message:
        "figure: {output.png}"
    shell:
        "python -m mend figure --specs {input.specs:q} --tables {input.tables:q}"
        " --png {output.png:q} --parquet {output.parquet:q} --log {log:q}"


rule study_figure:
    # What it shows is in the study's own NAME.parquet.
    input:
        specs=f"{R}/{{study}}.spec.json",
        tables=f"{R}/{{study}}.parquet",
    output:
        png=report(f"{R}/{{study}}.png", caption="../report/figure.rst", category="Figures"),
    log:
        f"{R}/logs/{{study}}.png.log",
    benchmark:
        f"{R}/benchmarks/{{study}}.png.jsonl"
    wildcard_constraints:
        study=one_of(ALONE),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.figures.study"),
    message:
        "figure: {output.png}"
    shell:
        "python -m mend figure --specs {input.specs:q} --tables {input.tables:q}"
        " --png {output.png:q} --log {log:q}"
