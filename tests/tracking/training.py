"""A stage as far as the event log knows it: `training.py RUN_FOLDER FIRST LAST [PAUSE_S]`, followed for W&B."""

import sys
import time
from pathlib import Path

from configs.events import EventLog
from configs.folder import RunFolder
from configs.load import read
from pipelines.tracking.watched import watched


def main() -> None:
    folder, first, last = RunFolder(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    pause_s = float(sys.argv[4]) if sys.argv[4:] else 0.02
    with watched("train", read(folder.config), folder, lambda line: print(line.text, flush=True)):
        log = EventLog(folder.events)
        log.write("start", step=first - 1, world=1)
        for step in range(first, last + 1):
            log.write("step", step=step, **{"train/loss": 1 / step})
            if step % 10 == 0:
                print(f"step {step}", flush=True)
            if folder.request("stop").exists():
                log.write("stop", reason="asked")
                break
            time.sleep(pause_s)
        log.write("finish", status="completed")
        log.close()
        print("written", flush=True)


if __name__ == "__main__":
    main()
