"""The command line: what each command does, from its options to its last line."""
