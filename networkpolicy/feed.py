"""From the API server's watches to the model: pods, namespaces and policies of the whole cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from eniway.kube.client import KubeClient
from eniway.kube.reflector import Reflector
from networkpolicy.model import Model
from networkpolicy.views import NamespaceView, PodView, PolicyView


def watches(
    client: KubeClient,
    model: Model,
    *,
    random: Random,
    changed: Callable[[], None] = lambda: None,
    local: Callable[[str, str], None] = lambda _namespace, _name: None,
) -> Sequence[Reflector[Any]]:
    """Three reflectors that fill ``model``.

    ``changed`` is called after each event, ``local`` with namespace and name of a pod of this node after its own.
    """
    return (
        Reflector(client, "/api/v1/namespaces", NamespaceView, random=random, store=_Namespaces(model, changed)),
        Reflector(
            client,
            "/apis/networking.k8s.io/v1/networkpolicies",
            PolicyView,
            random=random,
            store=_Policies(model, changed),
        ),
        Reflector(client, "/api/v1/pods", PodView, random=random, store=_Pods(model, changed, local)),
    )


class _Namespaces:
    def __init__(self, model: Model, changed: Callable[[], None]) -> None:
        self._model = model
        self._changed = changed

    def put(self, _key: str, item: NamespaceView) -> None:
        self._model.put_namespace(item)
        self._changed()

    def drop(self, key: str, _version: int = 0, /) -> None:
        self._model.drop_namespace(key)
        self._changed()

    def listed(self, keys: set[str]) -> None:
        for key in self._model.namespaces() - keys:
            self.drop(key)


class _Policies:
    def __init__(self, model: Model, changed: Callable[[], None]) -> None:
        self._model = model
        self._changed = changed

    def put(self, _key: str, item: PolicyView) -> None:
        self._model.put_policy(item)
        self._changed()

    def drop(self, key: str, _version: int = 0, /) -> None:
        namespace, name = key.split("/", 1)
        self._model.drop_policy(namespace, name)
        self._changed()

    def listed(self, keys: set[str]) -> None:
        for key in self._model.policies() - keys:
            self.drop(key)


class _Pods:
    def __init__(self, model: Model, changed: Callable[[], None], local: Callable[[str, str], None]) -> None:
        self._model = model
        self._changed = changed
        self._local = local

    def put(self, _key: str, item: PodView) -> None:
        self._model.put_pod(item)
        self._changed()
        namespace, name = item.metadata.namespace, item.metadata.name
        if self._model.is_local(namespace, name):
            self._local(namespace, name)

    def drop(self, key: str, _version: int = 0, /) -> None:
        namespace, name = key.split("/", 1)
        self._model.drop_pod(namespace, name)
        self._changed()

    def listed(self, keys: set[str]) -> None:
        for key in self._model.pods() - keys:
            self.drop(key)
