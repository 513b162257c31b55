"""Chain of custody: the digests from raw bytes to the report, and a run done again."""
