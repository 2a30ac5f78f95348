"""Commands that start at once: forks of one process that has imported torch, the pipeline and Snakemake.

An import of torch takes longer than most stages of a tiny dataset, and a workflow starts a process per job. A fork is
a process of its own, with arguments, folder, environment and streams of its caller. Tests of how a command starts and
of signals take the commands themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = {"pipeline": "pipeline.cli.main", "snakemake": "snakemake.cli"}
ROOMS = ("cli", "recipes", "stages", "views", "workflow")
FIRST = "site/sitecustomize.py"
"""Code in a caller's folder that runs before the pipeline is imported, which then is imported anew."""
# -IS: no packages of the environment, so that it starts at once.
ASK = """#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    server.sendmsg([len(asked).to_bytes(4, "big")], streams)
    server.sendall(asked)
    sys.exit(int(server.recv(4) or b"1"))
"""


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """A folder of programs with the names of the real ones, to stand first in PATH."""
    with tempfile.TemporaryDirectory() as folder:  # paths of sockets have to be short
        address, programs = f"{folder}/warm", Path(folder) / "bin"
        programs.mkdir()
        for name in PROGRAMS:
            (programs / name).write_text(ASK.format(python=sys.executable, address=address))
            (programs / name).chmod(0o755)
        here = Path(__file__)
        path = os.pathsep.join([str(here.parents[1]), str(here.parents[2]), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(
            [sys.executable, "-m", "support.warm", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        ) as server:
            assert server.stdout.readline() == b"ready\n"
            yield programs
            server.stdin.close()  # so does the end of this process, however it ends


def serve(address: str) -> Callable[[], object] | None:
    """Fork for each caller until the standard input ends; in a fork, return what the caller asks for."""
    import pipeline

    for name in PROGRAMS.values():
        importlib.import_module(name)
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if module.name.split(".")[1] in ROOMS:
            importlib.import_module(module.name)
    # A fork has one thread, whatever the others were at. That of the allocator jemalloc starts again by itself.
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert len([name for name in names if not name.startswith("jemalloc")]) == 1, names
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        gc.freeze()  # a collection would write into every page that a fork shares
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
        while sys.stdin not in (ready := select.select([server, sys.stdin], [], [])[0]):
            assert ready
            caller = server.accept()[0]
            with caller:
                if os.fork() == 0:
                    server.close()
                    return answer(caller)
    return None


def answer(caller: socket.socket) -> Callable[[], object]:
    """Fork once more, for the command, and tell the caller how it ends. Where the caller ends first, end all of it."""
    size, streams, _, _ = socket.recv_fds(caller, 4, 3)
    asked = b""
    while len(asked) < int.from_bytes(size, "big"):
        asked += caller.recv(2**16)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if command := os.fork():
        done = os.pidfd_open(command)
        if caller in select.select([done, caller], [], [])[0]:
            os.killpg(command, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            caller.sendall(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    caller.close()
    os.setsid()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    sys.argv, folder, environment = json.loads(asked)
    sys.orig_argv = [sys.executable, *sys.argv]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if Path(FIRST).exists():
        for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
            del sys.modules[name]
        runpy.run_path(FIRST)
    return importlib.import_module(PROGRAMS[Path(sys.argv[0]).name]).main


def run(command: Callable[[], object]) -> int:
    """Exit code of a command, as the interpreter would end with it."""
    try:
        command()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__" and (asked := serve(sys.argv[1])):
    ended = run(asked)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # to free every object, page by page, takes longer than all of a short command
