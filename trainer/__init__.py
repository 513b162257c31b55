"""Stages 2 and 3: shards to checkpoint, checkpoint to metrics."""
