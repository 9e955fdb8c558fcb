"""Damage to what jobs load: models, trained weights, a teacher's states, checkpoints, records.

Each damage changes files of a `Workshop`, a folder with a tiny run, and says what is right then:
`refused`, one clear line; `same`, the results of undamaged input; `either` of them; `runs`, a run
with finite numbers, or one line (what is damaged cannot be told from another model).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.fuzzing import within
from helpers.jobs import changed, prediction, pretraining, teacher_examples
from helpers.models import random_llm
from mend.cli import parser
from mend.configuration.specs.run import MethodSource
from mend.configuration.specs.teacher import TeacherSpec
from mend.errors import UserError
from mend.models.fingerprint import as_bytes
from mend.progress import logger

#: A job of a tiny run takes less than a second or two.
LONGEST_SECONDS = 60
ARCHITECTURES = ("gpt2", "llama", "t5")


class Workshop:
    """A folder with models, data, a pretrained and a finetuned MEND, a teacher's states and a
    checkpoint, which is made once and put back after each damage."""

    def __init__(self, data: Path, folder: Path, architecture: str) -> None:
        self.folder, self.pristine = folder / "run", folder / "pristine"
        self.marker = folder / "code-was-run"
        self.folder.mkdir(parents=True)
        at = self.folder
        shutil.copytree(data / "tasks", at / "tasks")
        for name in ("train.parquet", "dev.parquet", "test.parquet"):
            shutil.copy(data / name, at / name)
        losses = {"distill": 1.0}
        spec = pretraining(data, at, architecture, losses=losses)
        finetuning = {"stage": "finetune", "losses": {"pred": 1.0}, "partition": "all"}
        finetune = changed(spec, training=finetuning)
        plain = prediction(spec).model_copy(update={"method": MethodSource(name="zero-shot")})
        teacher = TeacherSpec(llm=spec.llm, reading=spec.reading, teacher=teacher_examples(spec))
        specs = {
            "pretrain": spec,
            "finetune": finetune,
            "predict": prediction(finetune, stage="finetune"),
            "zero-shot": plain,
            "teacher": teacher,
        }
        for name, one in specs.items():
            (at / f"{name}.json").write_text(one.model_dump_json(), encoding="utf-8")
        self.results = {}
        for job in ("teacher", "pretrain", "finetune"):
            self.results[job] = self.do(job)
            (at / f"{job}.out").rename(at / job)
        for job in ("zero-shot", "predict"):
            self.results[job] = self.do(job)
        self.results["resume"] = self.results["pretrain"]
        self._stop_half_way()
        shutil.copytree(at, self.pristine)

    def _stop_half_way(self) -> None:
        """Leave a checkpoint, as a kill does."""
        from mend.training.checkpoint import Checkpoint

        remove, Checkpoint.remove = Checkpoint.remove, lambda self: None
        try:
            self.do("pretrain")
        finally:
            Checkpoint.remove = remove
        shutil.rmtree(self.folder / "pretrain.out")
        (self.folder / "pretrain.out.checkpoint").rename(self.folder / "checkpoint")

    def restore(self) -> None:
        """Put everything back."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.pristine, self.folder)
        self.marker.unlink(missing_ok=True)

    def do(self, job: str) -> object:
        """Run a job and return its results; raises what it raises."""
        at, name = self.folder, "pretrain" if job in ("resume", "taught") else job
        output = at / f"{name}.out"
        if job == "resume":
            (at / "checkpoint").rename(at / "pretrain.out.checkpoint")
        inputs = {
            "pretrain": {"chunks": at / "chunks.parquet"},
            "teacher": {"chunks": at / "chunks.parquet"},
            "finetune": {"episodes": at / "train.parquet", "tasks": at / "tasks"},
            "zero-shot": {"episodes": at / "test.parquet", "tasks": at / "tasks"},
            "predict": {"episodes": at / "test.parquet", "tasks": at / "tasks"},
        }[name]
        extra = {
            "finetune": {"initial": at / "pretrain"},
            "taught": {"teacher": at / "teacher"},
            "predict": {"weights": at / "finetune"},
        }
        inputs = {"spec": at / f"{name}.json", "output": output, **inputs, **extra.get(job, {})}
        commands = {"pretrain": "train", "finetune": "train", "zero-shot": "predict"}
        arguments = [commands.get(name, name)]
        for key, value in inputs.items():
            arguments += [f"--{key}", str(value)]
        options = parser().parse_args(arguments)
        with _answering_yes():
            options.run(options)
        return _results(output)


