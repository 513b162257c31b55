"""Stage 1 and the way back out: raw files to shards, shards to batches."""
