"""The program's own commands as children in this terminal: a run done again, and the runs of a suite."""

import os
import signal
import subprocess
import sys

from configs.process import die_with_parent


def run_command(*words: object) -> int:
    """`trainworks WORDS` with its output here; returns its exit code as a shell gives it.

    The child is asked to stop when this process ends; what the terminal sends goes to both.
    """
    parent = os.getpid()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, words)],
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        preexec_fn=lambda: die_with_parent(parent, by=signal.SIGTERM),
    )
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:  # the child has got it too, and saves
            continue
