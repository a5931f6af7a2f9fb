"""One's own account, its logins and its profile; the profiles of friends, too."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from jelly.client.connection_manager import ConnectionManager
from jelly.client.values import local_time, nothing, number, text
from jelly.codec import Type


@dataclass(frozen=True)
class Login:
    """The result of `JellyClient.login` and `JellyClient.resume`."""

    username: str
    token: int = field(repr=False)
    """Logs the user in without the password (`JellyClient.resume`): keep it as secret as the
    password.
    """
    features: tuple[str, ...] = ()
    """The features that the server granted; the original server grants none."""


@dataclass(frozen=True)
class Profile:
    """What a user says about himself or herself. A value is None until the user sets it."""

    username: str
    name: str | None = None
    sex: str | None = None
    age: str | None = None
    phone: str | None = None
    address: str | None = None
    introduction: str | None = None
    seen: int | None = None
    """For a friend: when that user was online last, by the server's clock, in milliseconds since
    1970. None if the user is online, does not show it, has neither accepted you nor added you, too,
    or if the server does not tell it."""
    show_seen: bool | None = None
    """For yourself: whether friends may see that of you; None if the server does not tell it."""
    show_read: bool | None = None
    """For yourself: whether you send receipts, and get them; None if the server does not tell
    it."""

    @property
    def seen_at(self) -> datetime | None:
        """The time of `seen` in the local time zone; None if there is none."""
        return None if self.seen is None else local_time(self.seen)


@dataclass(frozen=True)
class OwnLogin:
    """A login of yours whose token is still valid, from `JellyClient.logins`."""

    id: str
    """Its name for `JellyClient.end_login`."""
    created: int | None
    """When it was made: milliseconds since 1970; None if that is not known."""
    network: str | None
    """From where: an IPv4 address, or the first 64 bits of an IPv6 address; None: not known."""
    expires: int
    """When its token expires: milliseconds since 1970."""
    is_current: bool
    """Whether it is the login of this client."""
    device: str | None = None
    """The device on which it was made; None if the client named none."""


def _own_logins(values: Mapping[str, Any]) -> tuple[OwnLogin, ...]:
    """Return the logins in a response."""
    return tuple(
        OwnLogin(
            str(each["login"]),
            each.get("created"),
            each.get("network"),
            int(each["expires"]),
            each["current"] is True,
            each.get("device"),
        )
        for each in values["logins"]
    )


def parse_login(values: Mapping[str, Any]) -> Login:
    """Read the response to LOGIN."""
    features = values.get("features", ())
    return Login(text(values["username"]), int(values["token"]), tuple(map(str, features)))


def _profile(values: Mapping[str, Any]) -> Profile:
    said: dict[str, Any] = {each.name: values.get(each.name) for each in fields(Profile)}
    more = {"username": text(said["username"]), "seen": number(values, "seen"), "show_seen": values.get("showSeen")}
    more["show_read"] = values.get("showRead")
    return Profile(**{**said, **more})


class AccountOperations:
    """What a client does with its user's account."""

    _manager: ConnectionManager

    def own_profile(self) -> "Future[Profile]":
        """Get your own profile.

        >>> client.own_profile().result(timeout=5).username
        'alice'
        """
        return self._manager.request(Type.OWN_PROFILE, {}, _profile)

    def friend_profile(self, friend: str) -> "Future[Profile]":
        """Get the profile of a user on your friend list. Rejected with `not_friends`.

        >>> client.friend_profile("bob").result(timeout=5).name
        'Robert'
        """
        return self._manager.request(Type.FRIEND_PROFILE, {"friend": friend}, _profile)

    def update_profile(
        self,
        *,
        password: str | None = None,
        old_password: str | None = None,
        name: str | None = None,
        sex: str | None = None,
        age: str | None = None,
        phone: str | None = None,
        address: str | None = None,
        introduction: str | None = None,
        show_seen: bool | None = None,
        show_read: bool | None = None,
    ) -> "Future[None]":
        """Change your profile or your password. Values that are None stay as they are.

        `show_seen`: whether friends may see when you were online last. (The server ignores it if it
        does not know the feature `seen`.) `show_read`: whether others are told what has reached you
        and what you have read; if not, you are not told, either. (The same with `read`.)

        A new `password` needs the present one as `old_password`. It ends all your tokens, and your
        other sessions with `Reason.PASSWORD_CHANGED`. This session goes on with a new `token`. (The
        original server gives no new token: if this connection is lost, the client goes OFFLINE with
        `Reason.TOKEN_REFUSED`.)

        Rejected with `too_long`, `invalid_password`; with `wrong_credentials` if the old password
        is wrong or missing, and with `too_many_attempts` if it was wrong too often.

        >>> client.update_profile(name="Alice", address="Paris").result(timeout=5)
        >>> client.update_profile(password="secret9", old_password="secret1").result(timeout=5)
        """
        values = {
            "password": password, "oldPassword": old_password, "name": name, "sex": sex, "age": age, "phone": phone,
            "address": address, "introduction": introduction, "showSeen": show_seen,
            "showRead": show_read,
        }  # fmt: skip
        return self._manager.request(Type.UPDATE_PROFILE, values, self._manager.keep_token)

    def logins(self) -> "Future[tuple[OwnLogin, ...]]":
        """List your logins whose tokens are valid, the newest first.

        Rejected with `unknown_type` if the server does not grant the feature `account`.

        >>> client.logins().result(timeout=5)[0].is_current
        True
        """
        return self._manager.request(Type.LOGINS, {}, _own_logins, feature="account")

    def end_login(self, login: str) -> "Future[None]":
        """End one of your logins: its token is not valid any more, and its session ends.

        `login`: the `id` of an `OwnLogin`. Rejected with `invalid_token` if there is none.

        >>> oldest = client.logins().result(timeout=5)[-1]
        >>> client.end_login(oldest.id).result(timeout=5)
        """
        return self._manager.request(Type.END_LOGIN, {"login": login}, nothing, feature="account")

    def delete_account(self, password: str) -> "Future[None]":
        """Delete your account. Nobody can undo that, and nobody gets your name again.

        Messages that you wrote stay with those who have them. You leave your groups; those that you
        own get another owner. Afterwards the client is OFFLINE. Rejected with `wrong_credentials`,
        and with `too_many_attempts` if the password was wrong too often.

        >>> client.delete_account("secret1").result(timeout=5)
        """
        return self._manager.request(Type.DELETE_ACCOUNT, {"password": password}, nothing, feature="account")
