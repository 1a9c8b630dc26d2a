"""Laws of the engine: it says what the API says, and how it came there makes no difference."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.ipset import Element
from networkpolicy import change, render
from networkpolicy.model import Model
from networkpolicy.terms import PROTOCOLS as NUMBERS
from networkpolicy.terms import Direction, Verdict, set_name
from networkpolicy.views import NamespaceView, PodView, PolicyView
from tests.property.networkpolicy import worlds
from tests.property.networkpolicy.oracle import Json, World, addresses, allowed, is_live
from tests.property.networkpolicy.worlds import fill, lease, view

PACKETS: list[tuple[str | None, int | None]] = [
    *((protocol, port) for protocol in worlds.PROTOCOLS for port in worlds.PORTS),
    (None, None),
]


def attach(model: Model, world: World) -> None:
    """All live pods are this node's."""
    for made in world.pods:
        if is_live(made) and addresses(made):
            model.attach(lease(made, addresses(made)[0]))


def passes(model: Model, source: str, destination: str, protocol: str | None, port: int | None) -> bool:
    """What the engine says of a path between two addresses."""
    ends = {str(endpoint.lease.address): endpoint for endpoint in model.endpoints.values()}
    for own, other, direction in ((source, destination, Direction.EGRESS), (destination, source, Direction.INGRESS)):
        program = ends[own].programs.get(direction) if own in ends else None
        if program is None:
            continue
        term = program.decide(
            local=ip_address(own).packed,
            peer=ip_address(other).packed,
            protocol=NUMBERS[protocol] if protocol else 1,
            port=port or 0,
            has=lambda ref, element: element in model.members(ref),
        )
        if term is None or term.verdict is Verdict.DENY:
            return False
    return True


@settings(max_examples=120)
@given(worlds.worlds())
def test_the_engine_says_what_the_api_says(world: World) -> None:
    """Every pair of ends, every protocol and port, against an evaluator that shares no code with it."""
    model = Model(4)
    fill(model, world)
    attach(model, world)
    ends = [addresses(made)[0] for made in world.pods if addresses(made)]
    for source in (*ends, *worlds.OUTSIDE):
        for destination in (*ends, *worlds.OUTSIDE):
            for protocol, port in PACKETS:
                said = passes(model, source, destination, protocol, port)
                assert said == allowed(world, source, destination, protocol, port), (
                    source,
                    destination,
                    protocol,
                    port,
                )


@st.composite
def histories(draw: st.DrawFn) -> tuple[World, list[Any], World, set[int]]:
    """A world, things that happen, the world that they lead to, and which of them come together with the next one."""
    before = draw(worlds.worlds())
    after = World(dict(before.namespaces), list(before.pods), list(before.policies))
    steps: list[Any] = []
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.sampled_from(("pod", "gone", "space", "policy", "dropped"))):
            case "pod" if after.pods:
                number = draw(st.integers(0, len(after.pods) - 1))
                old = after.pods[number]
                new = worlds.pod(
                    old["metadata"]["namespace"],
                    old["metadata"]["name"],
                    uid=old["metadata"]["uid"],
                    labels=draw(worlds.labels),
                    spec=old["spec"],
                    phase=draw(worlds.phases),
                    ips=addresses(old) or [worlds.address_of(old["metadata"]["namespace"], old["metadata"]["name"])],
                )
                after.pods[number] = new
                steps.append(("pod", new))
            case "gone" if after.pods:
                steps.append(("gone", after.pods.pop(draw(st.integers(0, len(after.pods) - 1)))))
            case "space":
                name, given_labels = draw(st.sampled_from(worlds.SPACES)), draw(worlds.labels)
                after.namespaces[name] = given_labels
                steps.append(("space", worlds.namespace(name, given_labels)))
            case "policy":
                made = worlds.policy(
                    draw(st.sampled_from(worlds.SPACES)), f"p{draw(st.integers(0, 4))}", draw(worlds.specs)
                )
                after.policies = [old for old in after.policies if old["metadata"] != made["metadata"]] + [made]
                steps.append(("policy", made))
            case "dropped" if after.policies:
                steps.append(("dropped", after.policies.pop()))
    return before, steps, after, draw(st.sets(st.integers(0, len(steps) - 2))) if len(steps) > 1 else set()


