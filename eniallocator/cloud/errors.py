"""What to do about an error of the OpenAPI, by its Code.

CloudError (eniway.errors)
├── Throttled       the account's quota of this Action is used up until the next minute
├── Transient       try again: server trouble; whether the call took effect is unknown
│   └── Unreachable no answer, or no way there
├── Busy            another task works on the same thing: the same call again in a few seconds
├── WrongState      not in the state the call needs: ask for the state, then decide
├── NotFound        on the way out: as good as done
├── AlreadyThere    ask what is there, then decide
├── VSwitchFull     the vSwitch has too few free addresses
├── LimitsDiffer    more than the instance or its type allows: our picture of the cards is wrong
├── QuotaExhausted  the account's, for long
├── Credentials     the key, its token or the signature is not accepted
│   └── ClockOff    signed at another time than the cloud's: this node's clock is wrong, the key may be good
├── Withheld        not sent: a person switched such calls off
└── Refused         for what was asked: trying again does not help

The HTTP status alone says little (403 is quota, conflict, not found and authorisation): the Code decides, then its
prefix, then the status. Codes: ECS and VPC API reference, pages of the Actions, and "Common error codes".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from eniway.errors import CloudError


class ApiError(CloudError):
    """An answer of the OpenAPI, or none.

    ``hint`` says what a person can do, ``patience`` how long to wait before trying again.
    """

    hint: ClassVar[str] = ""
    patience: ClassVar[tuple[float, float]] = (5.0, 60.0)
    """Seconds: at first, and at most."""

    def __init__(
        self, action: str, code: str, message: str, *, status: int | None = None, request_id: str | None = None
    ) -> None:
        said = f"{action}: {code}: {message}".rstrip()
        remedy = f"; {self.hint}" if self.hint else ""
        super().__init__(f"{said} (request {request_id}){remedy}" if request_id else said + remedy)
        self.lasting = said + remedy
        """The same text each time the same thing goes wrong: for conditions and events, which are told apart by it."""
        self.action = action
        self.code = code
        self.status = status
        self.request_id = request_id


class Throttled(ApiError):
    """Calls of one Action in a minute, counted for the whole account and region."""

    hint = "other users of the account share the quota: lower cloud.calls_per_minute or have the quota raised"
    patience = (0.1, 1.0)


class Transient(ApiError):
    """No answer, or one that says nothing."""

    patience = (0.5, 20.0)


class Unreachable(Transient):
    """No answer at all."""

    hint = "check cloud.endpoint and the way from this node to it"


class Busy(ApiError):
    """Calls about one ENI have to be made one after the other."""

    patience = (1.0, 5.0)


class WrongState(ApiError):
    """The normal answer while something is attaching or detaching."""

    patience = (1.0, 5.0)


class NotFound(ApiError):
    """The ENI, address or route entry is not there."""


class AlreadyThere(ApiError):
    """The address is assigned to something, or the route leads somewhere, already."""


class VSwitchFull(ApiError):
    """Too few addresses left in the vSwitch."""

    hint = "free addresses in the vSwitch or add another one of the zone to `vswitches`"


class LimitsDiffer(ApiError):
    """More ENIs or addresses than the instance type takes."""

    patience = (10.0, 60.0)


class QuotaExhausted(ApiError):
    """A quota that only a person can raise."""

    hint = "have the quota raised in the Quota Center"
    patience = (300.0, 900.0)


class Credentials(ApiError):
    """Nobody is let in with these keys."""

    hint = "check access_key_id and access_key_secret in the directory of cloud.credentials, or the RAM role"
    patience = (2.0, 30.0)


class ClockOff(Credentials):
    """Requests are good for 15 minutes, either way."""

    hint = "set this node's clock, as by NTP"


class Withheld(ApiError):
    """Degraded on purpose: see ``cloud.switch``."""

    hint = "the ConfigMap eniway-switch says so"
    patience = (5.0, 30.0)


class Refused(ApiError):
    """A parameter or a right is missing."""


class Forbidden(Refused):
    """The key is good, its RAM policy is not."""

    hint = "give the RAM user or role the rights of the published policy"


_CODES: Final[Mapping[str, type[ApiError]]] = {
    "SDK.HttpError": Unreachable,
    "InternalError": Transient,
    "UnknownError": Transient,
    "ServiceUnavailable": Transient,
    "SystemBusy": Transient,
    "RequestTimeout": Transient,
    "LimitedOperation.ServiceUnavailable": Transient,
    "Operation.Conflict": Busy,
    "OperationConflict": Busy,
    "InvalidOperation.Conflict": Busy,
    "LastTokenProcessing": Busy,
    "OperationFailed.LastTokenProcessing": Busy,
    "TaskConflict": Busy,
    "OperationFailed.DistibuteLock": Busy,
    "IncorrectRouteEntryStatus": Busy,
    "IncorrcetRouteEntryStatus": Busy,  # the API spells it both ways
    "IncorrectVpcStatus": Busy,
    "IncorrectInstanceStatus": Busy,
    "IdempotentFailed": Busy,
    "IncorrectStatus.RouteTableStatus": Busy,
    "VPC.ERROR": Transient,
    "InvalidOperation.InvalidEniState": WrongState,
    "InvalidOperation.InvalidEcsState": WrongState,
    "InvalidParameter.EniNotBelongEcs": WrongState,
    "InvalidEniId.NotFound": NotFound,
    "InvalidEcsId.NotFound": NotFound,
    "InvalidNetworkInterfaceId.NotFound": NotFound,
    "InvalidNetworkInterface.NotFound": NotFound,
    "InvalidInstanceId.NotFound": NotFound,
    "InvalidIp.IpUnassigned": NotFound,
    "InvalidRouteEntry.NotFound": NotFound,
    "InvalidRouteEntryId.NotFound": NotFound,
    "InvalidIp.IpAssigned": AlreadyThere,
    "InvalidIp.IpRepeated": AlreadyThere,
    "InvalidPrivateIpAddress.Duplicated": AlreadyThere,
    "InvalidCIDRBlock.Duplicate": AlreadyThere,
    "InvalidRouteEntry.Duplicate": AlreadyThere,
    "RouteConflict.AlreadyExist": AlreadyThere,
    "RouterEntryConflict.Duplicated": AlreadyThere,
    "InvalidVSwitchId.IpNotEnough": VSwitchFull,
    "QuotaExceeded.PrivateIpAddress": VSwitchFull,
    "EniPerInstanceLimitExceeded": LimitsDiffer,
    "MaxEniPrivateIpsCountExceeded": LimitsDiffer,
    "InvalidOperation.Ipv4CountExceeded": LimitsDiffer,
    "InvalidOperation.Ipv6CountExceeded": LimitsDiffer,
    "MaxEniCountExceeded": QuotaExhausted,
    "SecurityGroupInstanceLimitExceed": QuotaExhausted,
    "EniCountExceeded": QuotaExhausted,
    "InvalidSecurityToken.Expired": Credentials,
    "InvalidAccessKeySecret": Credentials,
    "SignatureDoesNotMatch": Credentials,
    "IncompleteSignature": Credentials,
    "InvalidTimeStamp.Expired": ClockOff,
    "IllegalTimestamp": ClockOff,
    "SignatureNonceUsed": Credentials,
    "Forbidden.AccessKeyDisabled": Credentials,
    "Forbidden.RAM": Forbidden,
    "Forbidden.SubUser": Forbidden,
    "Forbidden.Unauthorized": Forbidden,
    "NoPermission": Forbidden,
}
_PREFIXES: Final[tuple[tuple[str, type[ApiError]], ...]] = (
    ("Throttling", Throttled),
    ("Rejected.Throttling", Throttled),
    ("InvalidAccessKeyId", Credentials),
    ("InvalidSecurityToken", Credentials),
    ("MissingSecurityToken", Credentials),
    ("QuotaExceed", QuotaExhausted),
    ("ServiceUnavailable", Transient),
    ("IncorrectVSwitchStatus", Busy),
    ("SDK.", Refused),
)
CLOCK_CODES: Final = frozenset(code for code, kind in _CODES.items() if kind is ClockOff)
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERRORS: Final = 500


def classify(action: str, code: str, message: str, *, status: int | None, request_id: str | None = None) -> ApiError:
    """The error of the class that ``code`` belongs to.

    ``status`` is the HTTP status, None where there was no answer.
    """
    kind = _CODES.get(code) or next((kind for prefix, kind in _PREFIXES if code.startswith(prefix)), None)
    if kind is None:
        if status is None or status >= _SERVER_ERRORS:
            kind = Transient
        elif status == _TOO_MANY_REQUESTS:
            kind = Throttled
        else:
            kind = Refused
    return kind(action, code, message, status=status, request_id=request_id)
