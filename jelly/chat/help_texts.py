"""What /help says, in English and in Chinese."""

from typing import NamedTuple

from jelly.chat.language import TranslatedText


class Help(NamedTuple):
    """What /help shows about a command: its arguments, a summary in one line, and details."""

    arguments: TranslatedText
    summary: TranslatedText
    details: TranslatedText = TranslatedText("", "")


NOTHING = TranslatedText("", "")

HELP: dict[str, Help] = {
    "to": Help(
        TranslatedText("bob | #team [TEXT]", "bob | #team [文字]"),
        TranslatedText("open the conversation with a person or group", "打开与某人或群组的对话"),
        TranslatedText(
            "/to bob hello also sends hello. Groups begin with #. /to alone lists the conversations. "
            "/msg, /query and /w do the same.",
            "/to bob 你好 会同时发出“你好”。群组以 # 开头。单独的 /to 列出所有对话。也可以写 /msg、/query、/w。",
        ),
    ),
    "friends": Help(NOTHING, TranslatedText("show your friends, and who is online", "查看好友列表及谁在线")),
    "add": Help(
        TranslatedText("bob", "bob"),
        TranslatedText("add a friend; some are asked first", "添加好友（有些人需先同意）"),
    ),
    "accept": Help(
        TranslatedText("bob | #team", "bob | #team"),
        TranslatedText("accept a request or an invitation", "同意好友请求或入群邀请"),
        TranslatedText(
            "bob sees your profile and when you are online from then on. It does not add bob to your list.",
            "此后 bob 能看到你的资料和在线状态。这不会把 bob 加入你的列表。",
        ),
    ),
    "decline": Help(
        TranslatedText("bob | #team", "bob | #team"), TranslatedText("decline it", "拒绝好友请求或入群邀请")
    ),
    "block": Help(
        TranslatedText("[bob]", "[bob]"),
        TranslatedText("block a person", "屏蔽某人"),
        TranslatedText(
            "bob cannot write to you, ask you, add you to groups, or see when you are online. "
            "/block alone lists whom you have blocked.",
            "bob 不能给你发消息、请求加好友、拉你进群，也看不到你是否在线。单独的 /block 列出已屏蔽的人。",
        ),
    ),
    "ignore": Help(
        TranslatedText("[bob]", "[bob]"),
        TranslatedText("show nothing of a person, here only", "不再显示某人的内容（仅在本程序）"),
        TranslatedText(
            "bob is not told, and the server goes on delivering. /ignore bob again ends it; /ignore alone lists whom "
            "you ignore.",
            "bob 不会知道，服务器照常投递。再次 /ignore bob 可取消；单独的 /ignore 列出已忽略的人。",
        ),
    ),
    "unblock": Help(TranslatedText("bob", "bob"), TranslatedText("end a block", "解除屏蔽")),
    "remove": Help(TranslatedText("bob", "bob"), TranslatedText("remove a person from your friend list", "删除好友")),
    "group": Help(
        TranslatedText(
            "create|disband|add|remove|admin|member|owner|leave|list",
            "create|disband|add|remove|admin|member|owner|leave|list",
        ),
        TranslatedText("groups: see /help group", "群组：见 /help group"),
        TranslatedText(
            "/group create #team         create a group\n"
            "/group disband [#team]      disband your group\n"
            "/group add [#team] bob      add a member\n"
            "/group remove [#team] bob   remove a member\n"
            "/group admin [#team] bob    have a member add and remove others, too\n"
            "/group member [#team] bob   make an admin a plain member again\n"
            "/group owner [#team] bob    pass your group on\n"
            "/group leave [#team]        leave the group\n"
            "/group list                 list your groups and their members\n"
            "You may leave out [#team] in the group's own conversation.",
            "/group create #team         创建群组\n"
            "/group disband [#team]      解散自己的群组\n"
            "/group add [#team] bob      添加成员\n"
            "/group remove [#team] bob   移除成员\n"
            "/group admin [#team] bob    设为管理员，可添加和移除成员\n"
            "/group member [#team] bob   将管理员改回普通成员\n"
            "/group owner [#team] bob    转让群组\n"
            "/group leave [#team]        退出群组\n"
            "/group list                 列出所在的群组及成员\n"
            "在该群组的对话里可以省略 [#team]。",
        ),
    ),
    "who": Help(
        NOTHING,
        TranslatedText("show the members of this group, or your friends", "查看当前群组的成员，或好友列表"),
        TranslatedText("It also shows which of your friends among them are online.", "并显示其中哪些好友在线。"),
    ),
    "find": Help(
        TranslatedText("bo", "bo"),
        TranslatedText("find users by the beginning of their names", "按开头查找用户名"),
        TranslatedText(
            "It shows at most 20. The operator of the server may have turned it off.",
            "最多显示 20 个。服务器管理员可能没有开启此功能。",
        ),
    ),
    "report": Help(
        TranslatedText("bob TEXT", "bob 文字"),
        TranslatedText("tell the operator of the server about a person", "向服务器管理员举报某人"),
        TranslatedText(
            "The operator also gets the last message of that person in this conversation. Nobody else sees it.",
            "管理员还会看到此人在当前对话中的最后一条消息。其他人都看不到。",
        ),
    ),
    "invite": Help(
        TranslatedText("[USES [HOURS]]", "[次数 [小时]]"),
        TranslatedText("make a code with which others join this group", "生成邀请码，供他人加入当前群组"),
        TranslatedText(
            "It is good once, and for 24 hours, unless you say otherwise. On the first screen it is for a new account, "
            "where the server wants an invitation.",
            "默认只能用一次，24 小时内有效。在首屏输入时，用于注册新账号（服务器需要邀请时）。",
        ),
    ),
    "join": Help(TranslatedText("CODE", "邀请码"), TranslatedText("join a group with a code", "用邀请码加入群组")),
    "profile": Help(NOTHING, TranslatedText("show your profile", "查看自己的资料")),
    "set": Help(
        TranslatedText("name Alice Smith", "name 王小明"),
        TranslatedText("fill in your profile", "填写自己的资料"),
        TranslatedText(
            "The fields are name, sex, age, phone, address and introduction. /set phone alone empties it.",
            "可填写：姓名、性别、年龄、电话、地址、简介。单独的 /set 电话 会清空它。",
        ),
    ),
    "whois": Help(TranslatedText("bob", "bob"), TranslatedText("show the profile of a friend", "查看好友的资料")),
    "seen": Help(
        TranslatedText("on|off", "on|off"),
        TranslatedText("let friends see when you were online last, or not", "是否让好友看到你上次在线的时间"),
        TranslatedText(
            "Friends are those whom you have accepted or added, and who have you on their list. /whois shows it.",
            "好友指你接受过或添加过、并且把你列为好友的人。用 /whois 查看。",
        ),
    ),
    "receipts": Help(
        TranslatedText("on|off", "on|off"),
        TranslatedText("let others know what you have received and read, or not", "是否让对方知道你收到和读过哪些消息"),
        TranslatedText(
            "Others are your friends, and the members of small groups. Who sends none gets none.",
            "对方指互为好友的人，以及人数不多的群组的成员。关闭之后，你也不会收到对方的回执。",
        ),
    ),
    "passwd": Help(
        NOTHING,
        TranslatedText("change your password", "修改密码"),
        TranslatedText(
            "It asks for the present password, and for the new one twice. It shows none of them.",
            "先询问当前密码，再两次询问新密码，输入时都不显示。",
        ),
    ),
    "account": Help(
        TranslatedText("[logins|end|delete]", "[logins|end|delete]"),
        TranslatedText("your logins; delete the account", "查看自己的登录；删除账号"),
        TranslatedText(
            "/account             list your logins: on which devices you are still logged in\n"
            "/account end LOGIN   end one of them\n"
            "/account delete      delete your account for ever; it asks for the password",
            "/account             列出自己的登录：哪些设备还可以使用\n"
            "/account end 登录    结束其中一个\n"
            "/account delete      永久删除账号，会询问密码",
        ),
    ),
    "resend": Help(
        NOTHING,
        TranslatedText("send messages marked ✗ or ? again", "重发标有 ✗ 或 ? 的消息"),
        TranslatedText(
            "It sends the marked messages of this conversation again. A message marked ? may arrive twice.",
            "重发当前对话里有标记的消息。标有 ? 的消息可能会被收到两次。",
        ),
    ),
    "discard": Help(
        NOTHING,
        TranslatedText("discard messages marked ✗ or ?, and those that wait", "丢弃标有 ✗ 或 ? 以及等待发送的消息"),
        TranslatedText(
            "They are those of this conversation. What is marked ? may have arrived all the same.",
            "只涉及当前对话。标有 ? 的消息可能已经送达。",
        ),
    ),
    "history": Help(
        TranslatedText("[20]", "[20]"),
        TranslatedText("show earlier messages", "查看更早的消息"),
        TranslatedText(
            "It shows 50 messages, or as many as you ask for, up to 100. Repeat it, or press PageUp, for more.",
            "每次 50 条，也可以指定数目，最多 100 条。再次输入或按 PageUp 可继续向前。",
        ),
    ),
    "edit": Help(
        TranslatedText("TEXT", "文字"),
        TranslatedText("change your last message here", "修改你在这里的最后一条消息"),
        TranslatedText(
            "Those who have it see the new text, marked as edited. It works for 15 minutes.",
            "收到过的人会看到新的文字，并标明已编辑。只在 15 分钟之内有效。",
        ),
    ),
    "recall": Help(
        NOTHING,
        TranslatedText("take back your last message here", "撤回你在这里的最后一条消息"),
        TranslatedText(
            "The server erases its text; who has read it has read it. It works for 15 minutes.",
            "服务器会删去它的文字，但已经看到的人已经看到了。只在 15 分钟之内有效。",
        ),
    ),
    "search": Help(
        TranslatedText("TEXT", "文字"),
        TranslatedText("find messages that contain a text", "查找含有某段文字的消息"),
        TranslatedText(
            "It searches this conversation, on the first screen all of yours. Repeat it for older messages.",
            "查找当前对话；在首屏则查找你的全部对话。再次输入相同的命令可查看更早的结果。",
        ),
    ),
    "close": Help(
        NOTHING,
        TranslatedText("close this conversation", "关闭当前对话"),
        TranslatedText("It comes back with the next message, or with /to.", "有新消息或用 /to 时会再次出现。"),
    ),
    "clear": Help(
        NOTHING,
        TranslatedText("clear the screen of this conversation", "清空当前对话的屏幕"),
        TranslatedText("Nothing is deleted: PageUp shows it again.", "不会删除任何内容：按 PageUp 可再次查看。"),
    ),
    "log": Help(
        TranslatedText("[FILE]", "[文件名]"),
        TranslatedText("write what is shown to a file", "将显示的内容写入文件"),
        TranslatedText(
            "It appends what is shown from now on, of all conversations. /log alone ends that.",
            "追加此后所有对话中显示的内容。单独的 /log 停止写入。",
        ),
    ),
    "connect": Help(NOTHING, TranslatedText("log in again after the session has ended", "会话结束后重新登录")),
    "logout": Help(NOTHING, TranslatedText("log out and exit", "退出登录并关闭程序")),
    "quit": Help(NOTHING, TranslatedText("exit", "关闭程序")),
    "help": Help(
        TranslatedText("[COMMAND]", "[命令]"),
        TranslatedText("show this list, or more about one command", "显示本列表，或某个命令的说明"),
    ),
}

