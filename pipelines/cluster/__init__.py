"""Pipeline runs on a cluster, from the command line: submitted, followed, shown, ended, scheduled."""
