"""The documents, tried: what a page tells a reader to type is typed, and prints what the page says."""
