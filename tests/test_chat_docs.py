"""docs/chat.md is true: its screen, commands, marks and exit codes."""

import re

from harness import StartServer
from terminal import Terminal
from wire import ADD_MEMBER, CREATE_GROUP, logged_in, register

from faults.process import ROOT
from jelly.chat import help_texts, start_texts
from jelly.chat.commands import COMMANDS
from jelly.chat.model import MAX_LINES, DeliveryStatus

PAGE = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")


def table(head: str) -> list[list[str]]:
    """Return the rows of the table with this first heading."""
    rows = PAGE.partition(f"| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_the_screen(start_server: StartServer) -> None:
    """The screen in the page is a real one, except for the time."""
    shown = PAGE.partition("```screen\n")[2].partition("```")[0].splitlines()
    port = start_server(classic_gap=0, group_invitations="open").port
    register(port, "alice", "bob", "carol")
    with (
        Terminal("alice", port=port, columns=60, rows=len(shown), JELLY_PASSWORD="pw") as alice,
        Terminal("bob", port=port, JELLY_PASSWORD="pw") as bob,
        logged_in(port, "carol") as carol,
    ):
        for one, other in ((alice, "bob"), (bob, "alice")):
            one.wait_for("your friend list is empty")
            one.enter(f"/to {other}")
            one.wait_for(f"{other}>")
        for writer, reader, text in (
            (alice, bob, "hello bob"),
            (bob, alice, "hello! 你好"),
            (alice, bob, "lunch?"),
            (bob, alice, "at noon, with carol. But you will have to wait for me: I am never there in time"),
        ):
            writer.enter(text)
            reader.wait_for(f"│ {text[:20]}")
        carol.ok(CREATE_GROUP, groupName="team")
        carol.ok(ADD_MEMBER, groupName="team", member="alice")
        alice.wait_for("2:#team(1)")
        alice.type("see you th")
        alice.wait_until(lambda: alice.input == shown[-1])
        alice.wait_until(lambda: "…" not in alice.screen)
        assert [re.sub(r"^\d\d:\d\d", "14:03", row) for row in alice.rows] == shown


def test_the_commands() -> None:
    """The table lists all commands in the order of the code, and the subcommands of /group."""
    assert [re.findall(r"`/(\w+)", row[0]) for row in table("command")] == [[name] for name in COMMANDS]
    groups = next(row for row in table("command") if row[0].startswith("`/group"))
    said = help_texts.HELP["group"].arguments.en.split("|")
    assert re.findall(r"`/group (\w+)", " ".join(groups)) == said


def test_the_exit_codes() -> None:
    """The exit codes are those of --help."""
    codes = re.findall(r"^  (\d)  (?:done; with --send: )?(.*)$", start_texts.ABOUT_EXIT.en, re.MULTILINE)
    shown = [(code, text) for code, text in table("exit code")]
    assert [code for code, _ in shown] == [code for code, _ in codes]
    assert shown[3:] == codes[3:]


def test_the_marks_and_the_numbers() -> None:
    """Each mark has a row, and the limit is that of the code."""
    assert {row[0] for row in table("mark")} == {status.value for status in DeliveryStatus}
    assert f"last {MAX_LINES:,} lines" in PAGE
