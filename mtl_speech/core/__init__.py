"""What every other wing needs and what knows nothing of speech: errors, settings, files, runs, processes."""
