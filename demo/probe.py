"""Asks: has one question put by the one who is to ask it, and brings the answer back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlencode

from demo.box import Box
from demo.checks import HTTP, PORTS, Answer, Question
from demo.kube import ApiError, Kube

_AT_A_TIME = 8


class Asker(Protocol):
    """Someone who can be made to ask."""

    def ask(self, question: Question) -> Answer:
        """The answer to a question as it arrived there."""


class PodAsker:
    """A pod that runs agnhost netexec: its /dial asks from inside the pod. It is told by the API server's proxy."""

    def __init__(self, kube: Kube, namespace: str, pod: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._pod = pod

    def ask(self, question: Question) -> Answer:
        """The answer; an API server that does not get through to the pod is an error of its own in it."""
        query = urlencode(
            {
                "host": question.host,
                "port": question.port,
                "protocol": question.protocol,
                "request": question.request,
                "tries": question.tries,
            }
        )
        try:
            said = json.loads(self._kube.ask_pod(self._namespace, self._pod, PORTS[HTTP], f"dial?{query}"))
        except ApiError as error:
            return Answer(errors=(f"API server → {self._pod}: {error}",))
        return Answer(tuple(said.get("responses", ())), tuple(said.get("errors", ())))


class OutsideAsker:
    """The instance of the VPC that is no node, running `demo/outside.py` for as long as the context lasts."""

    def __init__(self, box: Box, instance: str) -> None:
        self._argv = box.argv("sh", instance, "--", sys.executable, str(Path(__file__).with_name("outside.py")))
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        if not self._out.readline():
            raise RuntimeError(f"the server outside ended at once, with status {self._process.wait()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in.close()
        self._process.wait()
        self._out.close()

    def ask(self, question: Question) -> Answer:
        """The answer; one question at a time."""
        fields = ("host", "port", "protocol", "request")
        line = json.dumps({field: getattr(question, field) for field in fields}, default=str)
        with self._lock:
            self._in.write(line + "\n")
            self._in.flush()
            said = json.loads(self._out.readline())
        return Answer(tuple(said.get("responses", ())), tuple(said.get("errors", ())))


def wait_for_kube_proxy(box: Box, node: str, backends: Iterable[IPv4Address], *, seconds: float) -> None:
    """Wait until kube-proxy (iptables mode) of a node has heard of all backends; nothing tells of it but its rules.

    TimeoutError names those it knows nothing of after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        rules = box.sh(node, ["iptables-save", "-t", "nat"])
        unknown = [backend for backend in backends if f"--to-destination {backend}:" not in rules]
        if not unknown:
            return
        if time.monotonic() >= deadline:
            raise TimeoutError(
                f"{node}: after {seconds:.0f} s kube-proxy has no rule for {', '.join(map(str, unknown))}"
            )
        time.sleep(0.2)


def ask_all(questions: Sequence[Question], askers: Mapping[str, Asker]) -> list[Answer]:
    """The answers to all questions, in their order; a few are asked at the same time."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(lambda question: askers[question.asker].ask(question), questions))
