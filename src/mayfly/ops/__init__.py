"""The operator's commands: up, api, worker, bootstrap, settings, images."""
