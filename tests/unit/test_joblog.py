"""What the nodes of a job print, and which of their failures is the reason."""

from pathlib import Path

import pytest

from configs.lines import FAILURE, Line
from k8s.job import Job
from k8s.joblog import JobLog
from tests.tiny import tiny_run

OOM = (1, "CUDA out of memory")
STOPPED = (143, "stopped by SIGTERM")
KILLED = (137, "rank 3 was killed")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([], (1, "")),
        ([OOM, STOPPED], OOM),
        ([STOPPED, OOM], OOM),
        ([KILLED, STOPPED], STOPPED),
        ([KILLED, OOM, STOPPED, STOPPED], OOM),
    ],
)
def test_the_failure_of_the_program_is_the_reason_though_other_nodes_are_stopped_after_it(
    said: list[tuple[int, str]], reason: tuple[int, str], tmp_path: Path
) -> None:
    shown: list[Line] = []
    log = JobLog(tmp_path / "train.log", Job(tiny_run(), "train", "/workspace/x"), shown.append)
    for node, (code, words) in enumerate(said):
        log.write(node, f'train {FAILURE} {{"code": {code}, "reason": "{words}"}}'.encode())
    log.close()
    assert log.failure() == reason
    assert shown == []
