"""Each process its own device, also when the one that had it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch

from pipeline.io.errors import SettingsError
from pipeline.trunk import devices
from pipeline.trunk.devices import lease_device, resolve_device

NAMES = ["one", "two"]


def hold(folder, answers):
    answers.send(lease_device(NAMES, folder))
    time.sleep(60)


@pytest.fixture
def start(tmp_path):
    """Start a process that leases a device and stays; the process and the index that it got."""
    context = multiprocessing.get_context("spawn")
    started = []

    def begin():
        ours, theirs = context.Pipe()
        process = context.Process(target=hold, args=(tmp_path, theirs), daemon=True)
        process.start()
        started.append(process)
        assert ours.poll(60)
        return process, ours.recv()

    yield begin
    for process in started:
        process.kill()
        process.join(10)


def test_processes_get_devices_of_their_own_and_give_them_back_when_killed(start):
    first, a = start()
    _, b = start()
    assert {a, b} == {0, 1}
    _, shared = start()
    assert shared == 0  # all are taken
    os.kill(first.pid, signal.SIGKILL)
    first.join(10)
    _, again = start()
    assert again == a


def test_one_process_keeps_its_device(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_leases", {})
    assert [lease_device(NAMES, tmp_path) for _ in range(3)] == [0, 0, 0]


def test_cuda_without_a_number_is_leased(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_leases", {})
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "_device_name", lambda index: f"device{index}")
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == torch.device("cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipeline-device-device0.lock"]
    with pytest.raises(SettingsError, match="there are 2 CUDA devices"):
        resolve_device("cuda:2")
