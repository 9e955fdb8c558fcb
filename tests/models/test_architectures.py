"""Every architecture: the right score, after tokens and after vectors, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.architectures import ARCHITECTURES, CHECKS, ENCODERS, Architecture, installed, tiny
from helpers.models import word_tokenizer

from mend.configuration.specs.run import LLMSource
from mend.errors import UserError
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm


def loaded(architecture: Architecture, folder: Path) -> FrozenLLM:
    """Load the tiny model as a job does."""
    tiny(architecture).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    source = LLMSource(name="tiny", path=str(folder), dtype="float32", local_files_only=True)
    return load_llm(source)


def refused(architecture: Architecture, folder: Path) -> str | None:
    """Return what a job says that may not use the model, None if it may."""
    try:
        loaded(architecture, folder)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", installed(ARCHITECTURES))
@pytest.mark.parametrize("check", CHECKS)
def test_as_the_model_itself_or_refused_by_name(name: str, check: str, tmp_path) -> None:
    """Equal to the model's own unpadded passes, one row at a time.

    So are scores in padded batches with several queries a context, inside a window and beyond it.
    """
    architecture = ARCHITECTURES[name]
    model_type = architecture.model_type
    if architecture.may_be_refused and (told := refused(architecture, tmp_path)):
        assert model_type in told
        return
    if not architecture.vectors and check not in ("tokens", "prefix"):
        with pytest.raises(UserError, match=model_type):
            CHECKS[check](name)
        return
    if name == "llama, dynamic rope":
        # Beyond its positions each pass rotates as the longest before it said.
        with pytest.raises(UserError, match="longer than"):
            CHECKS[check](name)
        return
    assert CHECKS[check](name) < 1e-4


@pytest.mark.parametrize(
    "name", installed({name: one for name, one in ARCHITECTURES.items() if one.required})
)
def test_a_required_architecture_is_not_refused(name: str, tmp_path) -> None:
    told = refused(ARCHITECTURES[name], tmp_path)
    if ARCHITECTURES[name].may_be_refused:
        assert "look ahead" in told
    else:
        assert told is None


@pytest.mark.parametrize("name", installed(ENCODERS))
def test_what_reads_in_both_directions_is_refused_by_name(name: str, tmp_path) -> None:
    with pytest.raises(UserError, match=name):
        loaded(ENCODERS[name], tmp_path)
