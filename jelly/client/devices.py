"""Devices: the name under which a client logs in, so that its user may have other clients, too."""

from collections.abc import Collection

from jelly.names import MAX_NAME, is_valid_name

FEATURE = "devices"


def checked_device(device: str | None, features: Collection[str]) -> str | None:
    """Return the name of a device; raise ValueError if it cannot be one.

    `features`: what the client asks for.
    """
    if device is None:
        return None
    if not isinstance(device, str) or not is_valid_name(device):
        raise ValueError(
            f"the device {device!r} cannot be a name: it must have 1 to {MAX_NAME} characters, and no spaces or "
            "invisible characters"
        )
    if not features:
        raise ValueError("a classic client (features=()) has no device")
    return device
