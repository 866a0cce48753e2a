"""What the tests of several deployments share."""

from tests.support.deployments import cuelang, deployment

__all__ = ["cuelang", "deployment"]
