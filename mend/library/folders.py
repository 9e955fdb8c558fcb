"""Folders that hold a method or a context: here, or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mend.configuration.settings import hub_name_problem
from mend.errors import UserError, first_line

#: Nothing else of a repository is fetched: no code, no pickles.
_WANTED = ["*.json", "*.safetensors", "README.md"]


def fetched(path: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """Return the folder of a path, or of a name on the hub, from where it is fetched.

    Raises UserError if there is none, or the hub cannot be reached.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return path
    name = str(path)
    if path.exists():
        raise UserError(f"{path}: a file, not a folder; name the folder that holds it")
    if problem := hub_name_problem(name):
        raise UserError(f"{name}: there is no such folder, and {problem}")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=_WANTED,
            )
        )
    except Exception as error:  # whatever stands between this program and the hub
        raise UserError(
            f"{name}: there is no such folder, and the hub gave nothing of that name "
            f"({first_line(error)})"
        ) from error


def pushed(folder: Path, name: str, message: str, private: bool | None, **options: Any) -> str:
    """Make a folder a repository of the hub, and return its address.

    options: revision, token, and what else `upload_folder` takes.
    Raises UserError if the hub refuses it, or cannot be reached.
    """
    if problem := hub_name_problem(name):
        raise UserError(f"{name}: {problem}")
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=message, **options
        )
    except Exception as error:  # whatever stands between this program and the hub
        raise UserError(f"{name}: the hub did not take it ({first_line(error)})") from error
    return str(commit)
