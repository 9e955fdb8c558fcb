# Needs: every table and figure of the configuration, and what training runs recorded.
# Makes: report.html, one page with all of them.

from mend.configuration.report_spec import report_files


rule report_page:
    input:
        glob(f"{PACKAGE}/paper/*.csv"),
        glob(f"{PACKAGE}/reporting/templates/*"),
        lambda wildcards: [f"{R}/{file}" for file in report_files(CONFIGURATION)],
        spec=f"{R}/report.spec.json",
    output:
        html=report(f"{R}/report.html", caption="../report/report.rst", category="Everything"),
    log:
        f"{R}/logs/report.log",
    benchmark:
        f"{R}/benchmarks/report.jsonl"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=code("mend.reporting.report"),
    message:
        "report: {output.html}"
    shell:
        "python -m mend report --spec {input.spec:q} --output {output.html:q} --log {log:q}"
