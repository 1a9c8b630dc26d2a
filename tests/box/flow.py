"""Steady flows from an instance outside the cluster to pods: 100 echo requests a second each, every answer counted.

ICMP, which the kernel answers in the pod's namespace: a server there that gets no CPU for seconds, as pods without a
request do on a busy machine, would lose datagrams to its full socket that the network delivered.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from demo.box import Box

_SENDER = """
import json, os, select, socket, struct, sys, time
mine, flows = os.getpid() & 0xFFFF, {}
for target in sys.argv[1:]:
    flows[target] = one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    one.connect((target, 0))
    one.setblocking(False)
def request(number):
    words = [0x0800, mine, number & 0xFFFF, number >> 16]
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!6H", words[0], ~total & 0xFFFF, *words[1:], 0)
sent, answered, errors = 0, {target: set() for target in flows}, []
def read():
    for target, one in flows.items():
        while True:
            try:
                packet = one.recv(128)
                kind, _, its, low, high = struct.unpack_from("!5H", packet, (packet[0] & 15) * 4)
                if kind == 0 and its == mine:
                    answered[target].add(high << 16 | low)
            except BlockingIOError:
                break
            except OSError as error:
                errors.append(f"{target}: {error}")
                break
due = time.monotonic()
while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
    for target, one in flows.items():
        try:
            one.send(request(sent))
        except OSError as error:
            errors.append(f"{target}: {error}")
    sent += 1
    if sent == 1:
        print("sending", flush=True)
    due = max(due + 0.01, time.monotonic() - 0.01)  # one that was held up does not catch up: a burst is no flow
    read()
end = time.monotonic() + 2
while time.monotonic() < end and any(len(got) < sent for got in answered.values()):
    time.sleep(0.01)
    read()
def ranges(numbers):
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs
lost = {target: ranges(set(range(sent)) - got) for target, got in answered.items() if len(got) < sent}
print(json.dumps({"sent": sent, "lost": lost, "errors": errors[:20]}))
"""


class Flow:
    """What came of it, once it is over."""

    sent = 0
    """Requests to each target."""
    lost: dict[str, list[list[int]]]
    """Numbers that were not answered, first and last of each run, by target."""
    errors: list[str]


@contextmanager
def flowing(box: Box, targets: Sequence[str]) -> Iterator[Flow]:
    """For the length of the context, from its first datagram on."""
    flow = Flow()
    argv = box.argv("sh", "outside", "--", "python3", "-c", _SENDER, *targets)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None
        try:
            assert sender.stdout.readline() == "sending\n"
            yield flow
        finally:
            sender.stdin.close()
            said = sender.stdout.read()
    told = json.loads(said)
    flow.sent, flow.lost, flow.errors = told["sent"], told["lost"], told["errors"]
