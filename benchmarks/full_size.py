"""What jobs at the paper's full shapes compute and take of memory, beside the plan; random weights.

`python benchmarks/full_size.py [LLM ...]` runs the workflow with config/paper.yaml as it is (l,
lengths, types), but for one step of 8 examples in each stage, the teacher's states of pretraining
kept, no early stopping, made-up rows and text, and a tokenizer of its own: no model and no data is
downloaded. Work and memory do not depend on weights. It prints what the jobs measured beside what
`mend plan` says of them.

On 2 processors GPT-2 large takes some 3 minutes and 15 GB of memory; the models are written to the
temporary folder (GPT-2 large 2 GB, OPT-6.7B 14 GB) and removed. No part of `make bench`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from chunks import documents, save_documents, save_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mend.configuration.loading import Configuration, load_configuration, read_values
from mend.configuration.paths import parse_job_path
from mend.configuration.presets import with_preset
from mend.configuration.task_list import partition_needs, read_task_list
from mend.data.layout import benchmark_files
from mend.planning.architectures import KNOWN
from mend.planning.costs import FRAGMENTED, RESERVED
from mend.planning.jobs import Models, training_job

ROOT = Path(__file__).parent.parent
PARTITION = "class_to_class"
JOBS = {"pretrain": "pretrain", "finetune": f"{PARTITION}/finetune"}
HEADERS = (
    "LLM",
    "stage",
    "type",
    "parameters, 10^9",
    "10^12 operations",
    "planned",
    "GB",
    "planned",
)
WORDS, ROWS = 40, 40  # of a row, some 57 tokens, and of a file: 16 rows fill the longest context


def main() -> int:
    """Run each LLM's two steps; print a Markdown table."""
    paper = with_preset(read_values(ROOT / "config/paper.yaml"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llms", nargs="*", default=["gpt2-large"], metavar="LLM")
    parser.add_argument("--micro-batch-size", type=int, help="examples at once, where memory ends")
    arguments = parser.parse_args()
    llms = arguments.llms
    if arguments.micro_batch_size is not None:
        for stage in JOBS:
            paper["training"][stage]["micro_batch_size"] = arguments.micro_batch_size
    if unknown := sorted(set(llms) - set(paper["llms"])):
        parser.error(f"no LLM {unknown[0]} in config/paper.yaml: {', '.join(paper['llms'])}")
    print(f"| {' | '.join(HEADERS)} |\n|{'---|' * len(HEADERS)}", flush=True)
    for llm in llms:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(paper, llm, Path(folder)):
                print(f"| {' | '.join(row)} |", flush=True)
    return 0


def measure(paper: Mapping[str, Any], llm: str, folder: Path) -> Iterator[list[str]]:
    """Run one LLM's two steps in a folder; yield a row of the table for each."""
    values = copy.deepcopy(dict(paper))
    values["results"] = str(folder / "results")
    benchmark, model = values["benchmark"], values["llms"][llm]
    benchmark["tasks"] = {"source": "folder", "folder": str(folder / "tasks")}
    benchmark["corpus"] |= {"source": "folder", "folder": str(folder), "files": ["text.jsonl"]}
    del benchmark["corpus"]["repository"], benchmark["corpus"]["revision"]
    benchmark["missing_tasks"] = "skip"
    for stage in JOBS:
        values["training"][stage] |= {"steps": 1, "early_stopping": None, "log_every": 1}
    model.pop("training", None)
    values["training"]["pretrain"]["teacher_cache"] = True
    write_tasks(benchmark, folder / "tasks")
    save_documents(documents(megabytes=1), folder / "text.jsonl")
    torch.manual_seed(0)
    for place, name in ((model, "llm"), (model["distiller"], "distiller")):
        write_model(place["path"], model["dtype"], folder / name)
        place["path"] = str(folder / name)
    file = folder / "configuration.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    run = f"runs/{llm}/mend/default"
    run_workflow([f"{values['results']}/{run}/{job}/record.json" for job in JOBS.values()], file)
    configuration = load_configuration(values, [file])
    for stage, job in JOBS.items():
        yield [llm, stage, model["dtype"], *measured(configuration, f"{run}/{job}")]


def write_tasks(benchmark: Mapping[str, Any], folder: Path) -> None:
    """Write two tasks of a partition in MetaICL's layout, their rows made of random words."""
    tasks = read_task_list(ROOT / benchmark["task_list"])
    [needs] = partition_needs(tasks, [PARTITION]).values()
    texts = documents(megabytes=2)
    for file in benchmark_files(needs["train"][:1], needs["test"][:1], benchmark["seeds"]):
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as stream:
            for number in range(ROWS):
                text = " ".join(next(texts).split()[:WORDS])
                row = {"task": file.task, "input": text, "output": ("yes", "no")[number % 2]}
                stream.write(json.dumps({**row, "options": ["yes", "no"]}) + "\n")


def write_model(name: str, dtype: str, folder: Path) -> None:
    """Write a random model of a published shape, and a tokenizer, as transformers has them."""
    sizes = yaml.safe_load(KNOWN.read_text(encoding="utf-8"))[name]
    config = AutoConfig.for_model(**{key: sizes[key] for key in sizes if key != "published"})
    if config.model_type == "opt":
        config.word_embed_proj_dim = config.hidden_size
    if config.model_type == "t5":
        config.decoder_start_token_id = config.pad_token_id
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="2GB")  # a file is copied before it is written
    save_tokenizer(folder)


def run_workflow(targets: list[str], file: Path) -> None:
    """Run Snakemake, a job at a time with all processors."""
    processors = len(os.sched_getaffinity(0))
    threads = [f"{rule}={processors}" for rule in ("pretraining_teacher", "pretrain", "finetune")]
    command = ["snakemake", "--nolock", "--cores", str(processors), "--configfile", str(file)]
    command += ["--set-threads", *threads, "--", *targets]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)


def measured(configuration: Configuration, job: str) -> list[str]:
    """Return what a job measured of itself, beside its plan."""
    planned = training_job(configuration, Models(configuration.values), parse_job_path(job))
    results = Path(configuration.results)
    record = json.loads((results / job / "record.json").read_text(encoding="utf-8"))
    memory = (planned.memory - RESERVED) / FRAGMENTED  # both are CUDA's
    sizes = Models(configuration.values)("", configuration.values.llms[record["llm"]].path)
    return [
        f"{sizes.parameters / 1e9:.2f}",
        f"{record['flops'] / 1e12:.1f}",
        f"{planned.work.flops / 1e12:.1f}",
        f"{record['peak_memory_bytes'] / 1e9:.1f}",
        f"{memory / 1e9:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
