"""Which HTTP status an error code travels with. The same code may differ by Action: the real API is like that."""

_STATUS = {
    # the gateway
    "Forbidden.RAM": 403,
    "InvalidAccessKeyId.NotFound": 404,
    "InvalidAction.NotFound": 404,
    "UnsupportedHTTPMethod": 403,
    "LastTokenProcessing": 403,
    "InternalError": 500,
    # the security token service
    "NoPermission": 403,
    "AuthenticationFail.NoPermission": 403,
    "EntityNotExist.Role": 404,
    "EntityNotExist.OIDCProvider": 404,
    # addresses and limits
    "InvalidVSwitchId.IpNotEnough": 403,
    "InvalidVSwitchId.IpInvalid": 403,
    "InvalidIp.IpAssigned": 403,
    "InvalidIp.IpRepeated": 403,
    "InvalidIp.IpUnassigned": 403,
    "MaxEniPrivateIpsCountExceeded": 403,
    "InvalidOperation.Ipv4CountExceeded": 403,
    "EniPerInstanceLimitExceeded": 403,
    "QuotaExceed.Tags": 403,
    # what does not go together
    "InvalidOperation.VpcMismatch": 403,
    "InvalidOperation.AvailabilityZoneMismatch": 403,
    "InvalidOperation.InvalidEniType": 403,
    # routes
    "InvalidRouteEntry.NotFound": 400,
    "InvalidRouteEntryId.NotFound": 400,
    "OperationFailed.InstanceDismatchCurrentVpc": 404,
    # one task at a time
    "Operation.Conflict": 403,
    "InvalidOperation.Conflict": 409,
}

_BY_ACTION = {
    ("DeleteNetworkInterface", "InvalidEniId.NotFound"): 403,
}


def status(action: str, code: str) -> int:
    """The HTTP status of an error; 404 for what is not found and 400 where the documents say nothing else."""
    if (action, code) in _BY_ACTION:
        return _BY_ACTION[action, code]
    return _STATUS.get(code, 404 if code.endswith(".NotFound") else 400)
