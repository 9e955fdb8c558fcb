"""What stands between a person and every command: paths, and errors told in one line.

Before a command works, its inputs must be there, and its outputs must not be anybody else's; and
however it ends, what is wrong is one line on the terminal and in the log.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mend.atomic_io import MADE_OF, check_file, check_replaceable
from mend.errors import UserError

LONGEST = 1200
"""Letters of a message; of a longer one the beginning is told."""

_STATUS = {errno.ENOSPC: "disk", errno.EDQUOT: "disk", errno.EACCES: "permission"}
_STATUS |= {errno.EPERM: "permission", errno.EROFS: "permission", errno.ENOMEM: "memory"}
_ADVICE = {
    "disk": "the disk is full: make room, or set `results` to a folder on another disk; what is "
    "done is kept",
    "permission": "no permission: choose another folder, or have its owner allow it",
    "memory": "main memory ran out: run fewer jobs at once (--cores), or choose a smaller dtype, "
    "batch or model",
    "gpu memory": "the GPU's memory ran out: choose a smaller micro_batch_size, dtype or "
    "protocol.longest_context, or a larger GPU",
    "gpu": "the GPU was lost or failed: start again, and the job goes on from its checkpoint; if "
    "it comes again, `nvidia-smi` and the system's log say more",
    "network": "the network was interrupted: start again; what was downloaded is kept",
    "files": "too many files are open: raise `ulimit -n`, or run fewer jobs at once",
}

EXTRAS = dict.fromkeys(("datasets", "jinja2", "markupsafe", "matplotlib", "PIL"), "workflow")
EXTRAS |= dict.fromkeys(("nltk", "seaborn", "snakemake", "tensorboard", "torchmetrics"), "workflow")
EXTRAS |= {"gguf": "gguf", "lm_eval": "eval"}
"""The extra that brings each module which an installed package may lack."""


def check_inputs(inputs: Mapping[str, Sequence[str | Path]], folders: Sequence[str]) -> None:
    """Raise UserError, naming the option, for an input that is not there or of the wrong kind.

    inputs: the paths of each option; those of `folders` are folders, the others files.
    """
    for option, paths in inputs.items():
        for path in paths:
            if option not in folders:
                check_file(path, f"file (--{option})")
            elif not os.path.isdir(path):
                raise UserError(f"{path}: no such folder (--{option})")
            elif not os.access(path, os.R_OK | os.X_OK):
                raise UserError(f"{path}: cannot be read (Permission denied)")


def check_outputs(
    outputs: Mapping[str, tuple[Path, str]], inputs: Sequence[str | Path] = ()
) -> None:
    """Raise UserError for an output that would take the place of what we did not make.

    outputs: path and form of each option: "folder", "models", or a form of FORMS.
    inputs: paths that no output may be, or hold.
    """
    read = {os.path.realpath(path) for path in inputs}
    places: dict[str, str] = {}
    for option, (path, form) in outputs.items():
        told = f"{path} (--{option})"
        place = os.path.realpath(path)
        if path.name in ("", "..") or f"{os.getcwd()}/".startswith(f"{place.rstrip('/')}/"):
            raise UserError(f"{told}: the current folder is in it; name a new folder or file")
        if held := [name for name in read if name == place or name.startswith(f"{place}/")]:
            raise UserError(f"{told}: {held[0]} is read; an output cannot be or hold an input")
        if place in places:
            raise UserError(
                f"{told}: --{places[place]} is the same; outputs need names of their own"
            )
        places[place] = option
        _check_parents(path, told)
        if form == "folder":
            check_replaceable(path)
        elif form == "models":  # of which each is a folder of its own
            if os.path.lexists(path) and not path.is_dir():
                raise UserError(f"{told}: it is no folder")
        elif os.path.lexists(path) and not _is_ours(path, form):
            raise UserError(
                f"{told}: it is there already, and not by this command; name another file, or "
                "remove it yourself"
            )


def _check_parents(path: Path, told: str) -> None:
    """Raise UserError unless the folders above a path are there, or may be made."""
    parent = path.absolute().parent
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{told}: cannot be written ({error.strerror})") from None
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"{told}: {parent} is no folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{told}: no permission to write in {parent}; choose another folder")


def _is_parquet(path: Path) -> bool:
    import pyarrow
    import pyarrow.parquet

    try:
        return MADE_OF in (pyarrow.parquet.read_metadata(path).metadata or {})
    except (OSError, pyarrow.ArrowException):
        return False


def _begins(pattern: str) -> Callable[[Path], bool]:
    def begins(path: Path) -> bool:
        with path.open("rb") as file:
            return re.match(pattern.encode(), file.read(4096), re.DOTALL) is not None

    return begins


FORMS: dict[str, Callable[[Path], bool]] = {
    "parquet": _is_parquet,
    "csv": _begins(
        r"(llm|split|source),[^\n]*,(partition,mean,std,|llm,tasks,rows,|hyperparameter,value\n)"
    ),
    "html": _begins(r".*<meta name=\"generator\" content=\"mend\">"),
    "png": _begins(r".PNG.*Software\x00mend"),
    "details": _begins(r"\{\n  \"claims\": "),
    "log": _begins(r"$|\d\d:\d\d:\d\d "),
}
"""How a file of each form that we wrote is known."""


def _is_ours(path: Path, form: str) -> bool:
    return path.is_file() and not path.is_symlink() and FORMS[form](path)


def one_line(message: str) -> str:
    """Return a message as one line that can be read; letters that cannot be seen are escaped."""
    text = " ".join(filter(None, (line.strip() for line in message.splitlines())))
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} letters in all)"


def advice(error: BaseException) -> str | None:
    """Return what to do about an error that is nobody's mistake; None if it is none of those."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    what = None
    if isinstance(error, BrokenPipeError):
        return "what read the output has ended before it was all written"
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if extra := EXTRAS.get(missing):
            return f"{missing} is not installed: pip install 'mend-icl[{extra}]'"
    if "OutOfMemoryError" in kinds:  # of torch, which is not imported here
        what = "gpu memory"
    elif isinstance(error, MemoryError) or "can't allocate memory" in text:
        what = "memory"
    elif "AcceleratorError" in kinds or re.search(r"CUDA error|NCCL error|cuDNN error", text):
        what = "gpu"
    elif isinstance(error, OSError) and error.errno in _STATUS:
        what = _STATUS[error.errno]
    elif isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        what = "files"
    elif isinstance(error, (ConnectionError, TimeoutError)) or kinds & {
        "HTTPError",
        "TransportError",
        "RequestException",
    }:
        what = "network"
    elif "No space left" in text:
        what = "disk"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}; choose another file or folder"
    return what and f"{_ADVICE[what]} ({type(error).__name__}: {_first(text)})"


def _first(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:200]


def save_traceback(error: BaseException, log: Path | None) -> str:
    """Write an error's traceback beside the log, or into the temporary folder; return where."""
    text = "".join(traceback.format_exception(error))
    for folder in (log and log.parent, None):
        try:
            name = f"{log.name if log else 'mend'}."
            handle, path = tempfile.mkstemp(".traceback", name, folder)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return path
    return "no file, as none could be written"


def unexpected(error: BaseException, log: Path | None) -> str:
    """Return one line about an error that nobody foresaw, whose traceback is saved."""
    return (
        f"unexpected {type(error).__name__}: {_first(str(error))}; this is a fault of the program. "
        f"Please report it with the file {save_traceback(error, log)}, which has the details"
    )
