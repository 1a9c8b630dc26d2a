"""Every error eniway raises on purpose.

EniwayError
├── InvalidRequest          the caller's fault: says the field and what was expected; asking again does not help
│   ├── BadConfig           a configuration file or CNI configuration
│   └── BadAnnotation       a pod's annotation or resource
├── NotReady                not now; asking again helps (``after`` seconds, where known)
│   └── DeadlineExceeded    waited as long as it was worth; says for what
├── CapacityError           there is none left; not before something is freed
│   ├── SlotsExhausted      the instance has no free ENI slot
│   ├── VSwitchExhausted    no vSwitch has a free address
│   └── PodCidrExhausted    the node's podCIDR has no free address
├── CloudError              the OpenAPI said no (mapped in eniallocator.cloud, by Code)
├── KubeError               the API server said no (mapped in eniway.kube)
├── KernelError             netlink or sysctl said no (mapped in datapath)
├── ConflictError           the books say that somebody else holds it
└── InvariantBroken         a bug: logged, counted, never swallowed

Foreign errors are mapped at three seams, cloud, kube and kernel, with their cause chained.
"""

from __future__ import annotations


class EniwayError(Exception):
    """Base of all."""


class InvalidRequest(EniwayError):
    """The request cannot be served as it stands."""


class BadConfig(InvalidRequest):
    """A configuration has an unknown key or a value of the wrong kind."""


class BadAnnotation(InvalidRequest):
    """A pod asks for something in words eniway does not know."""


class NotReady(EniwayError):
    """Not now; the same call may succeed later."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class DeadlineExceeded(NotReady):
    """The wait was longer than the caller's deadline."""


class CapacityError(EniwayError):
    """Nothing is left to hand out."""


class SlotsExhausted(CapacityError):
    """All ENI slots of the instance are taken."""


class VSwitchExhausted(CapacityError):
    """No configured vSwitch has a free address."""


class PodCidrExhausted(CapacityError):
    """The node's podCIDR has no free address."""


class CloudError(EniwayError):
    """The OpenAPI refused. Subclasses live with the mapping in ``eniallocator.cloud.errors``."""


class KubeError(EniwayError):
    """The API server refused or could not be reached."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class KernelError(EniwayError):
    """The kernel refused an operation."""


class ConflictError(EniwayError):
    """Somebody else holds what was asked for."""


class Outdated(EniwayError):
    """What this process was started with holds no more: it ends, and the next one knows better."""


class InvariantBroken(EniwayError):
    """The books contradict themselves."""
