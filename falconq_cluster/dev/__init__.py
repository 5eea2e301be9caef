"""A cluster on one machine, for people who try it."""
