"""The process that jobs are forked from: `python -m mend.warm_server`, started by `mend.warm`.

It has one thread, has no model, and has not touched a GPU, so that a child is what a fresh
process would be after its imports. It imports when the first client comes: a workflow that
trains nothing costs nothing. It ends when whoever started it ends.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mend import warm
from mend.stopping import SIGNALS

#: Environment variables in which a job may differ from the server: Snakemake sets them for each
#: job, and shells for themselves. Others may be read when a library is imported.
FREE = {"PWD", "OLDPWD", "SHLVL", "_", "PS1", "PS2", "LINES", "COLUMNS"}
FREE |= {"TMPDIR", "TMP", "TEMPDIR", "TEMP", warm.SOCKET}
FREE_ENDINGS = ("_NUM_THREADS", "_MAXIMUM_THREADS")
#: prctl's "send me this signal when my parent dies".
PR_SET_PDEATHSIG = 1
#: The number of standard input, whose other end is held by the process that we live for.
OWNER = 0


@dataclass(eq=False)
class Client:
    """A connection, what came by it, and the child that runs for it once it has begun."""

    connection: socket.socket
    request: dict | None = None
    descriptors: list[int] = field(default_factory=list)
    pid: int | None = None


class Server:
    """Forks a child for each client that asks."""

    def __init__(self, listener: socket.socket, prepare: Callable[[], str | None]) -> None:
        """prepare: imports, and returns why no child may be forked afterwards, if so."""
        self.listener, self.prepare = listener, prepare
        self.listening, self.prepared = True, False
        self.unfit: str | None = None
        self.environment = bound_variables(os.environ)
        self.running: dict[int, Client] = {}

    def serve(self) -> list[str] | None:
        """Serve until the end, and return None; in each child, return its command's arguments."""
        # Signals come as bytes by a socket, so that everything that happens is an event.
        signals, wakeup = socket.socketpair()
        signals.setblocking(False)
        wakeup.setblocking(False)
        self.own = (self.listener, signals, wakeup)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(OWNER, selectors.EVENT_READ)
        self.selector.register(signals, selectors.EVENT_READ)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        while self.listening or self.running:
            # One at a time: an event may end the connection that the next one is about.
            for key, _ in self.selector.select()[:1]:
                if key.fileobj is self.listener:
                    self._welcome()
                elif key.fileobj == OWNER:
                    self._stop()
                elif key.fileobj is signals:
                    if set(signals.recv(4096)) & set(SIGNALS):
                        self._stop()
                    self._reap()
                elif arguments := self._hear(key.data):
                    return arguments
        return None

    def _welcome(self) -> None:
        """Take a new client's connection."""
        if not self.prepared:
            # Before the imports: a file that is edited meanwhile counts as edited.
            self.identity = warm.code_identity()
            self.unfit = self.prepare()
            self.prepared = True
            # No garbage collection in a child looks at what is here already, which would copy it:
            # each child would compute for a second more.
            gc.collect()
            gc.freeze()
        connection, _ = self.listener.accept()
        self.selector.register(connection, selectors.EVENT_READ, Client(connection))

    def _hear(self, client: Client) -> list[str] | None:
        """Take a client's message; in the child that it begins, return the arguments."""
        try:
            message, descriptors, _, _ = socket.recv_fds(client.connection, 1 << 20, 3)
        except OSError:
            message, descriptors = b"", []
        client.descriptors += descriptors
        if not message:
            self._leave(client)
        elif client.pid:
            os.kill(client.pid, int(message))
        elif client.request is None:
            client.request = json.loads(message)
            answer = {"refused": self._refusal(client.request)}
            with suppress(OSError):
                client.connection.send(json.dumps(answer).encode())
        elif message == warm.BEGIN:
            return self._fork(client)
        else:
            self._leave(client)
        return None

    def _refusal(self, request: dict) -> str | None:
        """Return why a job must not run in a child of this process."""
        if self.unfit:
            return self.unfit
        if request["identity"] != self.identity:
            return "the code has changed since the workflow started"
        wanted = bound_variables(request["environment"])
        names = {name for name, _ in wanted.items() ^ self.environment.items()}
        return f"other environment: {', '.join(sorted(names))}" if names else None

    def _fork(self, client: Client) -> list[str] | None:
        """Fork; in the child, become the process that the client asks for."""
        # A signal that came between the fork and `_become` would be taken for the server's.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(client, server)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid == 0:
            return client.request["arguments"]
        client.pid = pid
        self.running[pid] = client
        self._close_descriptors(client)
        return None

    def _become(self, client: Client, server: int) -> None:
        """Leave the server behind, and take over what the client has."""
        signal.set_wakeup_fd(-1)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # With an end of a connection here, its client would not notice that the server died.
        clients = [key.data for key in self.selector.get_map().values() if key.data]
        for connection in (*self.own, *(other.connection for other in clients)):
            connection.close()
        self.selector.close()
        os.setsid()  # a terminal's signals come by the client, and once
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != server:
            os._exit(128 + signal.SIGTERM)
        for number, descriptor in enumerate(client.descriptors):
            os.dup2(descriptor, number)
        self._close_descriptors(client)
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
        request = client.request
        os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["environment"])
        tempfile.tempdir = None  # it follows TMPDIR, which may be another now
        os.chdir(request["folder"])
        sys.argv = [str(Path(__file__).with_name("__main__.py")), *request["arguments"]]

    def _reap(self) -> None:
        """Tell the clients of children that have ended how they ended."""
        while self.running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            client = self.running.pop(pid)
            with suppress(OSError):
                client.connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            self._leave(client)

    def _leave(self, client: Client) -> None:
        """Close a connection; a child that still runs is asked to stop (training saves first)."""
        self._close_descriptors(client)
        if client.connection.fileno() >= 0:
            self.selector.unregister(client.connection)
            client.connection.close()
        if client.pid in self.running:
            os.kill(client.pid, signal.SIGTERM)

    def _stop(self) -> None:
        """Take no more clients, and ask all children to stop."""
        if not self.listening:
            return
        self.listening = False
        shutil.rmtree(Path(self.listener.getsockname()).parent, ignore_errors=True)
        for end in (OWNER, self.listener):
            self.selector.unregister(end)
        self.listener.close()
        for pid in self.running:
            os.kill(pid, signal.SIGTERM)

    @staticmethod
    def _close_descriptors(client: Client) -> None:
        while client.descriptors:
            os.close(client.descriptors.pop())


