"""Labels of phonemes, their articulation, inventories, and the languages they belong to."""
