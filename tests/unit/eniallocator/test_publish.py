"""What the cluster gets to know."""

from dataclasses import replace
from pathlib import Path

import yaml

from eniallocator import publish
from eniallocator.conditions import Conditions
from eniallocator.devices import Device, devices
from eniallocator.lifecycle import State
from eniallocator.plan import CardView
from eniallocator.records import Use
from eniallocator.routed import Standing
from eniway.model import Capacity, Slot, VSwitchId, Wish
from tests.unit.eniallocator.made import eni
from tests.unit.eniallocator.test_plan import LIMITS, VSWITCH, card, free
from tests.unit.eniallocator.test_reclaim import IDENTITY

SERVES = Standing(possible=True, reason="Serving", message="")


def addresses(*cards: CardView, stock: int = 1000, **limits: object) -> Capacity:
    return publish.address_capacity(cards, replace(LIMITS, **limits), stock=stock)  # type: ignore[arg-type]  # its fields


def test_an_empty_node_can_grow_to_all_its_shared_slots() -> None:
    """Two shared slots of fourteen addresses."""
    assert addresses() == Capacity(in_service=0, growable=28, cooling=0, orphaned=0, used=0)


def test_free_is_what_the_words_say() -> None:
    """In service and growable, less what is used, cools or is orphaned."""
    capacity = addresses(card(1, used=4, free=free(3), cooling=2, stuck=1))
    assert capacity == Capacity(in_service=10, growable=18, cooling=2, orphaned=1, used=4)
    assert publish.free(capacity) == 21


def test_growth_ends_with_the_stock() -> None:
    """Of the vSwitches, and of the places of the instance."""
    assert addresses(card(1, used=4), stock=3).growable == 3
    assert addresses(card(1, used=4), vswitch=None).growable == 10
    assert addresses(card(1, used=4), vswitch=None, empty_vswitches={VSWITCH}).growable == 0
    assert addresses(card(1, used=4), foreign=2).growable == 10


def test_a_card_on_its_way_is_growth() -> None:
    """With the addresses it brings and the room it has, counted once."""
    capacity = addresses(card(1, state=State.CREATING, arriving=5), card(2, used=14))
    assert capacity == Capacity(in_service=14, growable=14, cooling=0, orphaned=0, used=14)


def test_pods_on_a_lost_card_are_used_and_serve_nobody_else() -> None:
    """They count on both sides."""
    capacity = addresses(card(1, state=State.LOST, used=3, free=free(4)), vswitch=None)
    assert capacity == Capacity(in_service=3, growable=0, cooling=0, orphaned=0, used=3)


def test_addresses_of_a_slot_that_was_given_away_are_no_capacity() -> None:
    """They are not handed out any more."""
    capacity = addresses(card(1, used=14), card(2, used=3, free=free(4)), shared_slots=frozenset({Slot(1)}))
    assert (capacity.used, publish.free(capacity)) == (17, 0)


def test_slots_in_the_four_words() -> None:
    """A slot with a ready card is in service, one that can be filled is growth."""
    limits = replace(LIMITS, shared_slots=frozenset({Slot(1)}), exclusive_slots=frozenset({Slot(2), Slot(3)}))
    cards = [card(1), card(3, Use.EXCLUSIVE, used=1)]
    assert publish.slot_capacity(cards, limits) == Capacity(in_service=1, growable=1, cooling=0, orphaned=0, used=1)
    assert publish.slot_capacity(cards, replace(limits, vswitch=None)).growable == 0
    assert publish.slot_capacity([card(2, Use.EXCLUSIVE, late=True)], limits).in_service == 0
    late = card(2, Use.EXCLUSIVE, state=State.ATTACHING, late=True)
    assert publish.slot_capacity([late], replace(limits, exclusive_slots=frozenset({Slot(2)}))).growable == 0


def test_a_slot_is_healthy_when_it_is_used_or_can_be_filled() -> None:
    """And a slot in use never disappears, whatever the configuration has become."""
    own = frozenset({Slot(2), Slot(3)})
    limits = replace(LIMITS, exclusive_slots=own, offered_slots=own)
    used, warm, shared = eni(1, Use.EXCLUSIVE), eni(3, Use.EXCLUSIVE), eni(2)
    assert devices([eni(0), used, warm, shared], {Slot(1)}, limits) == (
        Device(Slot(1), healthy=True, warm=False),
        Device(Slot(2), healthy=False, warm=False),
        Device(Slot(3), healthy=True, warm=True),
    )
    absent = devices([eni(0), used, warm, shared], {Slot(1)}, limits, absent={used.token, warm.token})
    assert absent == (
        Device(Slot(1), healthy=True, warm=False),
        Device(Slot(2), healthy=False, warm=False),
        Device(Slot(3), healthy=False, warm=False),
    )
    cold = devices([eni(0)], set(), limits)
    assert cold == (Device(Slot(2), healthy=True, warm=False), Device(Slot(3), healthy=True, warm=False))
    assert not any(device.healthy for device in devices([eni(0)], set(), replace(limits, vswitch=None)))
    assert not any(device.healthy for device in devices([eni(0)], set(), replace(limits, foreign=3)))


def test_what_pods_can_have_that_ask_for_nothing_depends_on_the_nodes_default() -> None:
    """And so does why there is no more."""
    capacity = {"addresses": Capacity(5, 2, 0, 0, 4), "routed": Capacity(254, 0, 1, 1, 2)}
    assert [publish.free_by_default(capacity, wish) for wish in Wish] == [3, 250, 253]
    assert [publish.shortage("full", "no podCIDR", wish) for wish in Wish] == [
        "full",
        "no podCIDR",
        "full; no podCIDR",
    ]


