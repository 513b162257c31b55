"""The node agent: starts this node's ranks, watches them, ends and restarts them, and says what went wrong."""
