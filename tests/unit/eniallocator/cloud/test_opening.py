"""Each way to a key, as a configuration names it, up to a signed call that the cloud accepts."""

import base64
import json
import time
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from eniallocator.clock import SystemClock
from eniallocator.cloud.errors import Credentials
from eniallocator.cloud.opening import open_cloud
from eniallocator.cloud.switch import Switch
from eniway.config import CloudConfig
from eniway.errors import BadConfig
from tests.unit.eniallocator.cloud.test_sessions import NoWire, served
from vpcbox.faults import Faults, Kind, Rule
from vpcbox.metadata.server import application as metadata
from vpcbox.openapi.credentials import Credentials as Known
from vpcbox.openapi.ram import OidcProvider, Ram, Role
from vpcbox.openapi.server import application as openapi
from vpcbox.world.clock import Clock as BoxClock
from vpcbox.world.instance_types import load
from vpcbox.world.world import World

ISSUER = "https://issuer.example.com"
SUBJECT = "system:serviceaccount:kube-system:eniway-node"
KEY = ec.generate_private_key(ec.SECP256R1())
PROVIDER = OidcProvider("cluster", ISSUER, ("sts.aliyuncs.com",), (KEY.public_key(),))
ROLE = Role("eniway", longest=7200, subjects={"cluster": (SUBJECT,)})


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token() -> str:
    """A projected token as kubelet writes it."""
    now = time.time()
    claims = {"iss": ISSUER, "sub": SUBJECT, "aud": ["sts.aliyuncs.com"], "iat": now, "exp": now + 600}
    text = ".".join(_part(json.dumps(part).encode()) for part in ({"alg": "ES256"}, claims))
    numbers = decode_dss_signature(KEY.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_part(b''.join(number.to_bytes(32) for number in numbers))}"


class Account:
    """A cloud with one instance that carries a role, and the configuration of who calls it."""

    def __init__(self, known: Known, faults: Faults, directory: Path, *, endpoint: str, service: str, vpc: str) -> None:
        self.known = known
        self.faults = faults
        self.directory = directory
        self.vpc = vpc
        self.urls: dict[str, Any] = {"endpoint": endpoint, "metadata": service, "credentials": str(directory)}
        self.environ = {
            "ALIBABA_CLOUD_ROLE_ARN": ROLE.arn,
            "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": PROVIDER.arn,
            "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(directory / "token"),
        }

    def open(self, authentication: Any, **more: Any) -> Any:
        config = CloudConfig(authentication=authentication, **self.urls, **more)
        return open_cloud(
            config, region="cn-box", switch=Switch(), clock=SystemClock(), random=Random(1), environ=self.environ
        )


@pytest.fixture
async def account(tmp_path: Path) -> AsyncIterator[Account]:
    clock, faults = BoxClock(), Faults()
    world = World(clock, NoWire(), Random(1), load(), faults=faults)
    vpc = world.create_vpc("box", IPv4Network("10.0.0.0/16"))
    vswitch = world.create_vswitch("nodes", vpc.id, IPv4Network("10.0.0.0/20"))
    group = world.create_security_group("box", vpc.id)
    instance = await world.create_instance(
        "node", "ecs.g7.xlarge", vswitch.id, [group.id], http_tokens="required", ram_role="eniway"
    )
    known = Known(clock)
    known.add("LTAIkey", "secret")
    (tmp_path / "token").write_text(token())
    async with (
        served(openapi(world, known, faults, Ram([ROLE], [PROVIDER]))) as endpoint,
        served(metadata(world, lambda _: instance.id, known)) as service,
    ):
        yield Account(known, faults, tmp_path, endpoint=endpoint, service=service, vpc=vpc.id)


@pytest.mark.parametrize("authentication", ["ram-role", "oidc"])
async def test_a_session_is_had_and_accepted(account: Account, authentication: str) -> None:
    """On a hardened instance, and by the token of a service account."""
    async with account.open(authentication) as cloud:
        assert len(await cloud.vswitches(account.vpc)) == 1


async def test_a_session_in_files_is_accepted(account: Account) -> None:
    """Whoever writes the Secret renews it; key, secret and token together."""
    session = account.known.issue("eniway", 3600.0)
    for name, text in (("id", session.id), ("secret", session.secret)):
        (account.directory / f"access_key_{name}").write_text(text)
    (account.directory / "security_token").write_text(session.token or "")
    async with account.open("files") as cloud:
        assert len(await cloud.vswitches(account.vpc)) == 1


async def test_a_secret_that_is_swapped_is_never_read_half(tmp_path: Path) -> None:
    """As kubelet swaps it: the files lead through ..data, which is renamed in one step."""
    from eniallocator.cloud.credentials import KeyFiles  # noqa: PLC0415 -- of this one test

    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        for name in ("access_key_id", "access_key_secret"):
            (tmp_path / version / name).write_text(version)
    (tmp_path / "..data").symlink_to("one")
    for name in ("access_key_id", "access_key_secret"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = KeyFiles(tmp_path)
    assert (await files.key()).key_id == "one"
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").rename(tmp_path / "..data")
    key = await files.key()
    assert (key.key_id, key.secret) == ("two", "two")


async def test_a_session_that_ends_before_its_time_is_an_error_of_credentials(account: Account) -> None:
    """It is replaced a while later, not at every call."""
    async with account.open("ram-role") as cloud:
        await cloud.vswitches(account.vpc)
        account.faults.add(Rule(Kind.SESSION_ENDED, "eniway"))
        with pytest.raises(Credentials, match="RAM role"):
            await cloud.vswitches(account.vpc)


async def test_a_role_without_its_variables_is_refused_at_the_start(account: Account) -> None:
    """Where ACK's webhook did not see the pod."""
    account.environ.clear()
    with pytest.raises(BadConfig, match="ALIBABA_CLOUD_ROLE_ARN"):
        async with account.open("oidc"):
            pass
