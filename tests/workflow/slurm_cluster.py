"""A real SLURM on this machine alone, until the standard input ends. Linux, root, Debian's packages.

It prints ``ready`` once the node takes jobs. Everything it makes is below one folder, except for
slurm.conf: jobs do not inherit SLURM_CONF, so it must be where SLURM looks by itself. One that was
there before comes back at the end; if this process was killed, at the end of the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path("/run/pipeline-slurm")
LOCK = Path("/run/pipeline-slurm.lock")
CONFIGURATION = Path("/etc/slurm/slurm.conf")
KEPT = CONFIGURATION.with_name("slurm.conf.kept-by-pipeline")
MARK = "# A test cluster of pipeline; its tests write and remove this file.\n"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "squeue", "scancel", "setpriv")
NOT_HERE = 3  # exit code: this machine cannot, and nothing was tried
WAIT_S = 60.0
OTHERS_WAIT_S = 240.0


def configuration(ports: tuple[int, int]) -> str:
    """The node takes two CPUs whatever the machine has, and listens on the loopback address."""
    host = platform.node().split(".")[0]
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return MARK + "\n".join(
        [
            "ClusterName=pipeline",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[0]}",
            f"SlurmdPort={ports[1]}",
            "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",
            f"AuthInfo=socket={FOLDER}/munge/socket",
            "SlurmUser=root",
            f"StateSaveLocation={FOLDER}/slurmctld",
            f"SlurmdSpoolDir={FOLDER}/slurmd",
            f"SlurmctldPidFile={FOLDER}/slurmctld.pid",
            f"SlurmdPidFile={FOLDER}/slurmd.pid",
            # Neither cgroups nor a database.
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU_Memory",
            "SchedulerParameters=batch_sched_delay=0",
            "SlurmdParameters=config_overrides",
            f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={memory_mib}",
            "PartitionName=tests Nodes=ALL Default=YES",
            "",
        ]
    )


def free_ports() -> tuple[int, int]:
    """Not SLURM's usual ones, which a daemon of a killed run may still hold."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def wait_until(condition: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {wait_s:.0f} s")
        time.sleep(0.2)


def ask(*command: str) -> str:
    """What a client of SLURM prints; nothing where the controller does not answer."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    return ""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """There is one slurm.conf, so test runs beside each other take turns."""
    with open(LOCK, "w") as lock:

        def locked() -> bool:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        wait_until(locked, "another test cluster to end", OTHERS_WAIT_S)
        yield


@contextlib.contextmanager
def configured() -> Iterator[None]:
    """Our slurm.conf in place of the one that was there."""
    if CONFIGURATION.exists() and not CONFIGURATION.read_text().startswith(MARK):
        CONFIGURATION.replace(KEPT)
    try:
        CONFIGURATION.write_text(configuration(free_ports()))
        yield
    finally:
        CONFIGURATION.unlink(missing_ok=True)
        if KEPT.exists():
            KEPT.replace(CONFIGURATION)


@contextlib.contextmanager
def daemon(name: str, *command: str, user: str = "root") -> Iterator[None]:
    """A daemon in the foreground, with its log. It ends with this process, even where that is killed."""
    entry = pwd.getpwnam(user)
    become = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--pdeathsig=TERM"]
    with (
        open(FOLDER / f"{name}.log", "w") as log,
        subprocess.Popen(
            [*become, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def munge() -> Iterator[None]:
    """Authentication with a key of its own, as the user that the package made."""
    folder, entry = FOLDER / "munge", pwd.getpwnam("munge")
    folder.mkdir(mode=0o755)
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for path in (folder, key):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    paths = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
    options = [f"--{option}={folder / name}" for option, name in paths.items()]
    with daemon("munged", "munged", "--foreground", *options, user="munge"):
        wait_until((folder / "socket").exists, "munged")
        yield


def end_jobs() -> None:
    """Their processes would outlive the daemons."""
    if jobs := ask("squeue", "--noheader", "--format=%A").split():
        ask("scancel", *jobs)
        wait_until(lambda: not ask("squeue", "--noheader"), "jobs to end")


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    with alone():
        shutil.rmtree(FOLDER, ignore_errors=True)
        for folder in (FOLDER, FOLDER / "slurmctld", FOLDER / "slurmd"):
            folder.mkdir(mode=0o755)
        try:
            with (
                configured(),
                munge(),
                daemon("slurmctld", "slurmctld", "-D"),
                daemon("slurmd", "slurmd", "-D"),
            ):
                wait_until(lambda: ask("sinfo", "--noheader", "--format=%T") == "idle", "an idle node")
                try:
                    yield
                finally:
                    end_jobs()
        except TimeoutError:
            for log in sorted(FOLDER.glob("*.log")):
                print(f"--- {log.name}", *log.read_text().splitlines()[-40:], sep="\n", file=sys.stderr)
            raise
        finally:
            shutil.rmtree(FOLDER, ignore_errors=True)


def problem() -> str | None:
    """Why this machine cannot."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "a SLURM of one machine needs root, or sudo without a password"
    return None


def main() -> int:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        del os.environ[name]
    if reason := problem():
        print(reason)
        return NOT_HERE
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with cluster():
        print("ready", flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