def tell(model: Model, kind: str, made: Json) -> None:
    """One event."""
    meta = made["metadata"]
    match kind:
        case "pod":
            model.put_pod(view(PodView, made))
        case "gone":
            model.drop_pod(meta["namespace"], meta["name"])
            for key, endpoint in list(model.endpoints.items()):
                if (endpoint.lease.pod.namespace, endpoint.lease.pod.name) == (meta["namespace"], meta["name"]):
                    model.detach(key)
        case "space":
            model.put_namespace(view(NamespaceView, made))
        case "policy":
            model.put_policy(view(PolicyView, made))
        case "dropped":
            model.drop_policy(meta["namespace"], meta["name"])


def attach_all(model: Model, world: World) -> None:
    """All pods are this node's, finished ones too: their sandboxes may still be there."""
    for made in world.pods:
        if not made["spec"].get("hostNetwork"):
            model.attach(lease(made, worlds.address_of(made["metadata"]["namespace"], made["metadata"]["name"])))


@settings(max_examples=120)
@given(histories())
def test_how_the_world_came_about_makes_no_difference(history: tuple[World, list[Any], World, set[int]]) -> None:
    """Event by event, with what the kernel would hold followed along, or all at once: the same rules and members."""
    before, steps, after, together = history
    model = Model(4)
    fill(model, before)
    attach_all(model, before)
    model.take()
    layout = render.node(model.endpoints.values(), 4)
    kernel: dict[str, set[Element]] = {name: set(model.members(ref)) for name, ref in layout.sets.items()}
    for number, (kind, made) in enumerate(steps):
        tell(model, kind, made)
        if number in together:
            continue
        news = {set_name(ref, 4): found for ref, found in model.take().members.items()}
        wanted = render.node(model.endpoints.values(), 4)
        due = change.follow(layout, wanted, news, model.members)
        for name, _, elements in due.make:
            kernel[name] = set(elements)
        for name, elements in due.add:
            assert not kernel[name] & set(elements)
            kernel[name] |= set(elements)
        for name, elements in due.remove:
            assert kernel[name] >= set(elements)
            kernel[name] -= set(elements)
        for name in due.destroy:
            del kernel[name]
        layout = wanted
    fresh = Model(4)
    attach_all(fresh, after)
    fill(fresh, after)
    expected = render.node(fresh.endpoints.values(), 4)
    assert layout.jumps == expected.jumps
    assert layout.chains == expected.chains
    assert kernel == {name: set(fresh.members(ref)) for name, ref in expected.sets.items()}
    members = {name: list(fresh.members(ref)) for name, ref in expected.sets.items()}
    assert not change.repair(change.Held(layout.jumps, layout.chains), kernel, expected, members)


def restored(held: change.Held, text: str) -> dict[str, list[str]]:
    """What iptables-restore --noflush makes of our chains."""
    chains = {chain: list(rules) for chain, rules in held.chains.items()}
    for line in text.splitlines():
        match line.split(" "):
            case [declared, "-", "[0:0]"]:
                chains[declared[1:]] = []
            case ["-A", chain, *rule]:
                chains[chain].append(" ".join(rule))
            case ["-I", chain, number, *rule]:
                assert 1 <= int(number) <= len(chains[chain]) + 1
                chains[chain].insert(int(number) - 1, " ".join(rule))
            case ["-X", chain]:
                assert not chains.pop(chain)
    return chains


_rules = st.lists(st.sampled_from("abcde"), max_size=6).map(tuple)
_chains = st.dictionaries(st.sampled_from(("ENIWAY-NP-1", "ENIWAY-NP-2", "ENIWAY-NP-3")), _rules)


@given(_chains, _chains)
def test_rules_lead_from_any_chains_to_any_others(
    before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]
) -> None:
    """Whether they are inserted or written anew; a second time there is nothing to do."""
    held, wanted = change.Held((), before), render.Layout((), after, {})
    assert restored(held, change.rules(held, wanted)) == {chain: list(rules) for chain, rules in after.items()}
    assert not change.rules(change.Held((), after), wanted)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=8))
def test_a_chain_that_only_grows_loses_no_rule(rules: list[tuple[str, bool]]) -> None:
    """So that nobody waits for the kernel to free one."""
    before, after = tuple(rule for rule, old in rules if old), tuple(rule for rule, _ in rules)
    text = change.rules(change.Held((), {"C": before}), render.Layout((), {"C": after}, {}))
    assert ":C " not in text
    assert text.count("-I ") == len(after) - len(before)
