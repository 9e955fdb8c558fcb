"""The report's list of rules is that of Snakemake, whatever the configuration has."""

from __future__ import annotations

import copy
import re

import yaml
from helpers.workflow import ROOT

from mend.configuration.loading import load_configuration
from mend.configuration.report_spec import workflow_rules
from mend.reporting.report.graph import reduced


def everything(values: dict) -> dict:
    """The toy configuration with all studies and figures of the default, on its two partitions."""
    default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    values = copy.deepcopy(values)
    values["studies"] = default["studies"]
    values["figures"] = default["figures"]
    for study in values["studies"].values():
        study["partitions"] = ["class_to_class", "qa_to_qa"]
    partitions = {"partitions": ["class_to_class"]}
    values["efficiency"] = {**default["efficiency"], **partitions}
    values["attention"] = default["attention"]
    return values


def test_rules_and_their_jobs_are_those_of_snakemake(workflow, monkeypatch) -> None:
    values = everything(workflow.values)
    listed = workflow.snakemake("-n", "report", values=values).text
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", listed, flags=re.MULTILINE))
    for name in ("spec", "report", "total"):
        jobs.pop(name)
    monkeypatch.chdir(workflow.folder)
    rules = workflow_rules(load_configuration(values))
    assert {rule["rule"]: str(rule["jobs"]) for rule in rules} == jobs

    drawn = workflow.snakemake("report", "--rulegraph", values=values).text
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', drawn))
    after: dict[str, list[str]] = {rule["rule"]: [] for rule in rules}
    for source, target in re.findall(r"(\d+) -> (\d+)", drawn):
        if names[source] in after and names[target] in after:
            after[names[target]].append(names[source])
    ours = {rule["rule"]: rule["after"] for rule in rules[:-1]}
    theirs = {rule: after[rule] for rule in ours}
    assert sets(reduced(ours)) == sets(reduced(theirs))


def sets(after: dict[str, list[str]]) -> dict[str, set[str]]:
    return {rule: set(sources) for rule, sources in after.items()}
