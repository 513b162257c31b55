"""Keys of DeepSpeed's own configuration: which there are, and which trainworks sets from the run."""

from collections.abc import Mapping
from typing import Any


def deepspeed_problem(overrides: Mapping[str, Any]) -> str | None:
    """What is wrong with the section `deepspeed`, in words."""
    return None
