"""Shows a stage at W&B while it goes on: from a process of its own, so that nothing of it can hold the stage up."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO

from configs.folder import RunFolder
from configs.lines import LASTING, Line, parse
from configs.process import die_with_parent
from configs.schema import RunConfig, WandbConfig
from pipelines.tracking.server import KEY, key

LEAVE_S = 60.0
"""How long the end of a stage waits for W&B to have everything"""


@contextlib.contextmanager
def watched(stage: str, run: RunConfig, folder: RunFolder, show: Callable[[Line], None]) -> Iterator[None]:
    """Follow a stage from the block's beginning to its end, and some seconds longer where W&B is slow."""

    def say(text: str) -> None:
        show(Line(stage, LASTING, text))

    if not wanted(run.wandb, say):
        yield
        return
    parent = os.getpid()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.tracking", str(folder.path), stage],
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent),
    )
    assert process.stdin
    assert process.stdout
    reader = threading.Thread(target=_relay, args=(process.stdout, show), daemon=True)
    reader.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            say(f"W&B was not done within {LEAVE_S:.0f} s; later: trainworks sync {folder.path}")
        reader.join(5)


def wanted(config: WandbConfig, say: Callable[[str], None]) -> bool:
    """Whether there is anything to send, and a key to send it with."""
    if config.mode in ("disabled", "offline"):
        return False
    if key() is None and config.mode == "online":
        say(f"W&B: wandb.mode=online and no key: set {KEY}, or run `wandb login`; the event log has everything")
    return key() is not None


def _relay(output: IO[bytes], show: Callable[[Line], None]) -> None:
    with output:
        for line in output:
            if found := parse(line.decode("utf-8", "replace").rstrip("\n")):
                with contextlib.suppress(OSError):
                    show(found)
