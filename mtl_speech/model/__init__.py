"""Θ, Φ and θ: encoder, scale and shift, head and segmenter, and the packs that they are kept in."""
