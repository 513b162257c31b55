"""Regression gate: whether new runs are better, the same or worse than a baseline, by the noise of seeds."""
