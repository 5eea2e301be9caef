"""FalconQ Cluster: a replicated message broker behind plain HTTP."""

__version__ = "0.1.0"
