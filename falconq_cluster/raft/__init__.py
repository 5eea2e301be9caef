"""Consensus: PySyncObj for the algorithm, everything that touches the world around it is here."""
