"""The agent's own loop: start the ranks, learn how they ended, and start them again where that may help."""

import contextlib
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

from configs.folder import RunFolder
from configs.lines import emit_failure
from configs.schema import RunConfig
from configs.stages import checkpoints
from data.progress import say
from trainer.node.bell import Bell
from trainer.node.incident import Aftermath, write_incident
from trainer.node.memory import kills_for_memory
from trainer.node.peers import Peers
from trainer.node.place import Place
from trainer.node.preload import preload
from trainer.node.rank import fork_rank, spawn_rank
from trainer.node.verdict import Ending, judge
from trainer.node.watch import Start

STAGES = {"trainer.evaluation": "evaluate"}
"""Stage of a module; `train` for any other"""

HEARTBEAT = "TRAINWORKS_HEARTBEAT"
"""Names the file that the agent touches while it lives; set by who starts the node"""
BEAT_S = 5.0
PULSE_FOLDERS = "trainworks-pulses-"


def supervise(module: str, run: RunConfig, folder: RunFolder, place: Place, bell: Bell) -> Ending:
    """Run this node's ranks to an end that another start would not better.

    They start when every node of the job is there. A lost or silent rank has all of them started again, up to
    `world.restarts` times without a new checkpoint in between; where there are several nodes it ends this one, so that
    whoever started the nodes starts all of them.
    """
    stage = STAGES.get(module, "train")
    peers = Peers(place, bell, partial(say, stage), Beacon(os.environ.get(HEARTBEAT)))
    if not peers.gather():
        return Ending("stopped", 128 + bell.received[0], "stopped while it waited for other nodes")
    ending = _supervise(module, run, folder, peers)
    peers.leave(ending.code)
    return ending


def _supervise(module: str, run: RunConfig, folder: RunFolder, peers: Peers) -> Ending:
    stage, world, place, bell = STAGES.get(module, "train"), run.world, peers.place, peers.bell
    begin = partial(fork_rank if preload(module, run.task.kind) else spawn_rank, module, str(folder.path))
    spent, seen = 0, checkpoints(folder)
    sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{PULSE_FOLDERS}{os.getpid()}-") as pulses:
        while True:
            deaths = kills_for_memory()
            limits = {"timeout_s": world.timeout_s, "grace_s": world.grace_s}
            start = Start(begin, place.environments(), Path(pulses), bell, peers, **limits)
            facts = start.follow()
            ending = judge(facts, nodes=place.nodes, memory_ran_out=kills_for_memory() > deaths)
            if ending.kind == "done":
                return ending
            now = checkpoints(folder)
            spent, seen = (0 if now - seen else spent), now
            may = ending.retryable and place.nodes == 1 and not bell.received and not start.running
            again = may and spent < world.restarts
            record = Aftermath(restarted=again, restarts_left=world.restarts - spent - again)
            _leave_record(folder, stage, start, ending, record)
            if not again:
                return ending
            spent += 1
            say(stage, f"{ending.reason}; starting again ({spent} of {world.restarts})")


class Beacon:
    """Shows whoever looks after this node from outside, such as a kubelet, that its agent lives."""

    def __init__(self, path: str | None) -> None:
        self._path, self._lit = path, -BEAT_S

    def __call__(self) -> None:
        if self._path and time.monotonic() - self._lit >= BEAT_S:
            self._lit = time.monotonic()
            with contextlib.suppress(OSError):
                Path(self._path).touch()


def sweep(temporary: Path) -> None:
    """Remove the heartbeats of agents that were killed, which could not do it themselves."""
    for folder in temporary.glob(f"{PULSE_FOLDERS}*-*"):
        owner = folder.name.removeprefix(PULSE_FOLDERS).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)


def tell(module: str, ending: Ending) -> int:
    """Print why it ended, for whoever follows; returns the exit code."""
    if ending.code:
        emit_failure(STAGES.get(module, "train"), ending.code, ending.reason, by_peer=ending.by_peer)
    return ending.code


def _leave_record(folder: RunFolder, stage: str, start: Start, ending: Ending, aftermath: Aftermath) -> None:
    root = (folder.evaluation if stage == "evaluate" else folder.train) / "incidents"
    try:
        write_incident(root, stage, start, ending, aftermath)
    except OSError as error:  # the disk may be what ended the run
        say(stage, f"{root}: no record of this incident could be written: {error.strerror or error}")
