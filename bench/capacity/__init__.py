"""The capacity model: what an installation of some size does with some load. See docs/explanation/capacity.md."""
