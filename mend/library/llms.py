"""Frozen LLMs by name, and whether one is the LLM that something was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from mend.configuration.settings import first_problem, package_path
from mend.configuration.specs.run import LLMSource
from mend.configuration.specs.saved import SavedLLM
from mend.data.pretrained import Pretrained
from mend.errors import UserError, first_line
from mend.models.fingerprint import difference
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm as load_frozen_llm


def load_llm(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    prefix: str = "auto",
    query_in: str | None = None,
    local_files_only: bool = False,
    device: str | torch.device | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
) -> FrozenLLM:
    """Load a frozen LLM, decoder-only or T5.

    path: a folder (of this package's own, too, wherever it is installed), or a name on the hub,
    whose revision may be given. dtype: "auto" (as it was
    saved), "float32", "bfloat16" or "float16". prefix, query_in: what stands before every context,
    and where a T5 gets its query (`llms.*.prefix`, `llms.*.query_in`).
    device: where to; a GPU if there is one. device_map, quantization_config: as in transformers'
    `from_pretrained`, for several GPUs and for 8 or 4 bit.
    Raises UserError if it cannot be loaded, or is none that the library reads rightly.
    """
    path = package_path(str(Path(path).expanduser()))
    if str(dtype) == "auto":
        config = Pretrained(path, revision, local_files_only).config()
        dtype = getattr(config, "dtype", None) or torch.float32
    settings = {
        "name": Path(path).name,
        "path": path,
        "revision": revision,
        "dtype": str(dtype).removeprefix("torch."),
        "prefix": prefix,
        "query_in": query_in,
        "local_files_only": local_files_only,
    }
    try:
        source = LLMSource(**settings)
    except ValidationError as error:
        raise UserError(f"load_llm: {first_problem(error)}") from None
    options = {"device_map": device_map, "quantization_config": quantization_config}
    options = {key: value for key, value in options.items() if value is not None}
    llm = load_frozen_llm(source, device=_device(device), **options)
    if any(part.device.type == "meta" for part in llm.model.parameters()):
        raise UserError(
            "load_llm: device_map leaves some of the weights on the disk or in main memory; give "
            "the model more GPUs, a smaller dtype or a quantization"
        )
    return llm


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # no such device, or none of it here
        raise UserError(f"load_llm: device: {device!r}: {first_line(error)}") from None


def llm_of(
    saved: SavedLLM,
    where: str | Path,
    llm: FrozenLLM | str | Path | None = None,
    **loading: Any,
) -> FrozenLLM:
    """Return the LLM that something was made for.

    where: the folder that says so. llm: it, loaded or not; None: from where it was. loading: what
    `load_llm` takes; by default as it was loaded.
    Raises UserError if it is another LLM, or not to be had.
    """
    if not isinstance(llm, FrozenLLM):
        usual = {key: getattr(saved, key) for key in ("dtype", "prefix", "query_in")}
        if llm is None:
            usual["revision"] = saved.revision
        elif not isinstance(llm, str | Path):
            raise UserError(
                f"{where}: llm is a {type(llm).__name__}; give what mend.load_llm returned, or a "
                "folder or a name on the hub"
            )
        given = {key: value for key, value in loading.items() if value is not None}
        try:
            llm = load_llm(saved.path if llm is None else llm, **{**usual, **given})
        except UserError as error:
            if llm is not None:
                raise
            raise UserError(
                f"{where}: made for the LLM {saved.path!r}, which cannot be loaded from there; "
                f"name it with llm=... ({error})"
            ) from error
    elif loading:
        raise UserError(f"{where}: {sorted(loading)[0]} is for an LLM that is loaded here")
    check_llm(llm, saved, where)
    return llm


def check_llm(llm: FrozenLLM, saved: SavedLLM, where: str | Path) -> None:
    """Raise UserError, saying in what it differs, if an LLM is not the one of `saved`."""
    problem = difference(llm.identity, saved.identity)
    for key in ("prefix", "query_in"):
        mine, other = getattr(llm.source, key, None), getattr(saved, key)
        if problem is None and llm.source is not None and mine != other:
            problem = f"its {key} is {mine!r}, not {other!r}"
    if problem:
        at = f", revision {saved.revision}" if saved.revision else ""
        raise UserError(
            f"{where}: made for the LLM {saved.path!r}{at}, and this is another: {problem}"
        )
