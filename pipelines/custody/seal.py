"""A page's own digest as its last line: a self-contained page cannot have its digest anywhere else."""

import re
from hashlib import sha256

NO_METRICS = "none"
_FORM = re.compile(rf"<!-- metrics ([0-9a-f]{{64}}|{NO_METRICS}) sha256 ([0-9a-f]{{64}}) -->\n\Z")


def sealed(page: str, metrics: str | None) -> str:
    """The page with its seal: the digest of the metrics that it shows, and of all that stands before."""
    body = page if page.endswith("\n") else f"{page}\n"
    begin = f"<!-- metrics {metrics or NO_METRICS} sha256 "
    return body + begin + _digest(body + begin) + " -->\n"


def read_seal(page: str) -> tuple[str, bool] | None:
    """The digest of the metrics that a page shows, and whether the page is as it was sealed; None without a seal."""
    if not (found := _FORM.search(page)):
        return None
    return found[1], _digest(page[: found.start(2)]) == found[2]


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
