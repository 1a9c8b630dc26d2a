"""The box of the tour is the box tests' own kind."""

from tests.box.conftest import box, kubectl_of

__all__ = ["box", "kubectl_of"]
