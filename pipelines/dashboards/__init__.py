"""Dashboards as code: the workspaces of Weights & Biases, made from what families declare that their runs tell."""
