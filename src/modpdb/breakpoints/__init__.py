"""Where to stop, and what waiting costs."""
