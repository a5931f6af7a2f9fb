"""Edits: what a message that replaces the text of an earlier one changes when it is stored.

The store (`store.py`) calls everything here within its transaction, so that it is decided as of the
last commit of any node: who wrote the original, how old it is, and who has been sent it. Each
receiver of the edit is one of these:

- *never sent the original*: it still waits in the inbox. It gets the new text in its place there,
  and no row for the edit: when the receiver comes, there is nothing but the edited message.
- *sent the original*, acknowledged or not: it gets the edit as a message of its own, which says
  what it replaces. If the original has to be sent again, it is with the text that was sent first.

A recalled message is taken out of all inboxes, and nobody is sent it any more.

Whether somebody has been sent a message is known in memory only (`Delivery.was_sent`). In doubt it
counts as sent.
"""

from collections.abc import Sequence, Set

from jelly import edits_dao
from jelly.dao import OWN_COPY, Dao, StoredMessage
from jelly.delivery import Delivery
from jelly.edits_dao import Original, Row
from jelly.errors import ErrorCode, Refused
from jelly.indexing import DeferredIndexing
from jelly.outcomes import NewMessage
from jelly.quotas import Envelope, Quotas
from jelly.sessions import Session
from jelly.trusted_clock import IDS_PER_MS

EDIT_MINUTES = 15
"""Minutes from the arrival of a message for which its author may edit it."""
MAX_KEPT = 1024 * 1024
"""At most this many bytes of the text as it was are copied for those who were sent it: a member of
a large group must not have the server write a long text a thousand times."""
LONGEST_AGO = EDIT_MINUTES * 60_000 * IDS_PER_MS
"""The same as a distance between two ids."""


class Edits:
    """Stores edits, and takes out of the inboxes what a client without the feature is not sent."""

    def __init__(self, delivery: Delivery, quotas: Quotas, indexing: DeferredIndexing) -> None:
        self._delivery = delivery
        self._quotas = quotas
        self._indexing = indexing

    def accept(
        self, dao: Dao, new: NewMessage, members: Sequence[str], digest: int | None, batch: list[Envelope]
    ) -> Refused | Envelope:
        """Change the original, and return the edit with those who get a row of it.

        `members`: who would get a message to the same receiver. `batch`: what this transaction is
        going to store before it; of these, nobody gets an older edit of the same message. The
        answer to an edit of somebody else's message is the same as for one that does not exist.
        """
        assert new.replaces is not None
        original = edits_dao.original(dao, new.replaces)
        if original is None or original.sender != new.sender or original.is_recalled:
            return Refused(ErrorCode.NO_SUCH_MESSAGE)
        if dao.peek_id() - original.id > LONGEST_AGO:
            return Refused(ErrorCode.TOO_LATE)
        edit = StoredMessage(
            dao.allocate_id(),
            original.is_group,
            new.sender,
            original.receiver,
            new.content,
            original.time,
            new.request_id,
            digest,
            replaces=original.id,
        )
        rows, older = edits_dao.waiting(dao, original.id), edits_dao.waiting(dao, original.edited)
        readers = edits_dao.readers(dao, original.receiver, original.id) if original.is_group else {original.receiver}
        receivers = [member for member in members if member in readers]
        unsent = {
            row.receiver: row
            for row in rows
            if row.receiver in readers and row.size != OWN_COPY and self._was_never_sent(row)
        }
        # What goes makes room first: so a shorter text fits into a full inbox.
        gone = [row for row in (*(rows if not new.content else unsent.values()), *older) if row.size != OWN_COPY]
        for row in gone:
            self._quotas.take_out(row.receiver, edit.sender, row.size)
        wanted = receivers if new.content else [receiver for receiver in receivers if receiver not in unsent]
        admitted = self._quotas.admit(dao, edit, wanted, batch)
        if isinstance(admitted, Refused):
            for row in gone:
                self._quotas.put_back(row.receiver, edit.sender, row.size)
            return admitted
        if new.content:
            stored = set(admitted)
            self._replace(dao, original, edit, rows, {row for name, row in unsent.items() if name in stored})
            for name in unsent.keys() - stored:  # its inbox is full: it keeps what it has
                self._quotas.put_back(name, edit.sender, unsent[name].size)
        else:
            edits_dao.take_out(dao, [original.id])
        if older:
            edits_dao.take_out(dao, [original.edited or 0])
        elif original.edited is not None:
            self._take_out_of_batch(original.id, batch)
        edits_dao.replace(dao, original.id, edit.content, edit.id)
        return edit, [receiver for receiver in admitted if receiver not in unsent]

    def _take_out_of_batch(self, original: int, batch: list[Envelope]) -> None:
        """Let nobody get an older edit that this transaction is about to store."""
        for place, (message, receivers) in enumerate(batch):
            if message.replaces == original:
                for receiver in receivers:
                    if message.device is None or receiver != message.sender:
                        self._quotas.take_out(receiver, message.sender, len(message.content.encode()))
                batch[place] = message, ()

    def _was_never_sent(self, row: Row) -> bool:
        return not row.keeps_text and not self._delivery.was_sent(row.receiver, row.id)

    def _replace(
        self, dao: Dao, original: Original, edit: StoredMessage, rows: Sequence[Row], replaced: Set[Row]
    ) -> None:
        """Have some inbox rows stand for the new text, and the other ones for what they had."""
        kept = [row.receiver for row in rows if row not in replaced and not row.keeps_text]
        if len(kept) * len(original.content.encode()) <= MAX_KEPT:  # else they get the new text twice
            edits_dao.keep_text(dao, original.id, kept, original.content)
        edits_dao.resize(dao, original.id, [row.receiver for row in replaced], len(edit.content.encode()))

    def remove_passed_over(self, dao: Dao, passed: Sequence[tuple[Session, int]]) -> None:
        """Take edits out of the inboxes of those whose session cannot be sent them."""
        # Another session may have begun since, which can: then that one acknowledges them.
        rows = [
            (session.user, id)
            for session, id in passed
            if session.user is not None and session.epoch >= 0 and self._delivery.is_current(session)
        ]
        for receiver, sender, size in edits_dao.rows_of(dao, rows):
            self._quotas.take_out(receiver, sender, size)
        self._indexing.remove_delivered(dao, rows, alone=True)
