"""Stage 3: a checkpoint to metrics that carry their protocol."""
