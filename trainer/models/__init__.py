"""Networks: torch and nothing else."""
