"""The networks whose features images are compared by, each under its own name."""
