"""One answer to how many positions a model has: before any job, and in it."""

from __future__ import annotations

import json

import pytest
import transformers

from mend.configuration.positions import max_positions

MODELS = [
    ("GPT2Config", {"n_positions": 96}, 96),
    ("OpenAIGPTConfig", {"n_positions": 96}, 96),
    ("CTRLConfig", {"n_positions": 96}, 96),
    ("OPTConfig", {"max_position_embeddings": 96}, 96),
    ("LlamaConfig", {"max_position_embeddings": 96}, 96),
    ("LlamaConfig", {}, 2048),
    ("MptConfig", {"max_seq_len": 96}, 96),
    ("GPTNeoConfig", {"max_position_embeddings": 96, "window_size": 40}, 96),
    ("MistralConfig", {"max_position_embeddings": 96, "sliding_window": 40}, 96),
    ("Gemma3TextConfig", {"max_position_embeddings": 256, "sliding_window": 64}, 256),
    ("FalconConfig", {"max_position_embeddings": 96}, 96),
    ("FalconConfig", {"max_position_embeddings": 96, "alibi": True}, None),
    (
        "Phi3Config",
        {"max_position_embeddings": 96, "original_max_position_embeddings": 24},
        96,
    ),
    ("BloomConfig", {}, None),
    ("MambaConfig", {}, None),
    ("T5Config", {}, None),
]


@pytest.mark.parametrize(("configuration", "arguments", "positions"), MODELS)
def test_a_file_and_a_loaded_configuration_say_the_same(
    configuration: str, arguments: dict, positions: int | None, tmp_path
) -> None:
    loaded = getattr(transformers, configuration)(**arguments)
    loaded.save_pretrained(tmp_path)
    assert max_positions(loaded.to_dict()) == positions
    assert max_positions(json.loads((tmp_path / "config.json").read_text())) == positions


def test_a_text_model_within_another_is_the_one_that_reads() -> None:
    inner = {"model_type": "gemma3_text", "max_position_embeddings": 96}
    assert max_positions({"text_config": inner, "max_position_embeddings": 7}) == 96


@pytest.mark.parametrize("value", ["many", -1, 0, 1.5, True, [96]])
def test_what_is_no_number_is_told(value) -> None:
    with pytest.raises(ValueError, match="n_positions: .* is no number of positions"):
        max_positions({"n_positions": value})
