"""Sound files byte by byte: what lies in them, how much of it, and what is odd about it. libsndfile decodes."""
