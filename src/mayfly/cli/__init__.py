"""The user's commands. They speak only through `mayfly.client`."""
