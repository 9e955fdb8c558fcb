"""A language model from a GGUF file: the numbers, the words and the file that is pinned."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mend.configuration.specs.gguf_models import GGUFModel
from mend.configuration.specs.run import LLMSource
from mend.errors import UserError
from mend.models.gguf_models import convert_gguf
from mend.models.loading import load_llm
from mend.models.local_models import train_tokenizer

gguf = pytest.importorskip("gguf", reason="the package gguf (pip install 'mend-icl[gguf]')")

WIDTH, HEADS, KEY_VALUES = 32, 4, 2
TEXTS = ["day 1: rain and sun", "day 2: sun, no rain", "été, naïve; 12 + 3.5 is 15.5"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM, object]:
    """Return a tiny GGUF file of 8 bits, the model with its rounded weights, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 280)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUES,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUES)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("z"))
    writer.add_add_bos_token(False)
    for special in ("eos", "pad", "unk"):
        getattr(writer, f"add_{special}_token_id")(tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor += 0.3 * torch.randn_like(tensor)
            heads = {"q_proj": HEADS, "k_proj": KEY_VALUES}.get(name.split(".")[-2])
            stored = tensor.detach().clone()
            if heads:  # GGUF has the halves that a rotation turns beside each other
                halves = stored.view(heads, 2, -1, WIDTH)
                stored = halves.transpose(1, 2).reshape(stored.shape)
            kind = gguf.GGMLQuantizationType.Q8_0 if tensor.dim() > 1 else None
            values = stored.numpy()
            if kind is not None:
                values = gguf.quants.quantize(values, kind)
                rounded = torch.from_numpy(gguf.quants.dequantize(values, kind))
                if heads:
                    rounded = rounded.view(heads, -1, 2, WIDTH).transpose(1, 2)
                tensor.copy_(rounded.reshape(tensor.shape))
            writer.add_tensor(names.get_name(name, (".weight",)), values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model, tokenizer


def specification(*paths: Path | str, of: Path) -> GGUFModel:
    sha256 = hashlib.sha256(of.read_bytes()).hexdigest()
    return GGUFModel(files=[str(path) for path in paths], sha256=sha256)


def test_weights_and_words_are_those_of_the_file(written, tmp_path: Path) -> None:
    path, model, tokenizer = written
    convert_gguf(specification(path, of=path), tmp_path / "folder")
    llm = load_llm(LLMSource(name="tiny", path=str(tmp_path / "folder"), local_files_only=True))
    found = dict(llm.model.named_parameters())
    for name, wanted in model.named_parameters():
        assert torch.equal(found.pop(name), wanted), name
    assert not found
    for text in TEXTS:
        assert llm.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert llm.tokenizer.decode(llm.tokenizer(text)["input_ids"]) == text
    assert llm.tokenizer.eos_token_id == tokenizer.eos_token_id
    assert llm.tokenizer.bos_token == "z"
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    torch.testing.assert_close(llm.model(ids).logits, model(ids).logits)
    assert llm.max_positions == 64
    assert not (tmp_path / "folder" / "model.gguf").exists()


def test_parts_of_a_package_are_joined_in_order(written, tmp_path: Path, monkeypatch) -> None:
    path, content = written[0], written[0].read_bytes()
    package = tmp_path / "tiny_weights"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('its code was run')")
    (package / "data/part1").write_bytes(content[:1000])
    (package / "data/part2").write_bytes(content[1000:])
    monkeypatch.syspath_prepend(tmp_path)
    parts = [f"tiny_weights/data/part{number}" for number in (1, 2)]
    convert_gguf(specification(*parts, of=path), tmp_path / "folder")
    assert (tmp_path / "folder/model.safetensors").is_file()
    with pytest.raises(UserError, match="another file than the one that is pinned"):
        convert_gguf(specification(*reversed(parts), of=path), tmp_path / "other")
    with pytest.raises(UserError, match="tiny_weights has no file data/part3"):
        convert_gguf(specification("tiny_weights/data/part3", of=path), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_no_gguf_is_one_line_and_leaves_nothing(written, tmp_path: Path) -> None:
    for name, content in (("text", b"GGUF or not"), ("cut", written[0].read_bytes()[:5000])):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"cannot load the GGUF model '{file}': GGUF: ") as told:
            convert_gguf(specification(file, of=file), tmp_path / "folder")
        assert "\n" not in str(told.value)
        assert not (tmp_path / "folder").exists()


def test_packages_that_are_not_installed_are_named(written, tmp_path: Path, monkeypatch) -> None:
    missing = specification("no_such_package/a.gguf", of=written[0])
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        convert_gguf(missing, tmp_path / "folder")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'mend-icl\[gguf\]'"):
        convert_gguf(specification(written[0], of=written[0]), tmp_path / "folder")


def test_a_tokenizer_that_transformers_misreads_is_refused(
    written, tmp_path: Path, monkeypatch
) -> None:
    path = written[0]
    other = train_tokenizer(["some other text, of other words"], 280)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *given, **options: other)
    with pytest.raises(UserError, match="misreads the tokenizer of this GGUF file"):
        convert_gguf(specification(path, of=path), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
