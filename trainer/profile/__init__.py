"""What a run will cost, told from its configuration: no data, no GPU and no weights are needed."""
