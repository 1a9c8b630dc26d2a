"""Laws of the engine: it says what the API says, and how it came there makes no difference."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.ipset import Element
from eniway import names
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
@given(histories(), st.sets(st.integers(0, 5)))
def test_how_the_world_came_about_makes_no_difference(
    history: tuple[World, list[Any], World, set[int]], tidied: set[int]
) -> None:
    """Event by event, with what the kernel would hold followed along, or all at once: the same rules and members.

    At ``tidied`` steps it is cleaned up, too.
    """
    before, steps, after, together = history
    model = Model(4)
    fill(model, before)
    attach_all(model, before)
    model.take()
    layout = render.node(model.endpoints.values(), 4)
    stands = change.plain(layout)
    kernel: dict[str, set[Element]] = {name: set(model.members(ref)) for name, ref in layout.sets.items()}
    for number, (kind, made) in enumerate(steps):
        tell(model, kind, made)
        if number in together:
            continue
        news = {set_name(ref, 4): found for ref, found in model.take().members.items()}
        wanted = render.node(model.endpoints.values(), 4)
        due = change.follow(layout, stands, wanted, news, model.members)
        if number in tidied:
            due = change.tidy(due, stands, wanted)
        assert restored(stands, due.text) == {chain: list(rules) for chain, rules in due.left.chains.items()}
        links, hosts = links_and_hosts(model)
        assert met(due.left, links, hosts) == met(change.plain(wanted), links, hosts)
        stands = due.left
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
        if due:  # else nothing is done, and nothing is noted
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


def links_and_hosts(model: Model) -> tuple[list[str], list[str]]:
    """Of this node's pods."""
    leases = [endpoint.lease for endpoint in model.endpoints.values()]
    return [names.host_link(lease.key) for lease in leases], [f"{lease.address}/32" for lease in leases]


def met(held: change.Held, links: list[str], hosts: list[str]) -> list[tuple[str, ...]]:
    """Programs that a first packet meets, in order: for each link it may come from or go to, and each address."""
    some = ["eth0", *links]
    ways = [(jump, start, end, host) for jump in held.jumps for start in some for end in some for host in hosts]
    return [
        (jump.chain, start, end, host, *_walk(held, jump.rule.rpartition(" ")[2], start=start, end=end, host=host))
        for jump, start, end, host in sorted(ways, key=str)
    ]


def _walk(held: change.Held, chain: str, *, start: str, end: str, host: str) -> Iterator[str]:
    if len(chain) == len("ENIWAY-NP-0123456789abcdef"):
        yield chain
        return
    for rule in held.chains[chain]:
        *matches, way, target = rule.split(" ")
        pairs = zip(matches[::2], matches[1::2], strict=True)
        if all(_matches(option, value, start=start, end=end, host=host) for option, value in pairs):
            if target != "RETURN":
                yield from _walk(held, target, start=start, end=end, host=host)
            if target == "RETURN" or way == "-g":
                return


def _matches(option: str, value: str, *, start: str, end: str, host: str) -> bool:
    given = {"-i": start, "-o": end, "-d": host}.get(option)
    return given is not None and (given.startswith(value[:-1]) if value.endswith("+") else given == value)


def restored(held: change.Held, text: str) -> dict[str, list[str]]:
    """What iptables-restore --noflush makes of our chains."""
    chains = {chain: list(rules) for chain, rules in held.chains.items()}
    for line in text.splitlines():
        match line.split(" "):
            case [declared, "-", "[0:0]"]:
                chains[declared[1:]] = []
            case ["-A" | "-I" | "-D", chain, *_] if not chain.startswith("ENIWAY-NP-"):
                pass
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


_CHAIN = "ENIWAY-NP-TO-0"
_dispatch = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4)


def decisions(rules: tuple[str, ...]) -> dict[str, str]:
    """Where packets of each link go: the first rule with their match decides."""
    found: dict[str, str] = {}
    for rule in rules:
        match, way, target = rule.rpartition(" -g ") if " -g " in rule else rule.rpartition(" -j ")
        found.setdefault(match, way + target)
    return {match: target for match, target in found.items() if target != " -j RETURN"}


@given(st.lists(_dispatch, min_size=2, max_size=6))
def test_programs_of_links_change_without_a_rule_deleted(history: list[dict[str, str]]) -> None:
    """After any number of changes each link's packets go where the last says, and nowhere else."""
    stands = change.Held((), {})
    for step in history:
        rules = tuple(f"-o {link} -g {program}" for link, program in sorted(step.items()))
        wanted = render.Layout((), {_CHAIN: rules}, {})
        led = change.lead(stands, wanted)
        assert led is not None
        text, left = led
        assert "-D" not in text
        assert _CHAIN not in stands.chains or f":{_CHAIN}" not in text
        assert restored(stands, text) == {chain: list(rules) for chain, rules in left.chains.items()}
        assert decisions(left.chains[_CHAIN]) == decisions(wanted.chains[_CHAIN])
        assert len(left.chains[_CHAIN]) <= 2 * sum(map(len, history)) + 4
        assert change.lead(left, wanted) == ("", left)
        stands = left


_mixed = st.lists(
    st.sampled_from(["-d p -j A", "-d q -j B", "-o a -g 1", "-o a -g 2", "-o b -g 1", "-o b -g 2"]),
    max_size=5,
    unique_by=lambda rule: rule.split(" ")[1],
).map(tuple)


@given(st.lists(_mixed, min_size=2, max_size=5))
def test_rules_of_both_kinds_are_met_as_wanted_or_written_anew(history: list[tuple[str, ...]]) -> None:
    """By packets of each link: what goes nowhere, in order, up to what goes somewhere."""
    stands = change.Held((), {_CHAIN: ()})
    for rules in history:
        wanted = render.Layout((), {_CHAIN: rules}, {})
        led = change.lead(stands, wanted)
        text, stands = led or (change.rules(stands, wanted), change.plain(wanted))
        assert not led or ":" not in text
        for link in "abc":
            assert first_met(stands.chains[_CHAIN], link) == first_met(rules, link)


def first_met(rules: tuple[str, ...], link: str) -> list[str]:
    """What a packet of a link meets in a chain."""
    met: list[str] = []
    for rule in rules:
        if rule.startswith(f"-o {link} "):
            return met if rule.endswith("-j RETURN") else [*met, rule]
        if not rule.startswith("-o "):
            met.append(rule)
    return met


@given(_rules, _rules)
def test_a_rule_that_would_stay_alive_is_not_left(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    """Of rules that go nowhere none is left over: a chain grows, or has to be written anew."""
    led = change.lead(change.Held((), {_CHAIN: before}), render.Layout((), {_CHAIN: after}, {}))
    assert led is None or led[1].chains[_CHAIN] == after


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=8))
def test_a_chain_that_only_grows_loses_no_rule(rules: list[tuple[str, bool]]) -> None:
    """So that nobody waits for the kernel to free one."""
    before, after = tuple(rule for rule, old in rules if old), tuple(rule for rule, _ in rules)
    led = change.lead(change.Held((), {_CHAIN: before}), render.Layout((), {_CHAIN: after}, {}))
    assert led is not None
    text, left = led
    assert left.chains[_CHAIN] == after
    assert ":" not in text
    assert text.count("-I ") == len(after) - len(before)
