"""The rules of the broker, pure: (state, command, index) -> changes, results, events."""
