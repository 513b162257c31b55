"""A container engine for tests: podman with storage of its own, and a base image made without a registry.

The base is a stand-in for python:3.11-slim-bookworm: the same Python as Debian has it, with the pip settings of here.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BASE = "docker.io/library/python:3.11-slim-bookworm"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PROGRAMS = ("podman", "runc", "netavark", "mmdebstrap")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def missing() -> str | None:
    """Why no container can be built here, for a person; None where it can be tried."""
    if os.geteuid() != 0:
        return "containers are built as root, and this is not root"
    places = f"{os.environ.get('PATH', '')}:/usr/lib/podman:/usr/libexec/podman"
    absent = [program for program in PROGRAMS if not shutil.which(program, path=places)]
    return f"no container engine: {', '.join(absent)} not found; apt-get install them" if absent else None


class Engine:
    """Podman, told how to run where there is neither systemd nor a registry."""

    def __init__(self) -> None:
        self.pip = pip_settings()
        told = hashlib.sha256(json.dumps(self.pip, sort_keys=True).encode()).hexdigest()[:8]
        self.home = Path("/var/tmp", f"trainworks-test-images-{told}")  # layers are used again by the next run
        self.home.mkdir(parents=True, exist_ok=True)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        conf = self.home / "containers.conf"
        conf.write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=32768:32768"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        self.environment = os.environ | {"CONTAINERS_CONF": str(conf)}
        self.durations: dict[str, float] = {}

    def command(self, *words: object) -> list[str]:
        """The command line of a podman command."""
        places = ("--root", self.home / "storage", "--runroot", self.home / "run")
        return ["podman", *map(str, (*places, *words))]

    def run(self, *words: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A podman command's outcome."""
        command = self.command(*words)
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def told(self, *words: object, timeout_s: float = 60) -> str:
        """What a podman command prints, which must succeed."""
        done = self.run(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"podman {' '.join(map(str, words))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def make_base(self) -> None:
        """The stand-in base image, unless it is there from an earlier run."""
        if self.run("image", "exists", BASE).returncode == 0:
            return
        start = time.monotonic()
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
            conf.write("".join(["[global]\n", *(f"{key} = {value}\n" for key, value in self.pip.items())]))
            conf.flush()
            hooks = [f"upload {conf.name} /etc/pip.conf", 'chroot "$1" ln -s /usr/bin/python3 /usr/local/bin/python']
            if Path(CERTIFICATES).exists():
                hooks.append(f"upload {CERTIFICATES} {CERTIFICATES}")
            packages = "--include=python3-venv,python3-dev,ca-certificates"
            options = ["--quiet", "--variant=minbase", packages, *(f"--customize-hook={hook}" for hook in hooks)]
            archive = self.home / "base.tar"
            subprocess.run(["mmdebstrap", *options, "bookworm", archive], capture_output=True, check=True, timeout=300)
        self.told("import", archive, BASE, timeout_s=300)
        archive.unlink()
        self.durations["base"] = time.monotonic() - start

    def build(self, tag: str, *arguments: str) -> None:
        """The Dockerfile as it stands, on the stand-in base; its stages are kept for the next run."""
        volumes = [f"--volume={path}:{path}:ro" for path in local_folders(" ".join(self.pip.values()).split())]
        index = [] if "find-links" in self.pip else [f"--build-arg=TORCH_INDEX={CPU_WHEELS}"]
        common = ["build", "--layers", "--network=host", *volumes, *index, "--build-arg=BASE=python:3.11-slim-bookworm"]
        for name, stage in (
            ("dependencies", ["--target=dependencies", f"--tag={tag}-dependencies"]),
            ("image", [f"--tag={tag}"]),
        ):
            start = time.monotonic()
            self.told(*common, *stage, *arguments, ROOT, timeout_s=900)
            self.durations[name] = time.monotonic() - start
        self.run("image", "prune", "--force")  # what an earlier build left, and nothing uses


def pip_settings() -> dict[str, str]:
    """Where this machine's pip takes packages from, as a section of pip.conf has it."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings = {}
    for line in printed.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in ("find-links", "index-url", "extra-index-url", "trusted-host"):
            settings[name] = " ".join(value.strip("'\"").replace("\\n", " ").split())
    return settings


def local_folders(places: Sequence[str]) -> list[str]:
    """The folders of this machine among pip's places; of an index (.../simple) the one that holds its files too."""
    found = [Path(place.removeprefix("file://")) for place in places if place.startswith(("/", "file://"))]
    return sorted({str(path.parent if path.name == "simple" else path) for path in found if path.is_dir()})
