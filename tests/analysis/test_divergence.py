"""The divergence from the teacher by position: against distributions that are read off apart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.jobs import SEED, specification
from helpers.models import READING, random_llm

from mend.analysis.divergence import divergences, run_divergence
from mend.configuration.specs.divergence import DivergenceSpec
from mend.configuration.specs.run import LLMSource, MethodSource, RunSpec
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.methods.built import build_method
from mend.models.frozen_llm import Rows
from mend.models.loading import frozen_llm, load_llm

DEMONSTRATIONS, QUERY, ANSWER = [5, 6, 7, 8, 9], [11, 12, 13], 21


def built(llm, name, **settings):
    source = MethodSource(name=name, settings=settings)
    run = RunSpec(llm=LLMSource(name="a", path="a"), method=source, reading=READING)
    return build_method(llm, run)


def item(demonstrations=DEMONSTRATIONS, query=QUERY, context=0):
    return MultipleChoiceItem(context, demonstrations, query, [[ANSWER], [22, 23]])


def logs_of(llm, embedded):
    """Log-probabilities of the token after each position of a decoder-only LLM's input."""
    with torch.no_grad():
        return llm.model(inputs_embeds=embedded).logits[0].log_softmax(-1)


def kl(teacher, student):
    return sum(p.exp() * (p - q) for p, q in zip(teacher, student, strict=True)).item()


def test_each_position_is_the_divergence_of_two_plain_readings() -> None:
    llm = random_llm("gpt2")
    method = built(llm, "prompt-tuning", length=2)
    teacher = built(llm, "vanilla-icl")
    text = llm.embedding(torch.tensor([[*QUERY, ANSWER]]))
    shown = llm.embedding(torch.tensor([DEMONSTRATIONS]))
    (_, prompt), *_ = method.named_parameters()
    expected_teacher = logs_of(llm, torch.cat([shown, text], 1))[4:8]
    expected_student = logs_of(llm, torch.cat([prompt[None].detach(), text], 1))[1:5]
    expected = [kl(*pair) for pair in zip(expected_teacher, expected_student, strict=True)]
    # A second row with another query after the same context, so that rows have different lengths.
    items = [item([]), item([], QUERY[:1])]
    taught = [item(), item(query=QUERY[:1])]
    found = list(divergences(llm, method, teacher, items, taught, [ANSWER, ANSWER]))
    assert [first for first, _ in found] == [0, 0]
    assert found[0][1] == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 1e-3
    assert len(found[1][1]) == 2
    assert found[1][1][0] == pytest.approx(expected[0], rel=1e-4)


def test_nothing_is_lost_by_reading_the_demonstrations() -> None:
    llm = random_llm("gpt2")
    teacher = built(llm, "vanilla-icl")
    ((first, values),) = divergences(llm, teacher, teacher, [item()], [item()], [ANSWER])
    assert first == 0
    assert values == pytest.approx([0] * 4, abs=1e-6)


def test_zero_shot_reads_the_teachers_query_from_its_second_token_on() -> None:
    """Nothing at all predicts a GPT-2's first token; a T5's is predicted by its start token."""
    for architecture, start in (("gpt2", 1), ("t5", 0)):
        llm = random_llm(architecture)
        methods = built(llm, "zero-shot"), built(llm, "vanilla-icl")
        # As a row without a context may be read: its own query is another.
        items = [item([], query=[31])]
        ((first, values),) = divergences(llm, *methods, items, [item()], [ANSWER])
        assert (first, len(values)) == (start, 4 - start)
        assert all(value > 0 for value in values)
    llm = random_llm("gpt2")
    text = [*QUERY, ANSWER]
    alone = logs_of(llm, llm.embedding(torch.tensor([text])))[:3]
    after = logs_of(llm, llm.embedding(torch.tensor([[*DEMONSTRATIONS, *text]])))[5:8]
    methods = built(llm, "zero-shot"), built(llm, "vanilla-icl")
    ((_, values),) = divergences(llm, *methods, [item([])], [item()], [ANSWER])
    assert values == pytest.approx([kl(*pair) for pair in zip(after, alone, strict=True)], rel=1e-4)


