"""Command: `python -m trainer.node MODULE RUN_FOLDER` runs this node's ranks of trainer or trainer.evaluation.

Alone on a machine it starts `world.processes` ranks; under PyTorchJob or TrainJob this node's share of them. Exits with
the code of what went wrong: 2 the user's mistake, 1 failed, 128 + n a signal, 137 a rank that fell silent.
"""

import os
import sys
from pathlib import Path

from configs.errors import UserError
from configs.folder import RunFolder
from configs.load import read
from configs.process import die_with_parent, leave
from trainer.node.agent import supervise, tell
from trainer.node.bell import Bell
from trainer.node.place import read_place
from trainer.node.verdict import Ending


def main(module: str, path: str) -> int:
    """Supervise `module` in a run folder; returns the exit code."""
    die_with_parent()
    bell, folder = Bell(), RunFolder(Path(path))
    try:
        run = read(folder.config)
        ending = supervise(module, run, folder, read_place(os.environ, run.world.processes), bell)
    except UserError as error:
        ending = Ending("failed", error.exit_code, str(error))
    except OSError as error:
        ending = Ending("failed", 1, f"{error.filename or 'the node agent'}: {error.strerror or error}")
    return tell(module, ending)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m trainer.node MODULE RUN_FOLDER")
    leave(main(sys.argv[1], sys.argv[2]))