def test_a_condition_says_since_when_it_is_as_it_is() -> None:
    """The reason may change within; the time does not."""
    conditions = Conditions()
    for wall, addresses_left in ((1.0, 5), (2.0, 3), (3.0, 0), (4.0, 0)):
        judged = conditions.judge(
            started=True,
            addresses=addresses_left,
            shortage="full",
            obstacle="",
            routed=SERVES,
            trouble=None,
            wall=wall,
        )
    assert {condition.type: (condition.status, condition.since) for condition in judged} == {
        "Ready": (True, 1.0),
        "SufficientIP": (False, 3.0),
        "RoutedPods": (True, 1.0),
        "CanGrow": (True, 1.0),
        "CloudReachable": (True, 1.0),
    }


def test_what_keeps_cards_from_being_made_is_a_condition() -> None:
    """Also while there are addresses enough: cold slots are unhealthy then, and somebody asks why."""
    judged = Conditions().judge(
        started=True,
        addresses=5,
        shortage="",
        obstacle="EniPerInstanceLimitExceeded",
        routed=SERVES,
        trouble=None,
        wall=1.0,
    )
    (found,) = (condition for condition in judged if condition.type == "CanGrow")
    assert (found.status, "EniPerInstanceLimitExceeded" in found.message) == (False, True)


def test_the_status_is_what_the_crd_takes() -> None:
    """Every key of ours stands in the schema, and every key it requires is there."""
    crd = yaml.safe_load((Path(__file__).parents[3] / "manifests/base/nodenetwork.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    enis = [eni(0), eni(1), replace(eni(2), state=State.CREATING, eni_id=None, mac=None, address=None)]
    capacity = addresses(card(1))
    status = publish.node_network(
        identity=IDENTITY,
        vswitches=[VSwitchId("vsw-1")],
        enis=enis,
        cards={record.token: card(record.slot or 0) for record in enis},
        capacity={"slots": capacity, "addresses": capacity, "routed": capacity},
        most={"slots": 1, "addresses": 28, "routed": 0},
        either={"slots": 1, "addresses": 14, "perSlot": 14},
        holders={"slots": [], "addresses": [], "routed": []},
        wish=Wish.SHARED,
        conditions=Conditions().judge(
            started=False, addresses=0, shortage="", obstacle="", routed=SERVES, trouble=None, wall=1e9
        ),
    )
    _fits(status, schema, "status")
    assert [entry["slot"] for entry in status["cards"]] == [0, 1, 2]


def _fits(value: object, schema: dict[str, object], path: str) -> None:
    """As far as objects, lists, enums and integers go: what the API server would prune or refuse."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int}
    assert isinstance(value, kinds[str(schema["type"])]), path
    if isinstance(value, dict):
        properties = schema["properties"]
        assert isinstance(properties, dict)
        assert set(value) <= set(properties), path
        assert set(schema.get("required", ())) <= set(value), path  # type: ignore[call-overload]  # a list
        for key, inner in value.items():
            _fits(inner, properties[key], f"{path}.{key}")
    if isinstance(value, list):
        for inner in value:
            _fits(inner, schema["items"], f"{path}[]")  # type: ignore[arg-type]  # a schema
    if "enum" in schema:
        assert value in schema["enum"], path  # type: ignore[operator]  # a list


def test_what_an_instance_could_have_at_best_does_not_change_with_stock() -> None:
    """By its type and configuration; never less than what is used; a slot of either use counts for both."""
    capacity = {what: Capacity(0, 0, 0, 0, used=0) for what in ("slots", "addresses", "services", "routed")}
    empty = replace(LIMITS, vswitch=None, empty_vswitches={VSWITCH})
    secondary = LIMITS.secondary
    assert publish.most(capacity, empty, routed=254) == {
        "slots": len(LIMITS.exclusive_slots),
        "addresses": len(LIMITS.shared_slots) * secondary,
        "services": secondary,
        "routed": 254,
    }
    both = publish.most(capacity, replace(LIMITS, auto=True), routed=0)
    assert both["addresses"] == len(LIMITS.shared_slots | LIMITS.exclusive_slots) * secondary
    assert publish.most(capacity | {"addresses": Capacity(9, 0, 0, 0, used=7)}, None, routed=0)["addresses"] == 7


def test_what_either_use_may_have_is_told() -> None:
    """Growable slots of auto, and the addresses that are lost with all of them: by places and stock, none of others."""
    auto = replace(LIMITS, auto=True)
    slots, secondary = len(LIMITS.exclusive_slots), LIMITS.secondary
    nothing = {"slots": 0, "addresses": 0, "perSlot": 0}
    assert publish.either_use([], LIMITS, stock=1000) == nothing
    assert publish.either_use([], replace(auto, vswitch=None), stock=1000) == nothing
    assert publish.either_use([], auto, stock=1000) == {
        "slots": slots,
        "addresses": slots * secondary,
        "perSlot": secondary,
    }
    shared = len(LIMITS.shared_slots) * secondary
    assert publish.either_use([], auto, stock=shared + 3)["addresses"] == 3
    # Cards that are not ours leave a single place: whoever takes it takes it from all
    one = publish.either_use([], replace(auto, foreign=LIMITS.enis - 2), stock=1000)
    assert (one["slots"], one["addresses"]) == (1, secondary)


def test_exclusive_pods_have_the_primary_enis_addresses_for_services() -> None:
    """What it has, and what it could have."""
    primary = card(0, use=Use.PRIMARY, used=1, free=free(2), cooling=1)
    found = publish.service_capacity([primary, card(1, used=3)], LIMITS)
    assert found == Capacity(in_service=4, growable=LIMITS.secondary - 4, cooling=1, orphaned=0, used=1)
