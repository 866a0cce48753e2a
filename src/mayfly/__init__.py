"""Mayfly: one HTTPS call runs one fresh container of any docker image and answers with its stdout."""

from __future__ import annotations

__version__ = "0.1.0"
