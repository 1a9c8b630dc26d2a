"""What kube-proxy and the runtime's folder say."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cni import conflist
from eniway.errors import NotReady
from eniway.node.diagnosis import KubeProxy
from eniway.node.surroundings import kube_proxy, read

SAID = {
    "Mode": "iptables",
    "IPTables": {"MasqueradeBit": 14, "LocalhostNodePorts": True},
    "NFTables": {"MasqueradeBit": 13},
    "DetectLocalMode": "InterfaceNamePrefix",
    "DetectLocal": {"BridgeInterface": "", "ClusterCIDRs": None, "InterfaceNamePrefix": "eniw"},
}
"""Of kube-proxy 1.34's /configz, the parts that are read."""


@pytest.mark.parametrize(
    ("changes", "read_as"),
    [
        ({}, KubeProxy("InterfaceNamePrefix eniw", 14)),
        ({"Mode": "nftables"}, KubeProxy("InterfaceNamePrefix eniw", 13)),
        ({"DetectLocalMode": ""}, KubeProxy("ClusterCIDR", 14)),
        ({"DetectLocalMode": "NodeCIDR"}, KubeProxy("NodeCIDR", 14)),
        (
            {"DetectLocalMode": "ClusterCIDR", "DetectLocal": {"ClusterCIDRs": ["172.20.0.0/16", "fd00::/48"]}},
            KubeProxy("ClusterCIDR 172.20.0.0/16,fd00::/48", 14),
        ),
        ({"DetectLocal": None, "IPTables": None}, KubeProxy("InterfaceNamePrefix", None)),
    ],
)
def test_kube_proxys_words_are_understood(changes: dict[str, Any], read_as: KubeProxy) -> None:
    """In each of its modes; what it does not say is not made up."""
    assert read({"kubeproxy.config.k8s.io": {**SAID, **changes}}) == read_as


@pytest.mark.parametrize("configz", [{}, [], None, {"kubeproxy.config.k8s.io": 1}])
def test_what_is_no_kube_proxys_is_not_understood(configz: object) -> None:
    """Somebody else may listen on that port."""
    with pytest.raises(NotReady, match=r"no kubeproxy\.config\.k8s\.io"):
        read(configz)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server on loopback that answers /configz as kube-proxy does, and / with no JSON."""

    async def configz(_request: web.Request) -> web.Response:
        return web.json_response({"kubeproxy.config.k8s.io": SAID})

    async def text(_request: web.Request) -> web.Response:
        return web.Response(text="<html>")

    app = web.Application()
    app.router.add_get("/configz", configz)
    app.router.add_get("/text", text)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_kube_proxy_is_asked_over_http(port: int) -> None:
    """What is no answer of its is said to be none."""
    assert await kube_proxy(f"http://127.0.0.1:{port}/configz") == KubeProxy("InterfaceNamePrefix eniw", 14)
    for path in ("text", "nowhere"):
        with pytest.raises(NotReady, match="kube-proxy"):
            await kube_proxy(f"http://127.0.0.1:{port}/{path}")
    with pytest.raises(NotReady, match="does not answer"):
        await kube_proxy("http://127.0.0.1:1/configz")


def test_our_files_are_as_we_left_them_or_amiss(tmp_path: Path) -> None:
    """Missing, cut short or another's."""
    config, binaries, relay = tmp_path / "net.d", tmp_path / "bin", tmp_path / "relay"
    relay.write_bytes(b"\x7fELF")
    paths = (str(binaries / "eniway"), str(config / "10-eniway.conflist"))
    assert conflist.amiss(relay, config, binaries) == paths
    conflist.write(config)
    conflist.install_relay(relay, binaries)
    assert conflist.amiss(relay, config, binaries) == ()
    Path(paths[0]).write_bytes(b"\x7fEL")
    assert conflist.amiss(relay, config, binaries) == paths[:1]


def test_the_plugin_that_comes_with_the_node_is_looked_for(tmp_path: Path) -> None:
    """By its name, beside ours."""
    assert not conflist.has_portmap(tmp_path)
    (tmp_path / "portmap").touch()
    assert conflist.has_portmap(tmp_path)


def test_the_runtime_takes_the_first_by_name(tmp_path: Path) -> None:
    """Of the files that it reads."""
    assert conflist.chosen(tmp_path) is None
    conflist.write(tmp_path)
    for name in ("00-notes.txt", ".10-eniway.conflist.7", "99-other.conf"):
        (tmp_path / name).touch()
    assert conflist.chosen(tmp_path) == "10-eniway.conflist"
    (tmp_path / "05-other.json").touch()
    assert conflist.chosen(tmp_path) == "05-other.json"
