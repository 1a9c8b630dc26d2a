"""Three kinds of pods, nodes and an instance that is none call each other by every path of a real cluster."""

from demo.box import Box
from tests.conformance.cells import table
from tests.conformance.matrix import walk


def test_everybody_calls_everybody_and_shows_the_right_address(box: Box) -> None:
    """kube-proxy in iptables mode; `make matrix` asks in nftables mode, too."""
    results = walk(box, exclusive=1)
    wrong = [complaint for _, complaint in results if complaint]
    assert not wrong, "\n".join([table(results), *wrong])
