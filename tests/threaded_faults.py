"""tests.faults behind an import that starts a thread, as some libraries do: such a process cannot be forked safely."""

import threading

from configs.process import leave, stage_main
from tests.faults import act

threading.Thread(target=threading.Event().wait, daemon=True).start()

if __name__ == "__main__":
    leave(stage_main("train", act))
