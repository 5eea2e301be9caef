"""Experiments that break a cluster on purpose, and a judge that says whether the promises held."""
