"""What an overseer knows of edits."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from overseer_devices import Reader
from sent import Sent

from jelly.trusted_clock import stored_at

if TYPE_CHECKING:
    from overseer_picture import Picture


class Edits:
    """What an overseer knows of edits: who may get which text, and who must have which at last."""

    def __init__(self, overseer: "Picture") -> None:
        self._overseer = overseer
        self.users_without: set[str] = set()
        """Users of whom a client does not know edits."""
        self._texts: dict[Sent, list[str]] = {}  # of an edited message: all of its texts, the last one last
        self._last: dict[Sent, int] = {}  # the id of its last edit
        self._asked: dict[Sent, int] = {}  # for an edit: which id it says
        self._recalls: dict[int, Sent] = {}  # by the id of the original: an edit that was asked for
        self._coming: dict[int, Sent] = {}  # by id: edits that the transaction is about to store
        self._edits: dict[int, Sent] = {}  # by id: those that were stored
        self._given: dict[tuple[str, int], str] = {}  # the text that a user was sent first of a message
        self._known_from = 0  # what was stored before may have been sent to anybody
        self._tried: set[tuple[str, int]] = set()  # what the server believes to have sent
        self._shown: dict[tuple[Reader, Sent], tuple[int, str]] = {}  # the text that is seen, and with which id
        self._edited_now: dict[int, str] = {}  # by id: the text that the transaction gives to a message

    def writes(self, sent: Sent) -> None:
        """A client is about to write an edit."""
        assert sent.original is not None
        id = self._asked[sent] = sent.original.id or 0
        if sent.is_recall:
            self._recalls[id] = sent

    def can_recall(self, original: Sent) -> bool:
        """Whether nobody has asked for it yet: two requests would look the same."""
        return original.id not in self._recalls

    def crashed(self) -> None:
        """The server is gone: the next one does not know what this one has sent."""
        self._known_from = self._overseer.last_id

    def tried(self, user: str, ids: Iterable[int]) -> None:
        """The server has sent notices, and does not know whether anybody gets them."""
        self._tried |= {(user, id) for id in ids}

    def meant(self, sent: Sent) -> Sent:
        """The message of which a text was seen."""
        return sent.original or sent

    def text_of(self, sent: Sent) -> str:
        """The text of a message now."""
        return self._texts[sent][-1] if sent in self._texts else sent.content

    def last_edit(self, sent: Sent) -> int:
        return self._last.get(sent, 0)

    def may_be_missed(self, sent: Sent) -> bool:
        """Whether not every receiver need get a message: an older edit, or a recalled message."""
        return sent.original is not None or (sent in self._texts and not self.text_of(sent))

    def begin(self, changes: Iterable[tuple[str, int, str, str, str]]) -> None:
        """A transaction is on the disk, with these changes."""
        self._edited_now = {id: one for what, id, one, _, _ in changes if what == "text"}

    def changed(self, original: Sent, text: str, edit: int) -> None:
        """A row of the table messages has another text."""
        check = self._overseer.check
        sent = self._overseer.find(text) if text else self._recalls[original.id or 0]
        check(sent.original is original, f"{original} gets the text of {sent}")
        check(
            self.text_of(original) or original not in self._texts, f"{original} was recalled, and is edited by {sent}"
        )
        self._texts.setdefault(original, [original.content]).append(text)
        self._coming[edit] = sent

    def stored(self, id: int, original: int) -> Sent:
        """An edit is stored. Return which one."""
        sent, check = self._coming.pop(id), self._overseer.check
        assert sent.original is not None
        check(self._asked[sent] == original, f"{sent} replaces {original}")
        check(self._age(sent) < 15 * 60 + 1, f"{sent} comes after {self._age(sent)} s")
        self._edits[id] = sent
        self._last[sent.original] = id
        return sent

    def may_be_refused(self, sent: Sent, code: str) -> bool:
        """Whether an edit may be refused for a reason that only edits have."""
        if sent.original is None:
            return False
        is_gone = self._overseer.by_id(self._asked[sent]) is None or not self.text_of(sent.original)
        return (code == "too_late" and self._age(sent) > 15 * 60 - 1) or (code == "no_such_message" and is_gone)

    def _age(self, sent: Sent) -> float:
        """Seconds since the original of an edit was stored: its id says when."""
        return self._overseer.now() - (stored_at(self._asked[sent]) or 0) / 1000

    def check_receivers(self, sent: Sent, receivers: set[str]) -> None:
        """An edit goes to nobody who did not have to get the original."""
        original, check = sent.original, self._overseer.check
        assert original is not None
        others = receivers - original.receivers
        check(not others or sent.is_group, f"{sent} is to reach {others}")
        id = original.id or 0
        for user in receivers:
            is_new = id > self._known_from and (user, id) not in self._tried and (user, id) not in self._given
            both = is_new and id in self._overseer.inbox[user]
            check(not both, f"{user} gets the text of {sent} in the place of {original}, and {sent}, too")
        for user in receivers if sent.is_group else ():
            since = self._overseer.members[sent.receiver].get(user, 0)
            check(since <= (original.id or 0) or since > (sent.id or 0), f"{sent} is to reach {user}, a later member")

    def may_go(self, user: str, sent: Sent) -> bool:
        """Whether somebody need not get what is in the inbox."""
        if sent.original is None:
            is_recalled = sent in self._texts and not self.text_of(sent)
            return is_recalled or self._edited_now.get(sent.id or 0) == ""
        is_older = self._last[sent.original] != sent.id or sent.original.id in self._edited_now
        return user in self.users_without or is_older

    def notifies(self, connection: Any, user: str, id: int, values: dict[str, Any]) -> Sent | None:
        """The server sends a notice. Return the message that it is about, if that was edited."""
        check = self._overseer.check
        sent, text = self._edits.get(id), values["content"]
        if sent is not None:
            assert sent.original is not None
            check(connection.device.knows_edits, f"{user} is sent {sent}, and does not know edits")
            check(values.get("replaces") == sent.original.id, f"{user} is sent {sent} as {values}")
            check(text == self.text_of(sent.original), f"{user} is sent {sent} as {values}")
            return sent
        check("replaces" not in values, f"{user} is sent {values}")
        known = self._overseer.by_id(id)
        if known is None:
            return None
        if known not in self._texts:
            self._given.setdefault((user, id), text)
            return None
        before = self._given.get((user, id))
        check(self.text_of(known), f"{user} is sent {known}, which was recalled")
        check(text in self._texts[known], f"{user} is sent {known} as {text!r}")
        check(before in (None, text), f"{user} is sent {known} as {text!r}, and before as {before!r}")
        is_copy = user == known.sender and (known.is_group or known.receiver != user)  # it keeps its text
        may_be_old = id <= self._known_from or (user, id) in self._tried or is_copy
        if known.is_group:  # who is no member any more gets no edits
            may_be_old = may_be_old or self._overseer.members[known.receiver].get(user, 2**53) > id
        if self._overseer.devices.of(user):  # one of the others was perhaps sent all up to a later one
            may_be_old = may_be_old or any(to == user and tried > id for to, tried in self._tried)
        check(text == self.text_of(known) or may_be_old, f"{user} is sent the old text {text!r} of {known}")
        self._given[user, id] = text
        return known

    def handed_over(self, reader: Reader, content: str, id: int) -> Sent:
        """A message or an edit has reached an application. Return which one."""
        sent = self._edits.get(id)
        meant = self.meant(sent or self._overseer.find(content))
        self._shown[reader, meant] = max(self._shown.get((reader, meant), (0, "")), (id, content))
        return sent or meant

    def final_check(self) -> None:
        """Everybody whose clients know edits sees the last text of what was edited."""
        check = self._overseer.check
        for sent, texts in self._texts.items():
            for user in sent.receivers - self.users_without:
                since = self._overseer.members[sent.receiver].get(user, 2**53) if sent.is_group else 0
                for reader in self._overseer.devices.that_see(user, sent.id or 0, self.last_edit(sent)):
                    _, shown = self._shown.get((reader, sent), (0, ""))
                    check(since > (sent.id or 0) or shown == texts[-1], f"{reader} sees {shown!r} of {sent}: {texts}")
            if not texts[-1]:
                for table, column in (("messages", "content"), ("inbox", "text")):
                    rows = self._overseer.raw.execute(f"SELECT {column} FROM {table}").fetchall()
                    check(not {text for (text,) in rows} & set(texts[:-1]), f"{sent} was recalled, and is in {table}")
