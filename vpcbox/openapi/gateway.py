"""The gate of the OpenAPI: what is asked, by whom, and is it them.

https://help.aliyun.com/zh/ecs/developer-reference/common-error-codes
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vpcbox.faults import Faults, Kind
from vpcbox.openapi import signature
from vpcbox.openapi.credentials import AccessKey, Credentials
from vpcbox.world.clock import Clock
from vpcbox.world.errors import Refused

SKEW = 15 * 60.0  # seconds a caller's clock may be off, either way

_COMMON = {
    *("Action", "Version", "Format", "Timestamp", "AccessKeyId", "SecurityToken"),
    *("Signature", "SignatureMethod", "SignatureVersion", "SignatureType", "SignatureNonce"),
    *("OwnerId", "OwnerAccount", "ResourceOwnerId", "ResourceOwnerAccount"),  # of the time before RAM; without effect
}


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    form: Sequence[tuple[str, str]]
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def params(self) -> dict[str, str]:
        """Query and form together."""
        return dict([*self.query, *self.form])

    @property
    def authorization(self) -> str:
        """What an ACS3 request signs with; empty in an RPC request."""
        return self.headers.get("authorization", "")

    @property
    def action(self) -> str:
        """The Action asked for, of either style; empty where there is none."""
        return self.headers.get("x-acs-action") or self.params.get("Action", "")

    @property
    def version(self) -> str:
        """The product's API version, which tells the product."""
        return self.headers.get("x-acs-version") or self.params.get("Version", "")

    @property
    def action_params(self) -> dict[str, str]:
        """What is the Action's own, the region included."""
        return {name: value for name, value in self.params.items() if name not in _COMMON}


class Gateway:
    """Checks signatures, clocks and nonces."""

    def __init__(self, credentials: Credentials, clock: Clock, faults: Faults) -> None:
        self._credentials = credentials
        self._clock = clock
        self._faults = faults
        self._nonces: dict[str, float] = {}  # in the order they came

    def now(self) -> float:
        """What the OpenAPI's own clock shows, which may be off."""
        off = self._faults.standing(Kind.CLOCK_OFF, "*")
        return self._clock.wall() + (off.seconds if off else 0.0)

    def authenticate(self, call: Call) -> AccessKey:
        """Who calls; raises Refused in the words of the cloud where that is not proved."""
        if call.authorization:
            return self._acs3(call)
        return self._rpc(call)

    def _rpc(self, call: Call) -> AccessKey:
        params = call.params
        for name in ("AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce", "Timestamp"):
            if not params.get(name):
                raise _missing(name)
        if params["SignatureMethod"] != "HMAC-SHA1" or params["SignatureVersion"] != "1.0":
            raise Refused("IncompleteSignature", "The request signature does not conform to Aliyun standards.")
        if params.get("Format", "XML").upper() != "JSON":
            raise Refused("UnsupportedParameter", 'The parameter "Format" is not supported: expected JSON.')
        key = self._key(params["AccessKeyId"], params.get("SecurityToken"))
        self._check_time(params["Timestamp"])
        string = signature.rpc_string_to_sign(call.method, params)
        if not signature.same(signature.rpc_signature(key.secret, string), params["Signature"]):
            raise _mismatch(string)
        self._check_nonce(params["SignatureNonce"])
        return key

    def _acs3(self, call: Call) -> AccessKey:
        authorization = signature.parse_authorization(call.authorization)
        if authorization is None:
            raise Refused("IncompleteSignature", "The request signature does not conform to Aliyun standards.")
        signed = {name: call.headers.get(name, "") for name in authorization.signed_headers}
        for name in ("host", "x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce"):
            if not call.headers.get(name):
                raise _missing(name)
            if name not in signed:
                raise Refused("IncompleteSignature", f'The header "{name}" is not among the signed ones.')
        key = self._key(authorization.access_key_id, call.headers.get("x-acs-security-token"))
        self._check_time(call.headers["x-acs-date"])
        body_sha256 = hashlib.sha256(call.body).hexdigest()
        string = signature.acs3_string_to_sign(
            method=call.method, path=call.path, query=call.query, headers=signed, body_sha256=body_sha256
        )
        if not signature.same(signature.acs3_signature(key.secret, string), authorization.signature):
            raise _mismatch(string)
        self._check_nonce(call.headers["x-acs-signature-nonce"])
        return key

    def _key(self, access_key_id: str, token: str | None) -> AccessKey:
        key = self._credentials.find(access_key_id)
        if key is None:
            raise Refused("InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        if key.token is not None and not token:
            raise Refused("MissingSecurityToken", "SecurityToken is mandatory for this action.")
        if (key.token or "") != (token or ""):
            raise Refused(
                "InvalidSecurityToken.MismatchWithAccessKey",
                "Specified SecurityToken mismatch with the AccessKey.",
            )
        if key.role is not None and self._faults.strike(Kind.SESSION_ENDED, key.role):
            self._credentials.end(key.id)
            key = self._credentials.find(key.id) or key
        if key.expires is not None and key.expires <= self._clock.wall():
            raise Refused("InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
        return key

    def _check_time(self, text: str) -> None:
        try:
            stamp = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise Refused(
                "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted."
            ) from None
        if abs(stamp - self.now()) > SKEW:
            raise Refused("InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")

    def _check_nonce(self, nonce: str) -> None:
        now = self._clock.wall()
        while self._nonces and next(iter(self._nonces.values())) < now - 2 * SKEW:
            del self._nonces[next(iter(self._nonces))]
        if nonce in self._nonces:
            raise Refused("SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces[nonce] = now


def _missing(name: str) -> Refused:
    return Refused(
        "MissingParameter",
        f'The input parameter "{name}" that is mandatory for processing this request is not supplied.',
    )


def _mismatch(string_to_sign: str) -> Refused:
    return Refused(
        "SignatureDoesNotMatch",
        f"Specified signature is not matched with our calculation. server string to sign is:{string_to_sign}",
    )
