"""The worker: claims activations, runs each in a container of its own, answers, cleans up."""
