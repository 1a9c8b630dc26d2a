"""The data file of instance types."""

from vpcbox.world.instance_types import load


def test_every_type_is_whole() -> None:
    """At least a primary ENI with an address; member ENIs come on top of the others."""
    types = load()
    assert len(types) > 30
    for name, kind in types.items():
        assert name == kind.id
        assert name.startswith("ecs.")
        assert kind.enis >= 1
        assert kind.addresses_per_eni >= 1
        assert kind.enis_total >= kind.enis
        assert kind.family.count(".") == 1


def test_g7_xlarge_is_as_documented() -> None:
    """The default of a box: 4 ENIs, 15 addresses each."""
    kind = load()["ecs.g7.xlarge"]
    assert (kind.enis, kind.addresses_per_eni, kind.enis_total, kind.jumbo) == (4, 15, 20, True)
