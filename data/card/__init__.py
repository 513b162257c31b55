"""The data card: what a data set holds, as one page that needs nothing else."""
