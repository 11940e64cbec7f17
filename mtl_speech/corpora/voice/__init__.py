"""The synthetic voice: espeak-ng in a process of its own, and a Punjabi corpus that it speaks."""
