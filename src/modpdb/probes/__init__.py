"""Look at live objects, disturb nothing, return plain dataclasses. They know no debugger."""
