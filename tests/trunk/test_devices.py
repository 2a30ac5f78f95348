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
    lease = lease_device(NAMES, folder)
    answers.send((lease.index, lease.others))
    time.sleep(600)


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
    assert {a, b} == {(0, 0), (1, 0)}
    os.kill(first.pid, signal.SIGKILL)
    first.join(10)
    _, again = start()
    assert again == a


@pytest.mark.long
def test_more_runs_than_devices_are_spread_over_all_of_them(start):
    assert [start()[1] for _ in range(4)] == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_one_process_keeps_its_device(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_leases", {})
    assert [lease_device(NAMES, tmp_path).index for _ in range(3)] == [0, 0, 0]


@pytest.fixture
def two_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_leases", {})
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "_device_name", lambda index: f"device{index}")
    return tmp_path


def test_cuda_is_leased_with_a_number_and_without(two_devices):
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert sorted(path.name for path in two_devices.iterdir()) == ["pipeline-device-device0.lock"]
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert len(list(two_devices.iterdir())) == 2
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(SettingsError, match="there are 2 CUDA devices"):
        resolve_device("cuda:2")


def test_a_device_that_is_shared_is_said(two_devices, start, monkeypatch):
    monkeypatch.setattr(devices, "_device_name", lambda index: NAMES[index])
    assert start()[1] == (0, 0)
    said = []
    assert resolve_device("cuda:0", said.append) == torch.device("cuda", 0)
    assert said == ["note: cuda:0 is shared with 1 other run(s), each slower for it"]
    monkeypatch.setattr(devices, "_leases", {})
    assert resolve_device("cuda", said.append) == torch.device("cuda", 1)
    assert len(said) == 1


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_the_kind_of_a_device_needs_no_device(device):
    assert devices.name_device(device) == "cuda"
    with pytest.raises(SettingsError, match="expected auto, cpu, cuda or cuda:N"):
        devices.name_device("mps")
