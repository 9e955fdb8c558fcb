"""Jobs that start warm: forked from a process that has imported torch and the models already.

The main job starts about a hundred commands that import torch and transformers, which takes each
of them several seconds of processor time. Instead, Snakemake starts one server (`start_server`,
see `mend.warm_server`), and `python -m mend` asks it to fork a child for the command (`run_warm`).
Then this process is only the job's face: it passes signals on, and ends as the child ends.

Nothing depends on the server: where there is none, or it refuses, the command runs here. What is
imported here is imported by every job besides, and by Snakemake: it must be little.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mend.stopping import SIGNALS

if TYPE_CHECKING:
    import subprocess

#: Commands that import torch. Not `efficiency`: what it measures should not depend on how it
#: was started.
COMMANDS = ("chunks", "teacher", "train", "predict", "attention")
#: The environment variable that names the server's socket.
SOCKET = "MEND_WARM_SOCKET"
#: Seconds to wait for the server, which may be importing, before the command runs here.
LONGEST_WAIT = 120.0
#: What a client says when it is ready to pass signals on; no job begins before.
BEGIN = b"begin"

# The servers that this process has started: each ends when its standard input closes, which
# happens at the latest when this process ends, however it ends.
_servers: list[subprocess.Popen] = []


def start_server(model_folders: Iterable[str] = ()) -> subprocess.Popen | None:
    """Start a server that lives as long as this process, and tell it to all later children.

    model_folders: folders or hub names of models; the code of those that are local folders is
    imported ahead. Starts nothing, and returns None, where MEND_WARM=0, on systems other than
    Linux, and where no socket can be made: jobs then start as they would without it.
    """
    if os.environ.get("MEND_WARM") == "0" or sys.platform != "linux":
        return None
    import atexit
    import shutil
    import subprocess
    import tempfile

    # Nobody else may enter the folder, and so nobody else can ask for a job.
    folder = tempfile.mkdtemp(prefix="mend-warm-")
    try:
        # The socket takes requests from now on; whoever comes before the server listens waits.
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener:
            listener.bind(f"{folder}/socket")
            listener.listen(128)
            # A pool of threads does not survive a fork: in the server no library may start one.
            # How many threads a job has is set after the fork.
            alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            server = subprocess.Popen(
                [sys.executable, "-m", "mend.warm_server", str(listener.fileno()), *model_folders],
                env={**os.environ, **alone},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for the jobs, which hear of it by their clients
            )
    except OSError:  # such as a path that is too long for a socket
        shutil.rmtree(folder, ignore_errors=True)
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # should the server be killed
    os.environ[SOCKET] = f"{folder}/socket"
    _servers.append(server)
    return server


def run_warm(arguments: Sequence[str]) -> int | None:
    """Let the server run a command, and return its exit status; None if it is to be run here.

    Ends by the same signal as the child if one ended it.
    """
    path = os.environ.get(SOCKET)
    if not path or not arguments or arguments[0] not in COMMANDS:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.settimeout(LONGEST_WAIT)
            connection.connect(path)
            request = [json.dumps(_request(arguments)).encode()]
            socket.send_fds(connection, request, [0, 1, 2])
            answer = json.loads(connection.recv(4096))
        except (OSError, ValueError):  # no server, or none that answers
            return None
        if answer["refused"]:
            print(f"mend: not started warm: {answer['refused']}", file=sys.stderr)
            return None
        connection.settimeout(None)
        return _follow(connection)


def _request(arguments: Sequence[str]) -> dict:
    """Return what makes a process: all that a child of the server is to have from this one."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "arguments": list(arguments),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": mask,
        "identity": code_identity(),
    }


def _follow(connection: socket.socket) -> int:
    """Let the child begin; pass signals on until it has ended, and return its exit status."""

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            connection.send(str(number).encode())

    for number in SIGNALS:
        # Such as SIGINT of a command that a script started with `&`.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    try:
        connection.send(BEGIN)
        answer = connection.recv(64)
    except OSError:
        answer = b""
    if not answer:  # The server was killed, and the child is told to stop when that happens.
        print("mend: the process that this job was forked from has ended", file=sys.stderr)
        return 128 + signal.SIGTERM
    status = int(answer)
    if status < 0:  # A signal ended the child: whoever started this process is to see the same.
        with contextlib.suppress(OSError):  # SIGKILL needs no default
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status if status >= 0 else 128 - status


def code_identity() -> list:
    """Return what tells this process's code from another's: interpreter, packages, our files.

    A server keeps the code that it has imported: when a file is edited or a package installed
    while the workflow runs, later jobs are not to run the old code.
    """
    folder = Path(__file__).parent
    states = [(str(file), file.stat()) for file in sorted(folder.rglob("*.py"))]
    # Installing a package changes the folder that it lies in.
    packages = sorted({place for place in sys.path if place.endswith("-packages")})
    states += [(place, os.stat(place)) for place in packages if os.path.isdir(place)]
    return [
        [os.path.realpath(sys.executable), sys.prefix, str(sys.flags)],
        [[name, state.st_mtime_ns, state.st_size] for name, state in states],
    ]
