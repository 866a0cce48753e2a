"""What is wrong with the gateway's files: where, which rule, and what to do about it. Rows: D3."""

from __future__ import annotations

from dataclasses import dataclass

LINE_MAX = 1000
CONFIG, ROUTES = "config.yaml", "apisix.yaml"


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One thing that is wrong. It never has a value of the file in it: that may be a secret, and what is said here ends
    up in logs.
    """

    file: str  # CONFIG or ROUTES
    where: str  # a path, such as routes[api].plugins.jwt-auth.query; a line if there is no path yet
    message: str

    def __str__(self) -> str:
        """Word it as one line, whatever the names in the file are."""
        line = f"{self.file}: {self.where}: {self.message}" if self.where else f"{self.file}: {self.message}"
        return "".join(sign if sign.isprintable() else "?" for sign in line[:LINE_MAX])
