"""How the world says no."""


class Refused(Exception):
    """A request the cloud answers with an error code; which HTTP status goes with it is the OpenAPI's matter."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
