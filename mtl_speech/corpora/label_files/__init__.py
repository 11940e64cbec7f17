"""The formats of label files: Praat, ELAN, CTM and lines; their tiers, and the clock that they go by."""