RARE = (
    "accept", "decline", "block", "unblock", "find", "seen", "receipts", "report", "set", "passwd", "edit", "recall",
    "discard", "who", "log", "close", "clear", "ignore", "account", "invite", "join",
)  # fmt: skip
"""The commands that few people need often: the list of /help has only their names."""
MORE_COMMANDS = TranslatedText(
    "also {names}: /help set says more about /set", "还有 {names}：用 /help set 查看 /set 的说明"
)
HELP_KEYS = TranslatedText(
    "Alt-a     next unread conversation; Alt-1, Alt-j 12: that one; Alt-← Alt-→\n"
    "Tab       completes; ↑ recalls; Alt-Enter: new line; Ctrl-D: exit\n"
    "PageUp    scrolls back, as the wheel does; Ctrl-End: to the end\n"
    "//text    sends /text\n"
    "… ✗ ?     being sent, not delivered, perhaps delivered",
    "Alt-a     下一个未读；Alt-1、Alt-j 12：切换对话；Alt-← Alt-→\n"
    "Tab       补全；↑ 调出之前的输入；Alt-Enter 换行；Ctrl-D 退出\n"
    "PageUp    向上滚动（也可用滚轮）；Ctrl-End 回到末尾\n"
    "//文字    发送 /文字\n"
    "… ✗ ?     发送中、未送达、不确定",
)
HELP_PLAIN = TranslatedText(
    "//text    sends /text\n✗ ?       not delivered, perhaps delivered",
    "//文字    发送 /文字\n✗ ?       未送达、不确定",
)
