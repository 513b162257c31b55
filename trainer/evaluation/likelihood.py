"""When a likelihood is none."""

import math


def lacking(nll: float, tokens: float) -> str | None:
    """Why a negative log-likelihood summed over tokens gives no metric; None where it gives one."""
    if not tokens:
        return "the split has no token to score"
    if not math.isfinite(nll):
        return f"the negative log-likelihoods add up to {nll}: some of the network's outputs are no numbers"
    return None
