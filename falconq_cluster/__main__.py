"""`python -m falconq_cluster` is the `falconq` command."""

from falconq_cluster.cli import app

app()