def bound_variables(environment: dict) -> dict[str, str]:
    """Return the environment variables in which a job must not differ from the server."""
    return {
        name: value
        for name, value in environment.items()
        if name not in FREE and not name.endswith(FREE_ENDINGS)
    }


def import_for_jobs(model_folders: Iterable[str]) -> str | None:
    """Import what jobs import; return why no child may be forked afterwards, if so."""
    from mend.cli import set_library_defaults

    set_library_defaults()
    # Asks the driver how many GPUs there are in a way that leaves CUDA alone.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import pyarrow.dataset  # noqa: F401  (reading Parquet imports it late)
    import transformers
    from transformers.models.auto import modeling_auto

    import mend.attention
    import mend.training_job  # noqa: F401
    from mend.methods import method_classes

    method_classes()
    names = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    for folder in model_folders:
        with suppress(OSError, ValueError, KeyError):  # on the hub, or still to be made
            model_type = json.loads((Path(folder) / "config.json").read_text())["model_type"]
            for mapping in names:
                if model_type in mapping:
                    getattr(transformers, mapping[model_type])  # imports it
    return _unfit_to_fork()


def _unfit_to_fork() -> str | None:
    """Return what in this process a forked child could not have, or None."""
    import torch

    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    # Arrow's allocator has a thread that only tidies up, and a child does without it.
    if sum(name != "jemalloc_bg_thd" for name in threads) > 1:
        return f"importing starts threads here: {', '.join(threads)}"
    # A child of a process that has used CUDA cannot; torch knows in the child alone.
    pid = os.fork()
    if pid == 0:
        os._exit(torch.cuda._is_in_bad_fork())
    return "importing starts CUDA here" if os.waitpid(pid, 0)[1] else None


def main() -> int:
    """Serve; a child comes back from there and runs its command."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    folders = sys.argv[2:]
    arguments = Server(listener, lambda: import_for_jobs(folders)).serve()
    if arguments is None:
        return 0
    from mend.cli import main as run_command

    status = run_command(arguments, warm=True)
    # What an interpreter does at its end, but for taking down thousands of modules one by one,
    # most of them shared with the server until then: as long as a small job's own work.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
