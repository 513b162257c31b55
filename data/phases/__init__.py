"""The phases of prepare: units of work, each a pure function of files before it."""
