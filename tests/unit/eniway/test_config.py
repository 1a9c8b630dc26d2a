import pytest

from eniway import config
from eniway.errors import BadConfig

GOOD = """
cluster: demo
vswitches: [vsw-1]
security_groups: [sg-1]
service_cidr: 172.21.0.0/20
"""


def test_the_least_configuration_is_accepted() -> None:
    """Four keys suffice; the rest has defaults."""
    parsed = config.parse(GOOD, source="config.yaml")
    assert parsed.cluster == "demo"
    assert parsed.pool.cooldown_seconds == 30


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("vswitch: vsw-1", "unknown field `vswitch`"),
        ("pool: {min_idle_adresses: 2}", r"unknown field `min_idle_adresses` - at `\$.pool`"),
        ("pool: {exclusive_slots: many}", r"`\$.pool.exclusive_slots`"),
        ("pool: {min_idle_addresses: 9, max_idle_addresses: 3}", "expected at most max_idle_addresses"),
        ("log_level: loud", "log_level"),
        ("service_cidr: 172.21.0.1/20", "service_cidr"),
        ("snat: outside-vpc", r"`\$.vpc_cidrs`: expected the VPC's networks with snat: outside-vpc"),
        ("vpc_cidrs: [10.0.0.0/8]", r"`\$.vpc_cidrs`: .* and only then"),
        ("snat: outside-vpc\nvpc_cidrs: [10.0.0.0/8, 10.0.0.1/8]", r"`\$.vpc_cidrs\[1\]`: expected an IPv4 network"),
    ],
    ids=[
        *("unknown key", "unknown nested key", "wrong kind", "contradiction", "unknown word", "host bits"),
        *("no networks", "idle networks", "bad network"),
    ],
)
def test_a_bad_configuration_is_refused_with_its_path(extra: str, says: str) -> None:
    """The error names the file, the key and what was expected."""
    text = GOOD.replace("service_cidr: 172.21.0.0/20", "") if extra.startswith("service_cidr") else GOOD
    with pytest.raises(BadConfig, match=says) as caught:
        config.parse(text + extra, source="config.yaml")
    assert str(caught.value).startswith("config.yaml: ")


def test_a_missing_key_is_named() -> None:
    """Nothing has a guessed default where a guess would be wrong."""
    with pytest.raises(BadConfig, match="missing required field `cluster`"):
        config.parse("vswitches: [vsw-1]", source="config.yaml")


def test_the_operator_reads_the_same_file() -> None:
    """Its section has defaults; half a place is refused, and so is a key that nobody knows."""
    assert config.parse(GOOD, source="f").operator == config.OperatorConfig()
    for wrong, where in (
        ("{region: cn-box}", r"\$\.operator.*both of region and vpc"),
        ("{routes: sometimes}", r"\$\.operator\.routes"),
        ("{surplus: 1}", "surplus"),
    ):
        with pytest.raises(BadConfig, match=where):
            config.parse(f"{GOOD}operator: {wrong}\n", source="f")
