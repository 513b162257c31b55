"""Files that the program's output must equal."""
