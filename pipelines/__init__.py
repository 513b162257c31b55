"""The graph of steps and the command line."""
