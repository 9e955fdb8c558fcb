"""A trained method's folder knows itself: `mend.json` says what is needed to load it anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedModel

from mend import __version__
from mend.atomic_io import read_json
from mend.configuration.settings import S, first_problem, package_name
from mend.configuration.specs.run import DistillerSource, RunSpec
from mend.configuration.specs.saved import FORMAT, SavedDistiller, SavedLLM, SavedMethod
from mend.errors import UserError
from mend.methods.built import BuiltMethod, build_method
from mend.models.frozen_llm import FrozenLLM

DESCRIPTION, WEIGHTS = "mend.json", "weights.safetensors"
MADE_WITH = f"mend {__version__}"


def describe_llm(llm: FrozenLLM) -> SavedLLM:
    """Return what is saved of an LLM; raises UserError for one that `load_llm` did not load."""
    if llm.source is None:
        raise UserError("this LLM does not say where it is from; load it with load_llm")
    known = {
        name: getattr(llm.source, name) for name in SavedLLM.model_fields if name != "identity"
    }
    known["path"] = package_name(known["path"])
    return SavedLLM(**known, identity=llm.identity)


def describe(method: BuiltMethod, scores: list[dict[str, Any]] | None = None) -> SavedMethod:
    """Return what is saved of a trained method, all but its weights."""
    source, distiller = method.run.distiller, None
    models = [part for part in method.modules() if isinstance(part, PreTrainedModel)]
    if source is not None and models:
        content = {name: getattr(source, name) for name in DistillerSource.model_fields}
        # As it is by now: of chosen blocks alone (`llms.*.distiller.layers`).
        content |= {"layers": None, "configuration": plain_json(models[0].config.to_dict())}
        distiller = SavedDistiller(**content)
    return SavedMethod(
        format=FORMAT,
        kind="method",
        made_with=MADE_WITH,
        llm=describe_llm(method.llm),
        method=method.run.method,
        distiller=distiller,
        reading=method.reading,
        scores=scores or [],
    )


def read_description(folder: str | Path, kind: type[S], holds: str) -> S:
    """Return what a folder says of itself.

    kind: SavedMethod or SavedContext; holds: which of both, for messages.
    Raises UserError for a folder that says nothing, is of a newer version, or holds something else.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"{folder}: no {holds}: it has no {DESCRIPTION}; name a folder that save_pretrained or "
            "a training of this version wrote"
        )
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: no JSON object, so it does not say what the folder holds")
    number = content.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise UserError(
            f"{path}: of format {number}, written by {str(content.get('made_with'))[:60]}, and "
            f"this is {MADE_WITH}, which reads formats up to {FORMAT}; install a newer version"
        )
    wanted = kind.model_fields["kind"].annotation.__args__[0]
    if content.get("kind") != wanted:
        raise UserError(
            f"{path}: the folder holds a {str(content.get('kind'))[:60]}, not a {wanted}"
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}") from None


def load_method(folder: str | Path, llm: FrozenLLM, saved: SavedMethod) -> BuiltMethod:
    """Return a trained method of a folder for an LLM, which is not compared here.

    Raises UserError if its weights are missing, damaged or of another method.
    """
    run = RunSpec(
        llm=llm.source, method=saved.method, distiller=saved.distiller, reading=saved.reading
    )
    method = build_method(llm, run)
    method.load_as_described(Path(folder) / WEIGHTS)
    return method.eval()


def plain_json(value: Any) -> Any:
    """Return a value with nothing in it but JSON's types; what else there is becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
