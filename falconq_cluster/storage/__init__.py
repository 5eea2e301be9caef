"""Ordered bytes and files: the only floor that touches LevelDB and the file system."""
