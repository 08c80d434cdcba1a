"""Programs that modpdb brings to be debugged: ordinary scripts, stepped through like any other."""
