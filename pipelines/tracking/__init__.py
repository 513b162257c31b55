"""Weights & Biases as a view of the event log: made again at any time, it can neither hurt a run nor hold it up."""
