"""Whether the kernel has killed somebody in this process's control group for want of memory."""

import contextlib
import re
from pathlib import Path


def kills_for_memory(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """How often so far, under either version of control groups; 0 where the kernel does not tell."""
    for controllers, place in _memberships(groups):
        if controllers not in ("", "memory"):
            continue
        name = "memory.events" if not controllers else "memory.oom_control"
        base = root / controllers
        for folder in (base / place, base):  # a container sees its own group as the root
            with contextlib.suppress(OSError):
                if found := re.search(r"^oom_kill (\d+)$", (folder / name).read_text(), re.MULTILINE):
                    return int(found[1])
    return 0


def _memberships(groups: Path) -> list[tuple[str, str]]:
    """Controllers and folder of each group, from lines such as `0::/user` and `4:memory:/docker`."""
    with contextlib.suppress(OSError):
        lines = groups.read_text().splitlines()
        return [(parts[1], parts[2].lstrip("/")) for line in lines if len(parts := line.split(":", 2)) == 3]
    return []
