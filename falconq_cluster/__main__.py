"""`python -m falconq_cluster` is the `falconq` command."""

from falconq_cluster.entry import main

main()
