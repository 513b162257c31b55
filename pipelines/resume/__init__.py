"""Proof that a training survives being killed: what is tried, how it is carried out, and how it is judged."""
