"""Audio as tensors: frames of recordings, segments in them, augmentation."""
