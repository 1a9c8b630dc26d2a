"""A machine of the VPC that is no node: it serves HTTP and UDP there, and asks others for whoever writes to its stdin.

It answers `clientip` and `hostname` as agnhost netexec does. Each line on stdin is a request, {"host", "port",
"protocol", "request"}; each line on stdout its answer, {"responses": […], "errors": […]}. It ends when stdin does.
Only the standard library, so that any Python of the machine can run it.
"""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import sys
import threading
import urllib.request
from typing import Any

HTTP_PORT, UDP_PORT = 8080, 8081
TIMEOUT = 5.0


def reply(request: str, client: tuple[str, int], hostname: str) -> str:
    """What a client is told."""
    known = {"clientip": f"{client[0]}:{client[1]}", "hostname": hostname}
    return known.get(request, f"expected one of {', '.join(known)}")


class _Http(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = reply(self.path.strip("/").lower(), self.client_address, socket.gethostname()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:  # stdout carries the answers, stderr is the user's
        pass


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, answering = self.request
        said = reply(data.decode().strip().lower(), self.client_address, socket.gethostname())
        answering.sendto(said.encode(), self.client_address)


class HttpServer(http.server.ThreadingHTTPServer):
    """Several clients at a time."""

    daemon_threads = True
    request_queue_size = 64


class UdpServer(socketserver.UDPServer):
    """One datagram after the other."""

    max_packet_size = 2048


def ask(host: str, port: int, protocol: str, request: str) -> str:
    """One request by HTTP or UDP; OSError where nothing comes back."""
    if protocol == "http":
        with urllib.request.urlopen(f"http://{host}:{port}/{request}", timeout=TIMEOUT) as answer:
            return str(answer.read().decode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(TIMEOUT)
        udp.connect((host, port))
        udp.send(request.encode())
        return udp.recv(2048).decode()


def serve(line: str) -> str:
    """The answer to one line of stdin."""
    try:
        said = {"responses": [ask(**json.loads(line))]}
    except OSError as error:
        said = {"errors": [f"{type(error).__name__}: {error}"]}
    return json.dumps(said)


def main() -> None:
    """Serve until stdin ends."""
    for server in (HttpServer(("", HTTP_PORT), _Http), UdpServer(("", UDP_PORT), _Udp)):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(serve(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
