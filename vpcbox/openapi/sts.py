"""The security token service: sessions of roles.

https://help.aliyun.com/zh/ram/developer-reference/api-sts-2015-04-01-assumerole and its neighbour
…-assumerolewithoidc, which is asked without a signature: the token proves who asks.
"""

import re
from collections.abc import Mapping
from typing import Any

from vpcbox.openapi.credentials import AccessKey, Credentials
from vpcbox.openapi.params import Params, invalid
from vpcbox.openapi.ram import Ram, Role, check
from vpcbox.world.clock import iso
from vpcbox.world.errors import Refused
from vpcbox.world.model import ACCOUNT
from vpcbox.world.world import World

VERSION = "2015-04-01"
UNSIGNED = frozenset({"AssumeRoleWithOIDC"})
SHORTEST = 900  # seconds of a session
LONGEST_TOKEN = 20_000
LONGEST_POLICY = 2048


class Sts:
    """The Actions; sessions they give are known to ``credentials``."""

    def __init__(self, ram: Ram, credentials: Credentials) -> None:
        self._ram = ram
        self._credentials = credentials
        self.actions = {
            "AssumeRole": self.assume_role,
            "AssumeRoleWithOIDC": self.assume_role_with_oidc,
        }

    async def assume_role(self, _world: World, p: Params) -> dict[str, Any]:
        """AssumeRole: whoever has a key of the account may, if the role trusts the account."""
        arn, session, seconds = _asked(p)
        p.text("ExternalId", longest=1224)
        p.text("SourceIdentity")
        p.finish()
        role = self._ram.role(arn)
        if not role.account:
            raise Refused("NoPermission", "You are not authorized to do this action. You should be authorized by RAM.")
        return self._session(role, session, seconds)

    async def assume_role_with_oidc(self, _world: World, p: Params) -> dict[str, Any]:
        """AssumeRoleWithOIDC: whoever has a token of a provider whose subject the role trusts."""
        arn, session, seconds = _asked(p)
        provider = self._ram.provider(p.required("OIDCProviderArn"))
        text = p.text("OIDCToken", shortest=4, longest=LONGEST_TOKEN) or p.required("OIDCToken")
        p.finish()
        role = self._ram.role(arn)
        token = check(provider, role, text, now=self._credentials.clock.wall())
        return {
            **self._session(role, session, seconds),
            "OIDCTokenInfo": {
                "Issuer": token.issuer,
                "Subject": token.subject,
                "ClientIds": ",".join(token.audiences),
                "IssuanceTime": iso(token.issued),
                "ExpirationTime": iso(token.expires),
                "VerificationInfo": "Success",
            },
        }

    def _session(self, role: Role, name: str, seconds: int | None) -> dict[str, Any]:
        if seconds is not None and seconds > role.longest:
            raise invalid("DurationSeconds", f"a number from {SHORTEST} to {role.longest}")
        key = self._credentials.issue(role.name, float(seconds or min(3600, role.longest)))
        return {
            "AssumedRoleUser": {
                "AssumedRoleId": f"{ACCOUNT}:{name}",
                "Arn": f"acs:sts::{ACCOUNT}:assumed-role/{role.name}/{name}",
            },
            "Credentials": shown(key),
        }


def shown(key: AccessKey) -> Mapping[str, str]:
    """A session as its holder is told of it."""
    return {
        "AccessKeyId": key.id,
        "AccessKeySecret": key.secret,
        "SecurityToken": key.token or "",
        "Expiration": iso(key.expires or 0.0),
    }


def _asked(p: Params) -> tuple[str, str, int | None]:
    """Role, name of the session and its length."""
    arn = p.required("RoleArn")
    if not re.fullmatch(r"acs:ram::[0-9]+:role/[A-Za-z0-9.@_-]{1,64}", arn):
        raise invalid("RoleArn", "acs:ram::ACCOUNT:role/NAME")
    session = p.required("RoleSessionName")
    if not re.fullmatch(r"[A-Za-z0-9.@_-]{2,64}", session):
        raise invalid("RoleSessionName", "2 to 64 of letters, digits and .@-_")
    p.text("Policy", longest=LONGEST_POLICY)
    return arn, session, p.number("DurationSeconds", SHORTEST, 43_200)
