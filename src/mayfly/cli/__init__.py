"""
The user's commands. They speak only through `mayfly.client`.

stdout is data, stderr is talk. Modules import the client and the settings when a command runs, not before: reading
the help or completing a word costs neither.
"""

from __future__ import annotations
