"""Command: the digests from raw bytes to the report, each verified. Run as `trainworks explain RUN`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from configs.custody import Link, first_broken
from configs.folder import RunFolder
from configs.process import command_main
from pipelines.custody.chain import chain

WORDS = {"verified": "verified", "altered": "ALTERED", "unchecked": "cannot be checked"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="trainworks explain",
        description="Print the digests that tie a run's metrics to its raw bytes, verify each, name the first broken.",
        epilog="exit codes: 0 no link is broken, 1 one is, 2 a mistake in what was asked",
    )
    top.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/NAME")
    top.add_argument("--no-sources", action="store_true", help="leave the raw bytes unread")
    top.add_argument("--json", action="store_true", help="print the links as JSON")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 no link is broken, 1 one is, 2 a mistake in what was asked."""
    arguments = parser().parse_args(argv)

    def explain() -> int:
        links = chain(RunFolder(arguments.run), sources=not arguments.no_sources)
        broken = first_broken(links)
        if arguments.json:
            record = {"links": [asdict(link) for link in links], "first_broken": broken and broken.name}
            print(json.dumps(record, indent=1))
        else:
            print("\n".join(lines(links)))
        return 1 if broken else 0

    return command_main("explain", explain)


def lines(links: Sequence[Link]) -> list[str]:
    """A line for each link with its digest and state, what is wrong beneath it, and the verdict."""
    wide = max(len(link.name) for link in links)
    found = []
    for link in links:
        digests = [each[:16] for each in link.digest.split()] or [""]
        found.append(f"{link.name.ljust(wide)}  {' '.join(digests).ljust(16)}  {WORDS[link.state]}")
        found += [f"{'':{wide}}  {link.detail}"] if link.detail else []
    broken = first_broken(links)
    if broken:
        return [*found, f"the first broken link is {broken.name}: {broken.detail}"]
    sound = sum(link.state == "verified" for link in links)
    rest = len(links) - sound
    return [*found, f"{sound} links are verified" + (f"; {rest} cannot be checked" if rest else "")]


if __name__ == "__main__":
    sys.exit(main())
