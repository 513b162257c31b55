"""Many launchers in one process: `python -m tests.cluster.fleet FOLDER AT_ONCE NODES [NODES ...]`, a job for each.

Prints a JSON line after every job: how many are done, this process's memory in bytes, its threads.
"""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from configs.cluster import ClusterConfig
from configs.folder import RunFolder
from k8s.api import Api
from k8s.connect import connect
from k8s.job import Job
from k8s.joblauncher import JobLauncher
from k8s.pytorchjob import PYTORCHJOB
from tests.cluster.bench import IMAGE
from tests.tiny import tiny_run


def main(path: str, at_once: str, *sizes: str) -> None:
    api = Api(connect("fake"), "trainworks", 60.0)
    process, done, lock = psutil.Process(), [0], threading.Lock()

    def carry_out(number: int, nodes: int) -> None:
        cluster = ClusterConfig.model_validate({"image": IMAGE, "nodes": nodes, "workspace": {"claim": "w"}})
        run = tiny_run(name=f"run-{number}", world__processes=nodes, train__global_batch_samples=16 * nodes)
        job = Job(run.model_copy(update={"cluster": cluster}), "train", f"/workspace/{number}", "fleet")
        folder = RunFolder(Path(path) / str(number))
        with JobLauncher(api, PYTORCHJOB, job, folder, lambda line: None) as launcher:
            outcome = launcher.wait(launcher.submit(job.run))
        assert outcome.code == 0, outcome
        with lock:
            done[0] += 1
            told = {"done": done[0], "bytes": process.memory_info().rss, "threads": process.num_threads()}
            print(json.dumps(told), flush=True)

    with ThreadPoolExecutor(int(at_once)) as pool:
        for outcome in [pool.submit(carry_out, number, int(nodes)) for number, nodes in enumerate(sizes)]:
            outcome.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
