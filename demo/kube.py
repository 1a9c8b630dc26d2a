"""The API server, as a user's program sees it: get, apply, delete, wait by watching, and the proxy to a pod."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3
import yaml

T = TypeVar("T")
Object = dict[str, Any]
_PLURALS = {
    "Namespace": "namespaces",
    "Pod": "pods",
    "Service": "services",
    "Deployment": "deployments",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "EndpointSlice": "endpointslices",
}


class ApiError(Exception):
    """The API server refused, with its message; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


def tls(kubeconfig: Mapping[str, Any]) -> tuple[str, ssl.SSLContext]:
    """Server URL and TLS settings of a kubeconfig with one cluster and one user who has a client certificate."""
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]

    def pem(of: Mapping[str, str], key: str) -> bytes:
        return base64.b64decode(of[f"{key}-data"]) if f"{key}-data" in of else Path(of[key]).read_bytes()

    context = ssl.create_default_context(cadata=pem(cluster, "certificate-authority").decode())
    with tempfile.NamedTemporaryFile() as chain:  # the ssl module takes a client's key from a file only
        chain.write(pem(user, "client-certificate") + b"\n" + pem(user, "client-key"))
        chain.flush()
        context.load_cert_chain(chain.name)
    return cluster["server"], context


def path_of(manifest: Object) -> str:
    """Where an object lives in the API."""
    version, metadata = manifest["apiVersion"], manifest["metadata"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    space = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{root}{space}/{_PLURALS[manifest['kind']]}/{metadata['name']}"


class Kube:
    """Requests to one API server over kept-alive connections; may be used by several threads."""

    def __init__(self, kubeconfig: Path, *, connections: int = 8) -> None:
        self._server, context = tls(yaml.safe_load(kubeconfig.read_text()))
        self._http = urllib3.PoolManager(ssl_context=context, maxsize=connections, block=True, retries=False)

    def raw(
        self, method: str, path: str, *, body: bytes | None = None, kind: str = "application/json", seconds: float = 30
    ) -> bytes:
        """One request; the body of the answer. ApiError where the status is not 2xx."""
        answer = self._http.request(
            method, self._server + path, body=body, headers={"Content-Type": kind}, timeout=seconds
        )
        if answer.status >= 300:
            raise ApiError(answer.status, _message(answer.data))
        return answer.data

    def get(self, path: str) -> Object:
        """One object or list."""
        found: Object = json.loads(self.raw("GET", path))
        return found

    def apply(self, manifest: Object) -> Object:
        """Server-side apply."""
        path = f"{path_of(manifest)}?fieldManager=demo&force=true"
        body = json.dumps(manifest).encode()
        applied: Object = json.loads(self.raw("PATCH", path, body=body, kind="application/apply-patch+yaml"))
        return applied

    def create(self, path: str, manifest: Object) -> Object:
        """Create an object in the collection at ``path``."""
        created: Object = json.loads(self.raw("POST", path, body=json.dumps(manifest).encode()))
        return created

    def delete(self, path: str, *, grace: int | None = None) -> None:
        """Delete an object; one that is not there is no error. ``grace`` 0 is a force delete."""
        options = {"propagationPolicy": "Background"} | ({} if grace is None else {"gracePeriodSeconds": grace})
        try:
            self.raw("DELETE", path, body=json.dumps(options).encode())
        except ApiError as error:
            if error.status != 404:
                raise

    def ask_pod(self, namespace: str, pod: str, port: int, request: str) -> bytes:
        """An HTTP GET to a port of a pod, through the API server's proxy."""
        return self.raw("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{request}")

    def until(self, path: str, done: Callable[[list[Object]], T | None], *, seconds: float, selector: str = "") -> T:
        """List, then watch, until ``done`` returns something of the objects; TimeoutError after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            listed = self.get(f"{path}?{urlencode({'labelSelector': selector})}")
            objects = {item["metadata"]["uid"]: item for item in listed["items"]}
            if (found := done(list(objects.values()))) is not None:
                return found
            for event in self._watch(path, selector, listed["metadata"]["resourceVersion"], deadline):
                if event["type"] == "ERROR":  # too old a version: list again
                    break
                item = event["object"]
                objects[item["metadata"]["uid"]] = item
                if event["type"] == "DELETED":
                    del objects[item["metadata"]["uid"]]
                if (found := done(list(objects.values()))) is not None:
                    return found
            if time.monotonic() >= deadline:
                now = (
                    ", ".join(f"{o['metadata']['name']}: {o.get('status', {})}" for o in objects.values()) or "nothing"
                )
                raise TimeoutError(f"{path} {selector}: not as expected after {seconds:.0f} s; now: {now}")

    def _watch(self, path: str, selector: str, version: str, deadline: float) -> Iterator[Object]:
        left = max(1, round(deadline - time.monotonic()))
        query = {"watch": 1, "labelSelector": selector, "resourceVersion": version, "timeoutSeconds": left}
        stream = self._http.request(
            "GET",
            f"{self._server}{path}?{urlencode(query)}",
            preload_content=False,
            timeout=urllib3.Timeout(connect=10, read=left + 10),
        )
        try:
            rest = b""
            for chunk in stream.stream(amt=None):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines if line)
        finally:
            stream.close()
            stream.release_conn()


def _message(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()
