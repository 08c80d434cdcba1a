"""Plain data into rich tables and trees. They know no torch."""
