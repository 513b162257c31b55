"""The global view: what can only be decided over all pieces at once, out of core."""
