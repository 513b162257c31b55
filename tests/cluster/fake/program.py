"""One pod's program: its process and its log, begun, signalled and waited for."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from tests.cluster.fake import podstatus
from tests.cluster.fake.container import spawn, sweep
from tests.cluster.fake.objects import Object, StatusError, now
from tests.cluster.fake.podlog import PodLog
from tests.cluster.fake.podstatus import Status

JOIN_S = 15.0
TERMINATED = 128 + signal.SIGTERM
NOT_STARTED = 128


@dataclass
class Program:
    """A pod's process, its lines, and what is to be said of its end."""

    pod: Object
    process: subprocess.Popen[bytes] | None = None
    log: PodLog = field(default_factory=PodLog)
    previous: PodLog | None = None
    begun: bool = False
    ended: bool = False
    leaving: threading.Event = field(default_factory=threading.Event)
    """Whether it is to end and not to be started again"""
    over: threading.Event = field(default_factory=threading.Event)
    reason: str = ""
    """Of the container's end, such as OOMKilled; that of its exit code when empty"""
    evicted: str = ""
    """Why its node gave it up, if so"""
    code: "Future[int]" = field(default_factory=Future)
    spawning: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.pod["metadata"]["name"]

    @property
    def namespace(self) -> str:
        return self.pod["metadata"]["namespace"]

    def carry_out(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        tell: Callable[[Status], None],
        *,
        number: int = 0,
        last: Status | None = None,
    ) -> Status:
        """Start the container for the `number`th time, tell that it runs, wait: how it has ended."""
        mark, begun = f"{self.pod['metadata']['uid']}-{number}", now()
        identity = f"fake://{mark}"
        with self.spawning:
            if number:
                self.previous, self.log = self.log, PodLog()
            if self.leaving.is_set():
                self.log.end()
                return last or podstatus.terminated(identity, begun, TERMINATED, "")
            try:
                process = self.process = spawn(command, variables, mark)
            except OSError as error:
                self.log.add(str(error).encode())
                self.log.end()
                return podstatus.terminated(identity, begun, NOT_STARTED, "StartError")
        tell(podstatus.running(self.pod, identity, begun, last=last, restarts=number))
        reader = threading.Thread(target=_read, args=(process, self.log), daemon=True)
        reader.start()
        code = process.wait()
        sweep(mark)
        reader.join(JOIN_S)
        self.log.end()
        return podstatus.terminated(identity, begun, code if code >= 0 else 128 - code, self.reason)

    def signal(self, number: int, *, only_first: bool = False) -> None:
        """Reach the container's processes, or the first of them, as a kubelet does."""
        with self.spawning:
            process = self.process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if only_first:
                process.send_signal(number)
            else:
                os.killpg(process.pid, number)

    def read(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """The log, or that of the container before this one. Raises StatusError 400."""
        if query.get("previous", "").lower() not in ("true", "1"):
            return self.log.read(query)
        if self.previous is None:
            container = self.pod["spec"]["containers"][0]["name"]
            message = f'previous terminated container "{container}" in pod "{self.name}" not found'
            raise StatusError(400, "BadRequest", message)
        return self.previous.read(query)


def _read(process: subprocess.Popen[bytes], log: PodLog) -> None:
    """Keep what a program prints, until it and all that it started have closed it."""
    assert process.stdout
    with process.stdout as output:
        for line in output:
            log.add(line.rstrip(b"\n"))
