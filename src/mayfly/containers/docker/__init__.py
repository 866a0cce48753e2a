"""Containers by a Docker daemon, where its socket, or a remote one by TLS, is all that is to be had."""
