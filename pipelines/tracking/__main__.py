"""Command: follow a stage for W&B, run beside it as `python -m pipelines.tracking RUN_FOLDER STAGE` (see watched.py).

Ends when its standard input does, which says that the stage has.
"""

import select
import signal
import sys
import time
from pathlib import Path

from configs.errors import OutageError, UserError
from configs.folder import RunFolder, locked
from configs.lines import LASTING, emit
from configs.load import read
from configs.process import STOPPING, die_with_parent, leave
from pipelines.tracking.follower import LOOK_S, POLL_S, RETRY_S, Follower, home_of, one_line
from pipelines.tracking.sync import lacking, send, stages_of


def main(argv: list[str]) -> int:
    """Exit codes: 0 W&B has everything, 1 it lacks something, which was said."""
    die_with_parent()
    for number in STOPPING:  # the stage's end is what ends this: it has words to say then
        signal.signal(number, signal.SIG_IGN)
    folder, stage = RunFolder(Path(argv[0])), argv[1]

    def say(text: str) -> None:
        emit(stage, LASTING, text)

    try:
        with locked(home_of(folder, stage), wait_s=0.0):
            return follow(Follower(read(folder.config), folder, stage, say))
    except UserError:
        say("W&B: another process sends this run already")
        return 1


def follow(follower: Follower) -> int:
    """Follow until the stage ends; whatever goes wrong is one line, and is tried again while there is time."""
    ended, tried, looked = False, -RETRY_S, time.monotonic()
    while True:
        ended = ended or bool(select.select([sys.stdin], [], [], POLL_S)[0])
        now = time.monotonic()
        try:
            if follower.session is None and (ended or now - tried > RETRY_S):
                tried = now
                if not follower.connect() and ended:
                    return 1
            if follower.session and ended:
                follower.finish()
                return settle(follower) or catch_up(follower.folder, follower.stage)
            if follower.session:
                follower.step()
                if now - looked > LOOK_S:
                    looked = now
                    follower.look()
        except Exception as error:  # a view must not hurt the run, whatever a foreign library raises
            follower.say(f"W&B: {one_line(error)}; the event log has everything")
            if ended:
                return 1
            follower.abandon()


def settle(follower: Follower) -> int:
    """Say what W&B lacks, if anything."""
    try:
        lacks = follower.behind()
    except (UserError, OutageError) as error:
        lacks, why = -1, str(error)
    else:
        why = f"it lacks {lacks:,} rows"
    if lacks:
        follower.say(f"W&B: {why}; later: trainworks sync {follower.folder.path}")
    return 1 if lacks else 0


def catch_up(folder: RunFolder, stage: str) -> int:
    """Send what earlier stages could not."""
    before = list(stages_of(folder))
    return max((send(folder, each) for each in before[: before.index(stage)] if lacking(folder, each)), default=0)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