@contextlib.contextmanager
def _answering_yes() -> Iterator[None]:
    """Say yes to whatever is asked: nothing may ask."""
    usual, sys.stdin = sys.stdin, io.StringIO("yes\n" * 9)
    try:
        yield
    finally:
        sys.stdin = usual


def _results(output: Path) -> object:
    if output.is_file():
        rows = pyarrow.parquet.read_table(output).to_pylist()
        return [(row["task"], row["row"], tuple(row["scores"])) for row in rows]
    if (output / "weights.safetensors").exists():
        metrics = (output / "metrics.jsonl").read_text(encoding="utf-8")
        return _tensors(output / "weights.safetensors"), metrics
    return [_tensors(path) for path in sorted(output.glob("*.safetensors"))]


def _tensors(path: Path) -> dict[str, bytes]:
    return {key: bytes(as_bytes(value)) for key, value in load_file(path).items()}


@dataclass(frozen=True)
class Damage:
    """kind: what is damaged; job: who reads it; right: see this module."""

    kind: str
    name: str
    job: str
    right: str
    apply: Callable[[Workshop, random.Random], None]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name} ({self.job})"


def outcome(shop: Workshop, damage: Damage, seed: int) -> str:
    """Do the damage, run the job and return what came of it: `ok` if it is right.

    Else one of traceback, hang, code, wrong, unclear (a message that is no line), with why.
    """
    shop.restore()
    damage.apply(shop, random.Random(seed))
    said: list[str] = []
    logger.disabled = True
    began = time.monotonic()
    try:
        with within(LONGEST_SECONDS):
            found = shop.do(damage.job)
    except UserError as error:
        found = None
        said.append(str(error))
    except (Exception, SystemExit) as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    finally:
        logger.disabled = False
    if time.monotonic() - began >= LONGEST_SECONDS:
        return "hang"
    if shop.marker.exists():
        return f"code: was run ({said})"
    if said:
        [line] = said
        if "\n" in line or len(line) > 700:
            return f"unclear: {line[:300]!r} has {len(line)} characters"
        return "ok" if damage.right != "same" else f"wrong: refused: {line}"
    if damage.right == "refused":
        return "wrong: not refused"
    if damage.right == "runs":
        return "ok" if _is_finite(found) else "wrong: not finite"
    expected = shop.results["pretrain" if damage.job == "taught" else damage.job]
    same = _about_same if damage.job == "taught" else lambda one, other: one == other
    return "ok" if same(found, expected) else "wrong: other results"


def _is_finite(found: object) -> bool:
    return "nan" not in repr(found).lower() and "inf" not in repr(found[-1]).lower()


def _about_same(found: tuple, expected: tuple) -> bool:
    """Kept states were computed in other batches: rounded otherwise."""
    metrics = [[json.loads(line) for line in one[1].splitlines()] for one in (found, expected)]
    pairs = zip(*metrics, strict=True)
    return all(abs(a["loss"] - b["loss"]) <= 1e-3 * abs(b["loss"]) for a, b in pairs)


# What is done to a file of any kind.


def remove(path: Path, draw: random.Random) -> None:
    path.unlink()


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(1, len(content))])


def garbage(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(draw.randrange(1, 3000)))


def flip_anywhere(path: Path, draw: random.Random) -> None:
    _flip(path, draw, 0, path.stat().st_size)


def flip_header(path: Path, draw: random.Random) -> None:
    _flip(path, draw, 0, 8 + int.from_bytes(path.read_bytes()[:8], "little"))


