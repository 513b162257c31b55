"""Amounts and texts as a person reads them."""


def size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def flat(text: str) -> str:
    """On one line, without what a terminal would take for a command."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
