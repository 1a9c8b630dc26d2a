"""The machine outside the cluster: it tells a client who the client is, and passes questions on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from demo import outside


@pytest.mark.parametrize("protocol", ["http", "udp"])
def test_client_is_told_its_own_address(protocol: str) -> None:
    """What `clientip` answers is the source address of the packet that asked."""
    make = {"http": lambda: outside.HttpServer(("127.0.0.1", 0), outside._Http)}.get(
        protocol, lambda: outside.UdpServer(("127.0.0.1", 0), outside._Udp)
    )
    with make() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            line = {"host": "127.0.0.1", "port": server.server_address[1], "protocol": protocol, "request": "clientip"}
            said = json.loads(outside.serve(json.dumps(line)))
        finally:
            server.shutdown()
            thread.join()
    [response] = said["responses"]
    assert response.startswith("127.0.0.1:")


def test_nobody_there_is_an_error_in_the_answer() -> None:
    """A refused connection ends the question, not the program."""
    line = {"host": "127.0.0.1", "port": 1, "protocol": "http", "request": "clientip"}
    assert "refused" in json.loads(outside.serve(json.dumps(line)))["errors"][0]


def test_program_ends_with_its_stdin() -> None:
    """Whoever started it and went away leaves nothing behind."""
    program = Path(outside.__file__)
    namespace = ["unshare", "--user", "--map-root-user", "--net"]  # its ports are fixed: give it loopbacks of its own
    done = subprocess.run(
        [*namespace, sys.executable, program], input="", capture_output=True, text=True, timeout=20, check=True
    )
    assert json.loads(done.stdout) == {"ready": True}