def flip_data(path: Path, draw: random.Random) -> None:
    _flip(path, draw, 8 + int.from_bytes(path.read_bytes()[:8], "little"), path.stat().st_size)


def _flip(path: Path, draw: random.Random, start: int, end: int) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.randrange(1, 4)):
        content[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def folder_instead(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def fifo_instead(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def device_instead(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def broken_link(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def link_loop(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def link_to_itself_elsewhere(path: Path, draw: random.Random) -> None:
    """As the hub's cache does."""
    blob = path.parent.with_name("blobs") / path.name
    blob.parent.mkdir(exist_ok=True)
    shutil.move(path, blob)
    path.symlink_to(blob)


UNREADABLE = (remove, empty, cut, garbage, folder_instead, fifo_instead, device_instead)
UNREADABLE += (broken_link, link_loop)


# What is done to tensors.


def _rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    change(tensors)
    save_file({key: one.contiguous() for key, one in tensors.items()}, path, metadata)


def _needed(tensors: dict[str, torch.Tensor]) -> list[str]:
    """The names of tensors that jobs read: no distiller's head, and a teacher's first examples."""
    return sorted(
        name
        for name in tensors
        if not name.startswith("lm_head") and (not name.isdigit() or int(name) < 8)
    )


def _of_one(change: Callable[[torch.Tensor, random.Random], torch.Tensor]) -> Callable:
    def apply(path: Path, draw: random.Random) -> None:
        def to_one(tensors: dict[str, torch.Tensor]) -> None:
            name = draw.choice(_needed(tensors))
            tensors[name] = change(tensors[name], draw)

        _rewrite(path, to_one)

    return apply


def _with_one(value: float) -> Callable:
    def change(tensor: torch.Tensor, draw: random.Random) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[draw.randrange(tensor.numel())] = value
        return changed

    return _of_one(change)


def tensor_missing(path: Path, draw: random.Random) -> None:
    _rewrite(path, lambda tensors: tensors.pop(draw.choice(_needed(tensors))))


def tensors_missing(path: Path, draw: random.Random) -> None:
    def half(tensors: dict[str, torch.Tensor]) -> None:
        for name in draw.sample(sorted(tensors), len(tensors) // 2):
            del tensors[name]

    _rewrite(path, half)


def no_tensors(path: Path, draw: random.Random) -> None:
    _rewrite(path, lambda tensors: tensors.clear())


def tensor_extra(path: Path, draw: random.Random) -> None:
    def one_more(tensors: dict[str, torch.Tensor]) -> None:
        name = draw.choice(_needed(tensors))
        tensors[name + draw.choice(["x", ".extra", "99"])] = tensors[name].clone()

    _rewrite(path, one_more)


def tensor_renamed(path: Path, draw: random.Random) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        name = draw.choice(_needed(tensors))
        tensors[name.replace("e", "i", 1) + "_"] = tensors.pop(name)

    _rewrite(path, rename)


transposed = _of_one(lambda one, draw: one.reshape(1, *one.shape))
shorter = _of_one(lambda one, draw: one[: len(one) // 2])
longer = _of_one(lambda one, draw: torch.cat([one, one]))
of_integers = _of_one(lambda one, draw: (one * 100).long())
of_truths = _of_one(lambda one, draw: one > 0)
of_complex = _of_one(lambda one, draw: one.to(torch.complex64))
with_nan, with_infinity = _with_one(float("nan")), _with_one(float("inf"))


def all_integers(path: Path, draw: random.Random) -> None:
    _rewrite(path, lambda all_: all_.update({key: one.long() for key, one in all_.items()}))


def all_bfloat16(path: Path, draw: random.Random) -> None:
    _rewrite(path, lambda all_: all_.update({key: one.bfloat16() for key, one in all_.items()}))


MISFITS = (tensor_missing, tensors_missing, no_tensors, tensor_extra, tensor_renamed, transposed)
MISFITS += (shorter, longer, of_truths, of_complex, with_nan, with_infinity)


# What is done to a configuration.


def _edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


VALUES = (None, "x", "", -1, 0, 0.5, 10**9, 10**30, float("nan"), [], {}, True, [1], "../x")


def key_changed(path: Path, draw: random.Random) -> None:
    def other(content: dict) -> None:
        content[draw.choice(sorted(content))] = draw.choice(VALUES)

    _edit(path, other)


def key_removed(path: Path, draw: random.Random) -> None:
    _edit(path, lambda content: content.pop(draw.choice(sorted(content))))


def other_json(path: Path, draw: random.Random) -> None:
    path.write_text(draw.choice(["[]", "1", "null", '"x"', "{}", "{", "[" * 10**5, '{"a": 1']))


def not_utf8(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes().replace(b"{", b"{\xff", 1))


LAYERS = ("n_layer", "num_hidden_layers", "num_layers")
HEADS = ("n_head", "num_attention_heads", "num_heads")
WIDTHS = ("n_embd", "hidden_size", "d_model")


def _set(names: tuple[str, ...], value: Callable[[int, random.Random], object]) -> Callable:
    def apply(path: Path, draw: random.Random) -> None:
        def other(content: dict) -> None:
            for name in names:
                if name in content:
                    content[name] = value(content[name], draw)

        _edit(path, other)

    return apply


more_layers = _set(LAYERS, lambda n, draw: n + draw.randrange(1, 4))
fewer_layers = _set(LAYERS, lambda n, draw: n - 1)
endless_layers = _set(LAYERS, lambda n, draw: 10 ** draw.randrange(6, 12))
odd_heads = _set(HEADS, lambda n, draw: draw.choice([0, 3, 5, 7, 10**6]))
other_width = _set(WIDTHS, lambda n, draw: draw.choice([n * 2, n // 2, 1, 0, 10**9]))
other_vocabulary = _set(("vocab_size",), lambda n, draw: draw.choice([n - 1, n + 1, 1, 10**12]))


def of_another_architecture(path: Path, draw: random.Random) -> None:
    names = ("gpt2", "opt", "llama", "gpt-neox", "t5")
    own = json.loads(path.read_text(encoding="utf-8"))["model_type"].replace("_", "-")
    other = random_llm(draw.choice([name for name in names if name != own]), 16)
    other.model.config.save_pretrained(path.parent)


def smaller_vocabulary(path: Path, draw: random.Random) -> None:
    """The whole model: its embeddings are fewer than its tokenizer's tokens."""
    architecture = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    llm = random_llm(architecture, 8 if path.parent.name == "distiller" else 16)
    llm.model.resize_token_embeddings(draw.choice([30, 60]))
    llm.model.save_pretrained(path.parent)


CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("run")
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class OwnConfig(PretrainedConfig):
    model_type = "own"
class OwnModel(PreTrainedModel):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def remote_code(what: str, keep_type: bool) -> Callable:
    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        (folder / "own.py").write_text(CODE.format(marker=str(shop.marker)), encoding="utf-8")
        maps = {"AutoConfig": "own.OwnConfig"}
        for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
            maps[name] = "own.OwnModel"
        if what == "model":
            _edit(folder / "config.json", lambda content: content.update(auto_map=maps))
            if not keep_type:
                _edit(folder / "config.json", lambda content: content.update(model_type="own"))
        else:
            own = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
            tokenizer = folder / "tokenizer_config.json"
            _edit(tokenizer, lambda content: content.update(auto_map=own))
            if not keep_type:
                _edit(tokenizer, lambda all_: all_.update(tokenizer_class="OwnTokenizer"))

    return apply


class _Code:
    """What a pickle runs when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def pickled(malicious: bool) -> Callable:
    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        content = {"x": _Code(shop.marker)} if malicious else tensors
        torch.save(content, folder / "pytorch_model.bin")

    return apply


def _index(file: str) -> Callable:
    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        tensors = load_file(folder / "model.safetensors")
        shutil.move(folder / "model.safetensors", shop.folder / "elsewhere.safetensors")
        name = file.format(root=shop.folder)
        if "OWN" in file:
            name = "part-1.safetensors"
            shutil.copy(shop.folder / "elsewhere.safetensors", folder / name)
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
        if file == "OWN-partial":
            index["weight_map"].popitem()
        if file == "OWN-broken":
            index = draw.choice([[], {}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"a": 1}])
        where = folder / "model.safetensors.index.json"
        where.write_text(json.dumps(index), encoding="utf-8")

    return apply


def swapped_words(path: Path, draw: random.Random) -> None:
    def swap(content: dict) -> None:
        words = content["model"]["vocab"]
        one, other = draw.sample(sorted(words), 2)
        words[one], words[other] = words[other], words[one]

    _edit(path, swap)


def other_words(path: Path, draw: random.Random) -> None:
    def rename(content: dict) -> None:
        vocab = content["model"]["vocab"]
        content["model"]["vocab"] = {f"v{word}": index for word, index in vocab.items()}

    _edit(path, rename)


def fewer_words(path: Path, draw: random.Random) -> None:
    _edit(path, lambda content: content["model"]["vocab"].popitem())


# Of what another run made.


def _by_method(name: str) -> Callable:
    """Weights of another method, trained for the same LLM."""

    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        def other(content: dict) -> None:
            content["method"]["name"] = name
            if name == "prompt-tuning":
                content["distiller"] = None

        _trained_otherwise(shop, folder, other)

    return apply


def _trained_otherwise(shop: Workshop, folder: Path, change: Callable[[dict], object]) -> None:
    spec = shop.folder / "finetune.json"
    usual = spec.read_text(encoding="utf-8")
    _edit(spec, change)
    job = "finetune" if folder.name == "finetune" else "pretrain"
    if job == "pretrain":
        usual_pretrain = (shop.folder / "pretrain.json").read_text(encoding="utf-8")
        _edit(shop.folder / "pretrain.json", change)
    initial = shop.folder / "pretrain"
    hidden = shop.folder / "hidden"
    shop_do_without_initial(shop, job)
    spec.write_text(usual, encoding="utf-8")
    if job == "pretrain":
        (shop.folder / "pretrain.json").write_text(usual_pretrain, encoding="utf-8")
    shutil.rmtree(hidden, ignore_errors=True)
    assert initial.exists()
    shutil.rmtree(folder)
    (shop.folder / f"{job}.out").rename(folder)


def shop_do_without_initial(shop: Workshop, job: str) -> None:
    at = shop.folder
    arguments = ["train", "--spec", str(at / f"{job}.json"), "--output", str(at / f"{job}.out")]
    if job == "pretrain":
        arguments += ["--chunks", str(at / "chunks.parquet")]
    else:
        arguments += ["--episodes", str(at / "train.parquet"), "--tasks", str(at / "tasks")]
    options = parser().parse_args(arguments)
    options.run(options)


def _for_another_llm(shop: Workshop, folder: Path, draw: random.Random) -> None:
    other = shop.folder / "other-llm"
    shutil.copytree(shop.folder / "llm", other)
    _other_numbers(other / "model.safetensors")
    _trained_otherwise(shop, folder, lambda content: content["llm"].update(path=str(other)))


def _other_numbers(path: Path) -> None:
    def scale(tensors: dict[str, torch.Tensor]) -> None:
        for name, one in tensors.items():
            tensors[name] = one * 1.01

    _rewrite(path, scale)


def _with_settings(part: str, **values) -> Callable:
    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        _trained_otherwise(shop, folder, lambda content: content[part].update(values))

    return apply


def _of_stage(name: str) -> Callable:
    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        shutil.copy(shop.folder / name / "weights.safetensors", folder / "weights.safetensors")

    return apply


def _llm_changed(shop: Workshop, folder: Path, draw: random.Random) -> None:
    """The weights are right, and the LLM is not the one that they were trained for."""
    _other_numbers(shop.folder / "llm/model.safetensors")


def _llm_tokenizer_changed(shop: Workshop, folder: Path, draw: random.Random) -> None:
    for name in ("llm", "distiller"):
        swapped_words(shop.folder / name / "tokenizer.json", random.Random(3))


def _not_safetensors(shop: Workshop, folder: Path, draw: random.Random) -> None:
    with (folder / "weights.safetensors").open("wb") as file:
        pickle.dump(_Code(shop.marker), file)


def _teacher_of(part: str, **values) -> Callable:
    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        if values.get("path") == "other":
            other = shop.folder / "other-llm"
            shutil.copytree(shop.folder / "llm", other)
            _other_numbers(other / "model.safetensors")
            values_ = {"path": str(other)}
        else:
            values_ = values
        spec = shop.folder / "teacher.json"
        _edit(spec, lambda content: content[part].update(values_))
        shop.do("teacher")
        shutil.rmtree(folder)
        (shop.folder / "teacher.out").rename(folder)

    return apply


def _set_in(part: str, **values) -> Callable:
    def apply(path: Path, draw: random.Random) -> None:
        _edit(path, lambda content: content[part].update(values))

    return apply


def _no_shards(shop: Workshop, folder: Path, draw: random.Random) -> None:
    for path in folder.iterdir():
        path.unlink()


def _shard_of(name: str) -> Callable:
    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        [shard] = folder.glob("*.safetensors")
        shutil.copy(shop.folder / name, shard)

    return apply


def _extra_shard(shop: Workshop, folder: Path, draw: random.Random) -> None:
    [shard] = folder.glob("*.safetensors")
    shutil.copy(shard, folder / "000001.safetensors")


# Of a checkpoint.


def _checkpoint_of(change: Callable[[dict], object]) -> Callable:
    """Another checkpoint's content, well written: no damage that a checksum finds."""

    def apply(shop: Workshop, folder: Path, draw: random.Random) -> None:
        path = folder / "state.pt"
        saved = torch.load(path, weights_only=True)
        change(saved)
        torch.save(saved, path)

    return apply


def _first_state(saved: dict) -> dict:
    return next(iter(saved["optimizer"]["state"].values()))


def _with_code(shop: Workshop, folder: Path, draw: random.Random) -> None:
    torch.save({"spec": "", "x": _Code(shop.marker)}, folder / "state.pt")


def _old_pickle_with_code(shop: Workshop, folder: Path, draw: random.Random) -> None:
    with (folder / "state.pt").open("wb") as file:
        pickle.dump(_Code(shop.marker), file)


def _zip_cut(shop: Workshop, folder: Path, draw: random.Random) -> None:
    """A whole zip file that lacks an entry."""
    path = folder / "state.pt"
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    del entries[draw.choice(sorted(entries))]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)


# All of them.


def _on(file: str, change: Callable[[Path, random.Random], None]) -> Callable:
    return lambda shop, draw: change(shop.folder / file, draw)


def _in(folder: str, change: Callable[[Workshop, Path, random.Random], None]) -> Callable:
    return lambda shop, draw: change(shop, shop.folder / folder, draw)


def _named(change: Callable) -> str:
    if "<locals>" in change.__qualname__:
        return next(name for name, value in globals().items() if value is change)
    return change.__name__


def _damages() -> Iterator[Damage]:
    for model, job in (("llm", "zero-shot"), ("distiller", "pretrain")):
        weights, config = f"{model}/model.safetensors", f"{model}/config.json"
        for change in (*UNREADABLE, flip_header, *MISFITS):
            right = "either" if change is flip_header else "refused"
            yield Damage(f"{model} weights", _named(change), job, right, _on(weights, change))
        # A number that is another number makes another model.
        for change in (flip_data, of_integers, all_integers, all_bfloat16):
            yield Damage(f"{model} weights", _named(change), job, "runs", _on(weights, change))
        yield Damage(
            f"{model} weights", "a link", job, "same", _on(weights, link_to_itself_elsewhere)
        )
        for change in UNREADABLE:
            right = "either" if change is cut else "refused"
            yield Damage(f"{model} config", _named(change), job, right, _on(config, change))
        for change in (other_json, not_utf8, more_layers, fewer_layers, endless_layers):
            yield Damage(f"{model} config", _named(change), job, "refused", _on(config, change))
        for change in (odd_heads, other_width, other_vocabulary, of_another_architecture):
            yield Damage(f"{model} config", _named(change), job, "refused", _on(config, change))
        yield Damage(
            f"{model} config", "smaller_vocabulary", job, "refused", _on(config, smaller_vocabulary)
        )
        for change in (key_changed, key_changed, key_changed, key_removed, flip_anywhere):
            yield Damage(f"{model} config", _named(change), job, "runs", _on(config, change))
        codes = {"model": "config.json", "tokenizer": "tokenizer_config.json"}
        for what in codes:
            for keep in (True, False):
                yield Damage(
                    f"{model} code",
                    f"{what}'s auto_map, {'known' if keep else 'unknown'} class",
                    job,
                    "either",
                    _in(model, remote_code(what, keep)),
                )
        for malicious in (True, False):
            name = "a pickle with code" if malicious else "pickled weights alone"
            yield Damage(f"{model} code", name, job, "refused", _in(model, pickled(malicious)))
        for file in ("../elsewhere.safetensors", "{root}/elsewhere.safetensors", "none"):
            yield Damage(f"{model} index", file, job, "refused", _in(model, _index(file)))
        yield Damage(f"{model} index", "whole", job, "same", _in(model, _index("OWN")))
        for file in ("OWN-partial", "OWN-broken"):
            yield Damage(f"{model} index", file, job, "either", _in(model, _index(file)))
        tokenizer = f"{model}/tokenizer.json"
        for change in (empty, cut, garbage, folder_instead, fifo_instead, device_instead):
            yield Damage(
                f"{model} tokenizer", _named(change), job, "refused", _on(tokenizer, change)
            )
        for change in (broken_link, link_loop, not_utf8, other_json):
            yield Damage(
                f"{model} tokenizer", _named(change), job, "refused", _on(tokenizer, change)
            )
        right = "refused" if model == "distiller" else "runs"
        for change in (swapped_words, other_words, fewer_words):
            yield Damage(f"{model} tokenizer", _named(change), job, right, _on(tokenizer, change))
        own = f"{model}/tokenizer_config.json"
        for change in (remove, empty, cut, garbage, fifo_instead, key_changed, key_removed):
            yield Damage(f"{model} tokenizer", _named(change), job, "either", _on(own, change))
    for change in (remove, flip_anywhere):
        yield Damage(
            "llm tokenizer", _named(change), "zero-shot", "runs", _on("llm/tokenizer.json", change)
        )
    for job, stage in (("predict", "finetune"), ("finetune", "pretrain")):
        file = f"{stage}/weights.safetensors"
        for change in (*UNREADABLE, *MISFITS, flip_data, of_integers, all_integers, all_bfloat16):
            yield Damage("weights", _named(change), job, "refused", _on(file, change))
        yield Damage("weights", "flip_header", job, "either", _on(file, flip_header))
        yield Damage("weights", "a link", job, "same", _on(file, link_to_itself_elsewhere))
        others = {
            "of hypertuning": _by_method("hypertuning"),
            "of another length": _with_settings("method", settings={"length": 3}),
            "of another projection": _with_settings("distiller", projection="linear"),
            "of other blocks": _with_settings("distiller", layers=[0]),
            "for another llm": _for_another_llm,
            "the llm changed": _llm_changed,
            "the tokenizers changed": _llm_tokenizer_changed,
            "of the other stage": _of_stage("pretrain" if stage == "finetune" else "finetune"),
            "an llm's": lambda shop, folder, draw: shutil.copy(
                shop.folder / "distiller/model.safetensors", folder / "weights.safetensors"
            ),
            "a pickle with code": _not_safetensors,
        }
        if stage == "finetune":
            others["of prompt-tuning"] = _by_method("prompt-tuning")
            others["of another partition"] = _with_settings("training", partition="other")
        for name, change in others.items():
            yield Damage("weights", name, job, "refused", _in(stage, change))
        record = f"{stage}/record.json"
        right = "either" if job == "predict" else "same"
        for change in (remove, empty, cut, garbage, folder_instead, fifo_instead, device_instead):
            if right == "same" or change is not fifo_instead:
                yield Damage("records", _named(change), job, right, _on(record, change))
        for change in (key_changed, key_removed, flip_anywhere, other_json, not_utf8):
            yield Damage("records", _named(change), job, right, _on(record, change))
    yield Damage(
        "records", "fifo_instead", "predict", "either", _on("finetune/record.json", fifo_instead)
    )
    shard = "teacher/000000.safetensors"
    for change in (*UNREADABLE, *MISFITS, of_integers, all_integers):
        yield Damage("teacher", _named(change), "taught", "refused", _on(shard, change))
    # Some examples are not read.
    for change in (flip_header, flip_data):
        yield Damage("teacher", _named(change), "taught", "either", _on(shard, change))
    yield Damage("teacher", "a link", "taught", "same", _on(shard, link_to_itself_elsewhere))
    others = {
        "of another llm": _teacher_of("llm", path="other"),
        "of another dtype": _teacher_of("llm", dtype="bfloat16"),
        "of too few": _teacher_of("teacher", examples=3),
        "of another order": _teacher_of("teacher", seed=5),
        "of another beta": _teacher_of("teacher", beta=0.5),
        "empty folder": _no_shards,
        "trained weights": _shard_of("pretrain/weights.safetensors"),
        "an llm's": _shard_of("llm/model.safetensors"),
        "one shard twice": _extra_shard,
        "the llm changed": _llm_changed,
    }
    for name, change in others.items():
        yield Damage("teacher", name, "taught", "refused", _in("teacher", change))
    none = _set_in("teacher", examples=0)
    yield Damage("teacher", "of none", "teacher", "refused", _on("teacher.json", none))
    state = "checkpoint/state.pt"
    for change in (*UNREADABLE, flip_anywhere, flip_anywhere, flip_anywhere):
        yield Damage("checkpoint", _named(change), "resume", "same", _on(state, change))
    yield Damage("checkpoint", "a link", "resume", "same", _on(state, link_to_itself_elsewhere))
    contents = {
        "of another job": lambda saved: saved.update(spec=saved["spec"] + " "),
        "a list": lambda saved: saved.clear(),
        "no optimizer": lambda saved: saved.pop("optimizer"),
        "no weights": lambda saved: saved["weights"].clear(),
        "weights of another shape": lambda saved: saved["weights"].update(
            {key: one[:1] for key, one in saved["weights"].items()}
        ),
        "moments of another shape": lambda saved: _first_state(saved).update(
            exp_avg=torch.zeros(3)
        ),
        "no result": lambda saved: saved["state"].pop("result"),
        "another result": lambda saved: saved["state"]["result"].update(unknown=1),
        "no random numbers": lambda saved: saved.update(random=[]),
        "random numbers of another kind": lambda saved: saved.update(random=[{"cpu": 1}]),
    }
    for name, change in contents.items():
        right = "either" if "random" in name else "same"
        yield Damage("checkpoint", name, "resume", right, _in("checkpoint", _checkpoint_of(change)))
    for name, change in {
        "a pickle with code": _with_code,
        "an old pickle with code": _old_pickle_with_code,
        "an entry is missing": _zip_cut,
    }.items():
        yield Damage("checkpoint", name, "resume", "same", _in("checkpoint", change))
    metrics = "checkpoint/metrics.jsonl"
    for change in (remove, empty, garbage, folder_instead, fifo_instead):
        yield Damage("metrics", _named(change), "resume", "same", _on(metrics, change))


DAMAGES = tuple(_damages())