def test_a_query_in_the_encoder_is_not_predicted() -> None:
    llm = random_llm("t5")
    llm = frozen_llm(llm.model, llm.tokenizer, query_in="encoder")
    teacher, nothing = built(llm, "vanilla-icl"), built(llm, "zero-shot")
    alike = divergences(llm, teacher, teacher, [item()], [item()], [ANSWER])
    assert list(alike) == [(0, [pytest.approx(0, abs=1e-6)])]
    ((first, values),) = divergences(llm, nothing, teacher, [item([])], [item()], [ANSWER])
    assert (first, len(values)) == (0, 1)

    def after(read):
        rows = Rows([0], [[]], [[ANSWER]])
        with torch.no_grad():
            return llm.logits(llm.states(llm.token_context([read]), rows))[0, 0].log_softmax(-1)

    expected = kl(after([*DEMONSTRATIONS, *QUERY]), after(QUERY))
    assert values == [pytest.approx(expected, rel=1e-4)]


def job(folder: Path, architecture: str, *methods: str, seed: int = SEED) -> DivergenceSpec:
    runs = []
    for method in methods:
        run = specification(folder, architecture, method, stage="finetune")
        parts = {key: getattr(run, key) for key in RunSpec.model_fields}
        predict = {"tasks": ["parity"], "partition": "class_to_class", "variant": "default"}
        predict |= {"condition": "shots=3", "stage": "finetune"}
        if method == "zero-shot":
            parts["method"], predict["stage"] = MethodSource(name=method), None
        runs.append({**parts, "predict": predict})
    return DivergenceSpec(runs=runs, dev_seed=seed)


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_from_files_to_means_over_dev_rows(data: Path, tmp_path: Path, architecture) -> None:
    spec = job(tmp_path, architecture, "zero-shot", "mend")
    method = build_method(load_llm(spec.runs[1].llm), spec.runs[1])
    (tmp_path / "mend").mkdir()
    method.save(tmp_path / "mend/weights.safetensors", stage="finetune", partition="class_to_class")
    files = ([data / "dev.parquet"] * 2, data / "tasks", tmp_path / "out.parquet")
    run_divergence(spec, *files, [tmp_path / "mend"])
    table = pd.read_parquet(tmp_path / "out.parquet")
    # Six dev rows; every one has an answer.
    assert set(table["rows"]) == {6}
    assert set(table["task"]) == {"parity"}
    assert (table["divergence"] > 0).all()
    places = {
        (method, region): own["position"].tolist()
        for (method, region), own in table.groupby(["method", "region"])
    }
    longest = max(places["mend", "query"]) + 1
    assert longest >= 2
    first = 1 if architecture == "gpt2" else 0  # nothing predicts a GPT-2's first token
    assert places == {
        ("mend", "query"): list(range(longest)),
        ("zero-shot", "query"): list(range(first, longest)),
        ("mend", "answer"): [0],
        ("zero-shot", "answer"): [0],
    }


def test_what_cannot_be_measured_is_told(data: Path, tmp_path: Path) -> None:
    spec = job(tmp_path, "gpt2", "zero-shot", seed=7)
    files = ([data / "dev.parquet"], data / "tasks", tmp_path / "out.parquet")
    with pytest.raises(UserError, match="no dev rows of parity for seed 7"):
        run_divergence(spec, *files)
    with pytest.raises(UserError, match="--weights: 1 are named, and 0 runs need one"):
        run_divergence(spec, *files, [tmp_path])
    with pytest.raises(UserError, match="--episodes: 0 are named, and 1 runs need one"):
        run_divergence(spec, [], *files[1:])
    assert not (tmp_path / "out.parquet").exists()
