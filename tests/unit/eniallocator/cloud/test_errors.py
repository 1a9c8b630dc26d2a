"""What an answer of the OpenAPI means."""

import pytest

from eniallocator.cloud import errors
from eniallocator.cloud.errors import ApiError, classify
from eniway.errors import CloudError


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("Throttling", 400, errors.Throttled),
        ("Throttling.User", 400, errors.Throttled),
        ("Rejected.Throttling", 503, errors.Throttled),
        ("SomethingNew", 429, errors.Throttled),
        ("SDK.HttpError", None, errors.Unreachable),
        ("ServiceUnavailable.RegionMaintaining", 503, errors.Transient),
        ("SomethingNew", 502, errors.Transient),
        ("Operation.Conflict", 403, errors.Busy),
        ("LastTokenProcessing", 403, errors.Busy),
        ("InvalidOperation.InvalidEniState", 400, errors.WrongState),
        ("InvalidEniId.NotFound", 403, errors.NotFound),
        ("InvalidEniId.NotFound", 404, errors.NotFound),
        ("InvalidIp.IpUnassigned", 403, errors.NotFound),
        ("InvalidIp.IpAssigned", 403, errors.AlreadyThere),
        ("InvalidVSwitchId.IpNotEnough", 403, errors.VSwitchFull),
        ("QuotaExceeded.PrivateIpAddress", 403, errors.VSwitchFull),
        ("QuotaExceeded.Somethings", 403, errors.QuotaExhausted),
        ("EniPerInstanceLimitExceeded", 403, errors.LimitsDiffer),
        ("MaxEniCountExceeded", 403, errors.QuotaExhausted),
        ("InvalidAccessKeyId.NotFound", 404, errors.Credentials),
        ("InvalidAccessKeyId.Inactive", 403, errors.Credentials),
        ("InvalidSecurityToken.Expired", 400, errors.Credentials),
        ("SignatureDoesNotMatch", 400, errors.Credentials),
        ("InvalidTimeStamp.Expired", 400, errors.ClockOff),
        ("Forbidden.RAM", 403, errors.Forbidden),
        ("IdempotentParameterMismatch", 400, errors.Refused),
        ("InvalidSecurityGroupId.NotFound", 404, errors.Refused),
        ("SomethingNew", 400, errors.Refused),
    ],
)
def test_the_code_decides(code: str, status: int | None, kind: type[ApiError]) -> None:
    """First the Code, then its prefix, and only then the HTTP status."""
    error = classify("AnAction", code, "what it says", status=status, request_id="R-1")
    assert type(error) is kind
    assert isinstance(error, CloudError)


def test_an_error_says_all_that_a_person_needs() -> None:
    """Action, Code, message, the id to quote in a ticket, and what to do."""
    error = classify("CreateNetworkInterface", "MaxEniCountExceeded", "too many", status=403, request_id="R-1")
    assert str(error) == (
        "CreateNetworkInterface: MaxEniCountExceeded: too many (request R-1); have the quota raised in the Quota Center"
    )
    assert "R-1" not in error.lasting


def test_every_class_has_patience() -> None:
    """Nothing is tried again in a tight loop."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ApiError)]
    assert len(kinds) > 10
    assert all(0 < kind.patience[0] < kind.patience[1] for kind in kinds)
