"""The model class of lm-evaluation-harness: its few-shot text becomes contexts.

The harness's own package is needed for it (the extra `eval`), and nothing else imports this module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from mend.errors import UserError
from mend.harness.prompts import Delimiters, Prompt, read, write
from mend.harness.reader import PromptReader
from mend.library.context import Context
from mend.library.llms import load_llm
from mend.library.methods import ContextMethod
from mend.methods.saved import DESCRIPTION

#: What reads demonstrations as text, or none, and needs no training.
BASELINES = ("vanilla-icl", "zero-shot")


class ContextLM(LM):
    """A method of in-context learning, or a saved context, as a model of the harness.

    What the LLM reads as text (the task's description, the query, continuations, and a baseline's
    demonstrations) is what a stock `hf` model reads, token by token. In place of demonstrations as
    text a trained method gives vectors, each distinct set distilled once; description and query
    come after them, as a query comes in its training.
    """

    def __init__(
        self,
        pretrained: str,
        method: str | None = None,
        shots: int | None = None,
        context: str | None = None,
        llm: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **others: Any,
    ) -> None:
        """Load what `--model_args` names.

        pretrained: the folder of a trained method, or its name on the hub; for a baseline or a
        saved context the LLM's does as well. method: "vanilla-icl" or "zero-shot" for a baseline
        with the same LLM; otherwise the trained method, whose name may be given.
        shots: how many of each set's demonstrations are read, from the first on; all if not given.
        context: the folder of a saved context, which is read instead of demonstrations.
        llm: where the LLM is, if not where the method was trained with it. revision: of
        `pretrained` on the hub. dtype: of the LLM.
        device, batch_size, max_batch_size: what the harness passes on; with a batch size of 1 or
        "auto" as many continuations are read at once as the memory allows.
        Raises UserError for whatever cannot be loaded, and for settings that do not go together.
        """
        super().__init__()
        if others:
            raise UserError(
                f"--model_args: {sorted(others)[0]} is not known; there are pretrained, method, "
                "shots, context, llm, revision and dtype"
            )
        if shots is not None and (type(shots) is not int or shots < 0):
            raise UserError(f"--model_args: shots={shots!r} is no number of demonstrations")
        if context is not None and (method is not None or shots is not None):
            raise UserError(
                "--model_args: context is read instead of demonstrations; leave method and shots "
                "out"
            )
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            device = None  # what the harness asks for where nobody asked for anything
        loading = {"dtype": dtype, "device": device}
        loading = {name: value for name, value in loading.items() if value is not None}
        trained = None
        if _is_method(pretrained, revision):
            trained = ContextMethod.from_pretrained(pretrained, llm, revision=revision, **loading)
            frozen = trained.llm
        elif llm is not None:
            raise UserError("--model_args: llm is for a trained method; name the LLM as pretrained")
        else:
            frozen = load_llm(pretrained, revision=revision, **loading)
        if context is not None or method in BASELINES:
            trained = None
        elif trained is None:
            raise UserError(
                f"--model_args: {pretrained} is no trained method; for an LLM choose "
                f"method={' or method='.join(BASELINES)}, or a context"
            )
        elif method not in (None, trained.name):
            raise UserError(f"--model_args: {pretrained} holds {trained.name}, not {method}")
        self.name = "context" if context else method or trained.name
        saved = None if context is None else Context.from_pretrained(context, frozen)
        shots = 0 if method == "zero-shot" else shots
        self.reader = PromptReader(frozen, trained, saved, shots)
        self._batch_size = batch_size if isinstance(batch_size, int) and batch_size > 1 else None
        self._device = frozen.device

    @property
    def tokenizer_name(self) -> str:
        """What the harness's cache of requests knows the prompts by."""
        return "mend-turns"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return what the harness writes down as the template."""
        return "mend: demonstrations are kept apart from the query"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return turns as a text that `loglikelihood` and `generate_until` take apart."""
        task = _calling_task(sys._getframe(1))
        roles = [turn["role"] for turn in chat_history]
        if task is not None and task.config.num_fewshot and roles.count("user") == 1:
            raise UserError(
                "the harness put all demonstrations into one turn, where they cannot be told from "
                "the query; start it with --fewshot_as_multiturn true"
            )
        return write(chat_history, _delimiters(task), answer_begins=not add_generation_prompt)

    def get_model_info(self) -> dict[str, Any]:
        """Return what stands in the results beside the numbers."""
        return {
            "mend_method": self.name,
            "mend_shots": self.reader.shots,
            "mend_sets_distilled": self.reader.distilled,
            "model_dtype": str(self.reader.llm.dtype),
        }

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and whether greedy decoding writes it."""
        prompts = _prompts(requests)
        # A request without any context does not say what its task puts before a continuation.
        of_task = {
            request.task_name: prompt.before_continuation
            for request, prompt in zip(requests, prompts, strict=True)
            if prompt
        }
        texts = [of_task.get(one.task_name, "") + one.args[1] for one in requests]
        found = self.reader.log_likelihoods(prompts, texts, self._batch_size)
        answers = [(one.total, one.is_greedy) for one in found]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return what is written after each prompt, up to the first of its stops."""
        prompts = _prompts(requests)
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        tokenizer = self.reader.llm.tokenizer
        end = tokenizer.eos_token_id
        found: dict[int, str] = {}
        for numbers in alike.values():
            options = dict(normalize_gen_kwargs(requests[numbers[0]].args[1]))
            stops = handle_stop_sequences(
                options.pop("until", None), None if end is None else tokenizer.decode(end)
            )
            new_tokens = options.pop("max_gen_toks")
            if not options.get("do_sample"):
                options.pop("temperature", None)  # 0, of which transformers warns
            chosen = [prompts[number] for number in numbers]
            texts = self.reader.generate(chosen, new_tokens, stops, **options)
            for number, text in zip(numbers, texts, strict=True):
                found[number] = postprocess_generated_text(text, stops, None)
                self.cache_hook.add_partial("generate_until", requests[number].args, found[number])
        return [found[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuse, by a UserError: a text by itself has no demonstrations."""
        raise UserError(
            "loglikelihood_rolling (perplexity of a text by itself) has no demonstrations that "
            "could become a context; run its tasks with --model hf"
        )


def _prompts(requests: list[Instance]) -> list[Prompt | None]:
    """Return the parts of each request's prompt; None where there is no text before the answer."""
    return [read(request.args[0]) if request.args[0] else None for request in requests]


def _is_method(path: str, revision: str | None) -> bool:
    """Whether a folder or a name on the hub holds a trained method, and not an LLM."""
    if Path(path).is_dir():
        return (Path(path) / DESCRIPTION).is_file()
    from huggingface_hub import file_exists, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(path, DESCRIPTION, revision=revision)
        return isinstance(cached, str) or file_exists(path, DESCRIPTION, revision=revision)
    except Exception:  # no name of the hub's, or no hub: what loads it says so
        return False


def _calling_task(frame: FrameType | None) -> Task | None:
    """Return the task whose prompt is being written.

    The harness does not tell a model, which therefore looks at who called it.
    """
    while frame is not None and not isinstance(frame.f_locals.get("self"), Task):
        frame = frame.f_back
    return frame and frame.f_locals["self"]


def _delimiters(task: Task | None) -> Delimiters:
    """Return what a task puts between the parts of its prompts."""
    if task is None:
        return Delimiters()
    begins = task.config.gen_prefix
    kept = begins and not begins[-1:].isspace()
    is_left_out = task.OUTPUT_TYPE == "multiple_choice" and not kept
    return Delimiters(
        task.fewshot_cfg.target_delimiter,
        task.fewshot_cfg.fewshot_delimiter,
        task.config.target_delimiter if is_left_out else "",
    )
