"""The CRD's schema holds what the daemon publishes."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from eniallocator import publish
from eniallocator.conditions import Condition
from eniallocator.lifecycle import State
from eniallocator.plan import CardView
from eniallocator.records import EniRecord, Identity, Use
from eniway.model import Capacity, EniId, InstanceId, Mac, PodUid, Slot, VSwitchId, Wish

CRD = yaml.safe_load((Path(__file__).parents[3] / "manifests/base/nodenetwork.yaml").read_text())
SCHEMA: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
TYPES: dict[str, type[Any]] = {"object": dict, "array": list, "string": str, "integer": int}
HERE = VSwitchId("vsw-a")
IDENTITY = Identity(
    instance_id=InstanceId("i-1"),
    instance_type="ecs.g7.xlarge",
    region="cn-a",
    zone="cn-a-1",
    vpc_id="vpc-1",
    primary_eni=EniId("eni-0"),
    primary_mac=Mac("00:16:3e:00:00:01"),
    primary_vswitch=HERE,
    primary_address=IPv4Address("10.0.0.4"),
    primary_prefix=IPv4Network("10.0.0.0/20"),
    primary_gateway=IPv4Address("10.0.15.253"),
)


def complaints(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """What a structural schema without unknown fields says against ``value``: the part of OpenAPI that the CRD uses."""
    if not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool):
        return [f"{path}: expected {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: expected one of {schema['enum']}"]
    if schema["type"] == "object":
        known = schema.get("properties", {})
        wrong = [f"{path}.{key}: unknown" for key in value if key not in known]
        wrong += [f"{path}.{key}: missing" for key in schema.get("required", []) if key not in value]
        return wrong + [
            text for key in value if key in known for text in complaints(value[key], known[key], f"{path}.{key}")
        ]
    if schema["type"] == "array":
        return [text for at, item in enumerate(value) for text in complaints(item, schema["items"], f"{path}[{at}]")]
    return []


def published(*, use: Use, state: State, known: bool) -> dict[str, Any]:
    """A status with one card; ``known``: the cloud has told its ids."""
    eni = EniRecord("token", use, state, Slot(1), HERE, since=1.0)
    if known:
        eni = EniRecord(
            "token",
            use,
            state,
            Slot(1),
            HERE,
            1.0,
            0,
            EniId("eni-1"),
            Mac("00:16:3e:00:00:02"),
            IPv4Address("10.0.16.9"),
        )
    return publish.node_network(
        identity=IDENTITY,
        vswitches=[HERE],
        enis=[eni],
        cards={"token": CardView("token", use, state, Slot(1), HERE)},
        capacity=dict.fromkeys(
            ("slots", "addresses", "services", "routed"),
            Capacity(in_service=3, growable=2, cooling=1, orphaned=0, used=1),
        ),
        most=dict.fromkeys(("slots", "addresses", "services", "routed"), 5),
        either={"slots": 1, "addresses": 14, "perSlot": 14},
        holders={"slots": [], "addresses": [PodUid("0d4ad17c-5e0c-4c9f-9d1e-8a1f7f7d9a11")], "routed": []},
        wish=Wish.SHARED_ELSE_ROUTED,
        conditions=[Condition("Ready", status, "Reason", "", since=1.5) for status in (True, False, None)],
    )


@pytest.mark.parametrize("use", Use)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("known", [True, False])
def test_whatever_is_published_fits_the_schema(*, use: Use, state: State, known: bool) -> None:
    """The API server prunes unknown fields in silence and refuses wrong ones: there are none of either."""
    status = published(use=use, state=state, known=known)
    assert complaints(status, SCHEMA["properties"]["status"]) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [(("capacity", "slots", "free"), "1"), (("capacity", "slots", "spare"), 1), (("zone",), 7), (("cards",), [{}])],
)
def test_the_check_itself_finds_faults(path: tuple[str, ...], value: object) -> None:
    """A wrong type, an unknown field and a missing one are each found."""
    status = published(use=Use.SHARED, state=State.READY, known=True)
    inner = status
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert complaints(status, SCHEMA["properties"]["status"])


def test_every_column_of_kubectl_is_published() -> None:
    """No column of ``kubectl get nodenetworks`` stays empty for a field that is not there."""
    status = published(use=Use.SHARED, state=State.READY, known=True)
    for column in CRD["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"].removeprefix(".").split(".")
        if path[0] != "status" or "conditions" in column["jsonPath"]:
            continue
        value: Any = status
        for key in path[1:]:
            value = value[key]
        assert isinstance(value, TYPES[column["type"]]), column
