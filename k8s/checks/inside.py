"""What a pod of a job finds around it: run there by `python -c TEXT WORKSPACE [wandb]`, so standard library alone."""

import glob
import json
import os
import sys
import urllib.error
import urllib.request

MARK = "trainworks-doctor "
"""Begins the one line that it prints"""
WANDB = "https://api.wandb.ai"


def look(workspace, ask_wandb):  # no annotations: whichever Python the image has may run this
    """Sizes, rights and ways out, as JSON can hold them."""
    memory = os.statvfs("/dev/shm")  # noqa: S108
    return {
        "user": os.getuid(),
        "shared_memory_bytes": memory.f_frsize * memory.f_blocks,
        "workspace": unwritable(workspace),
        "scratch": unwritable("/tmp"),  # noqa: S108
        "gpus": len(glob.glob("/dev/nvidia[0-9]*")),
        "wandb": ask_wandb and answers(wandb_address()),
    }


def unwritable(folder):
    """Why nothing can be written in a folder; empty where it can."""
    path = os.path.join(folder, ".trainworks-doctor-%d" % os.getpid())  # noqa: UP031
    try:
        with open(path, "wb") as file:
            file.write(b"x")
            os.fsync(file.fileno())
        os.remove(path)
    except OSError as error:
        return "%s: %s" % (folder, error.strerror or error)  # noqa: UP031
    return ""


def wandb_address():
    return os.environ.get("WANDB_BASE_URL", WANDB).rstrip("/")


def answers(address):
    """Whether anybody answers at an address within 5 s, if only to refuse."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    print(MARK + json.dumps(look(sys.argv[1], "wandb" in sys.argv[2:])), flush=True)
