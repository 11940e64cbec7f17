"""What people bring: recordings, labels beside them, places they lie in, and what is wrong with them."""
