"""Errors of the service and how they map to gRPC status codes.

SandboxError            our own fault, or the host's: never a reward
+-- BadRequest          the caller broke the contract (INVALID_ARGUMENT)
+-- Unauthenticated     no token, or one that is forged or has expired (UNAUTHENTICATED)
+-- Forbidden           the token is for another run (PERMISSION_DENIED)
+-- NotFound            unknown or expired session, unknown task (NOT_FOUND)
+-- IdReused            an id came back with a different request (ALREADY_EXISTS)
+-- Overloaded          no capacity now, try again (RESOURCE_EXHAUSTED)
+-- Draining            the service is shutting down (UNAVAILABLE)
+-- IsolationError      isolation does not hold on this host (FAILED_PRECONDITION)
+-- TaskSetError        a task set is missing or damaged (FAILED_PRECONDITION)
"""


class SandboxError(Exception):
    """Base class. The message always names the remedy where there is one."""


class BadRequest(SandboxError):
    pass


class Unauthenticated(SandboxError):
    pass


class Forbidden(SandboxError):
    pass


class NotFound(SandboxError):
    pass


class IdReused(SandboxError):
    pass


class Overloaded(SandboxError):
    pass


class Draining(SandboxError):
    pass


class IsolationError(SandboxError):
    pass


class TaskSetError(SandboxError):
    pass
