"""A SLURM of one node, on this machine alone: Debian's packages, private folders, pretend GPUs.

Nothing of a SLURM that is here already is touched: configuration, keys, sockets, ports and state
are this one's own, in one folder that is removed in the end.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")

CONFIGURATION = """
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=5
UnkillableStepTimeout=300
OverTimeLimit=0
SlurmctldTimeout=20
SlurmdTimeout=60
MinJobAge=300
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 \
ThreadsPerCore=1 RealMemory=64000 Gres=gpu:pretend:1
PartitionName=trial Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

GPUS = """
AutoDetect=off
NodeName={host} Name=gpu Type=pretend File={folder}/nvidia0
"""


def install() -> None:
    """Install Debian's packages if they are not here; raises CalledProcessError if that fails."""
    if all(shutil.which(program) for program in PROGRAMS):
        return
    quiet = {"stdout": subprocess.DEVNULL, "check": True}
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update"], **quiet)
    command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, env=environment, **quiet)


class Cluster:
    """The daemons, and what a person at a login node would type."""

    def __init__(self, folder: Path) -> None:
        """Write the configuration into `folder`; `start` starts the daemons."""
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        # A device that never opens: SLURM hands out its number, as it does with a real one.
        os.mknod(folder / "nvidia0", 0o600 | stat.S_IFCHR, os.makedev(195, 0))
        values = {
            "host": socket.gethostname().split(".")[0],
            "folder": folder,
            "controller_port": _free_port(),
            "node_port": _free_port(),
        }
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        (folder / "gres.conf").write_text(GPUS.format(**values))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons and wait until the node is idle; raises RuntimeError if it is not."""
        files = {"key-file": "key", "socket": "socket", "log-file": "log", "pid-file": "pid"}
        options = [f"--{option}={self.folder}/munge.{name}" for option, name in files.items()]
        # The seed file of Debian's service is left alone as well.
        options.append(f"--seed-file={self.folder}/munge.seed")
        self._run("munged", "--foreground", "--force", *options)
        self.start_controller()
        self._run("slurmd", "-D")
        for _ in range(60):
            if self("sinfo", "-h", "-o", "%T") == "idle":
                return
            time.sleep(1)
        logs = "\n".join(self._last_lines(name) for name in ("slurmctld", "slurmd"))
        raise RuntimeError(f"the node did not become idle\n{logs}")

    def start_controller(self) -> None:
        """Start slurmctld, which goes on from its saved state."""
        self._run("slurmctld", "-D")

    def stop_controller(self) -> None:
        """Stop slurmctld; jobs go on without it."""
        self._stop("slurmctld")

    def stop(self) -> None:
        """Cancel all jobs and stop the daemons."""
        if "slurmctld" in self.daemons:
            self("scancel", "--user=root")
            for _ in range(15):
                if not self("squeue", "-h"):
                    break
                time.sleep(1)
        for name in ("slurmd", "slurmctld", "munged"):
            self._stop(name)

    def __call__(self, *command: str) -> str:
        """Run a command of SLURM; return what it printed."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    def _run(self, name: str, *options: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [shutil.which(name) or f"/usr/sbin/{name}", *options],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        time.sleep(1)

    def _stop(self, name: str) -> None:
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _last_lines(self, name: str) -> str:
        files = [self.folder / f"{name}.{kind}" for kind in ("log", "out")]
        lines = [line for file in files if file.is_file() for line in file.read_text().splitlines()]
        return "\n".join(lines[-10:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
