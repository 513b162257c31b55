"""What a run left behind, and what it says about why the run ended."""
