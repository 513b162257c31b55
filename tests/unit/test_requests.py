"""Requests in a run's folder: seen soon, met once, and never those that an earlier start was asked."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.folder import RunFolder
from trainer.requests import CHECKPOINT, LOOK_S, STOP, StopRequest


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stop(clock: Clock) -> Iterator[StopRequest]:
    before = signal.getsignal(signal.SIGTERM)
    yield StopRequest(clock=clock)
    signal.signal(signal.SIGTERM, before)


def ask(folder: RunFolder, name: str) -> None:
    folder.request(name).parent.mkdir(parents=True, exist_ok=True)
    folder.request(name).touch()


def test_a_request_is_seen_within_seconds_and_met_once(tmp_path: Path, stop: StopRequest, clock: Clock) -> None:
    folder = RunFolder(tmp_path)
    stop.watch(folder)
    ask(folder, CHECKPOINT)
    assert not stop.asked(CHECKPOINT), "the folder is not looked at in every step"
    clock.now += LOOK_S
    assert stop.asked(CHECKPOINT)
    assert not stop.asked(STOP)
    stop.met(CHECKPOINT)
    clock.now += LOOK_S
    assert not stop.asked(CHECKPOINT)
    assert not folder.request(CHECKPOINT).exists()


def test_what_an_earlier_start_was_asked_is_forgotten(tmp_path: Path, stop: StopRequest, clock: Clock) -> None:
    folder = RunFolder(tmp_path)
    ask(folder, STOP)
    stop.watch(folder)
    clock.now += LOOK_S
    assert not stop.asked(STOP)


def test_a_rank_that_watches_no_folder_knows_signals_alone(stop: StopRequest, clock: Clock) -> None:
    clock.now += LOOK_S
    assert not stop.asked(STOP)
    stop.met(STOP)
    signal.raise_signal(signal.SIGTERM)
    assert stop.wanted
