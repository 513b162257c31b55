"""Our speed against that of well-known peers, on one machine, side by side: `python -m benchmarks --list`."""
