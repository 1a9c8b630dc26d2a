"""The real Kubernetes components: pinned as Go modules, built here, kept outside the checkout."""

from vpcbox.cluster.components.build import ComponentError, ComponentSet, ensure
from vpcbox.cluster.components.pins import DEFAULT_GROUPS, GROUPS

__all__ = ["DEFAULT_GROUPS", "GROUPS", "ComponentError", "ComponentSet", "ensure"]
