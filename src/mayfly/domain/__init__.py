"""The nouns of Mayfly and their rules. Pure: no I/O, no clock, no environment."""
