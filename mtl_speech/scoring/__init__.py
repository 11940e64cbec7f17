"""F1, error rates, and intervals for both."""
