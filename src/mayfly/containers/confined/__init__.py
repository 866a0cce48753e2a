"""Calls as confined processes of the worker's own container, where no privileges are to be had."""
