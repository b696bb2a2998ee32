"""ML engineering: not graded yet."""

from sandbox_service.graders.unwired import grade

__all__ = ["grade"]
