"""One module for each kind of promise."""
