"""What a run is: the schema, how files become a run, and how the run folder is laid out. Never imports torch."""
