"""Every sentence of the chat, in English and in Chinese, side by side.

Names in braces are placeholders. Their values may come from strangers, so the user interface
sanitizes whole sentences, like everything that it shows.
"""

from collections.abc import Mapping
from typing import NamedTuple

from jelly.client.certificates import CertificateProblem
from jelly.errors import (
    ConnectionLost,
    ErrorCode,
    RequestError,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
)

LANGUAGES = ("en", "zh")


class TranslatedText(NamedTuple):
    """One sentence in all languages. The fields are in the order of LANGUAGES."""

    en: str
    zh: str


class Help(NamedTuple):
    """What /help shows about a command: its arguments, a summary in one line, and details."""

    arguments: TranslatedText
    summary: TranslatedText
    details: TranslatedText = TranslatedText("", "")


def language_of(environment: Mapping[str, str]) -> str:
    """Return the language that the environment variables ask for: zh for Chinese, else en."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(variable):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def is_definite_failure(error: BaseException) -> bool:
    """Return True if the request certainly changed nothing, False if its outcome is unknown."""
    if isinstance(error, ConnectionLost):
        return not error.sent
    return not isinstance(error, RequestTimeout | ServerFailed) or _is_original_refusal(error)


def can_resend_help(error: BaseException) -> bool:
    """Return whether the same message may be accepted later."""
    return not (isinstance(error, RequestError) and error.likely_code in NO_USE_TO_RESEND)


def _is_original_refusal(error: BaseException) -> bool:
    """Return whether this is an answer of the original server that means one thing only.

    Also where it says SERVER_ERROR, it has done nothing.
    """
    return isinstance(error, RequestError) and not error.code and bool(error.likely_code)


class Translator:
    """Call it with a TranslatedText and its values to get a sentence in one language."""

    def __init__(self, language: str) -> None:
        self._language_index = LANGUAGES.index(language)

    def __call__(self, text: TranslatedText, **values: object) -> str:
        return text[self._language_index].format(**values)

    def join_names(self, names: list[str]) -> str:
        """Return a list of names, separated as the language does it."""
        return ("、" if self._language_index else ", ").join(names)

    def describe_error(self, error: BaseException) -> str:
        """Return what went wrong, for the user."""
        if isinstance(error, ConnectionLost):
            return self(CONNECTION_LOST if error.sent else NOT_CONNECTED)
        if isinstance(error, RequestError) and error.likely_code in ERRORS:
            reason = self(ERRORS[ErrorCode(error.likely_code)])
            return reason if error.code else self(PROBABLY, reason=reason)
        for kind, text in ((ServerBusy, SERVER_BUSY), (RequestTimeout, NO_ANSWER), (ServerFailed, SERVER_FAILED)):
            if isinstance(error, kind):
                return self(text)
        # The original server gives no reason. A later server may give reasons with unknown codes.
        return str(error) if isinstance(error, RequestError) and error.code else self(REFUSED)

    def describe_failure(self, what: str, error: BaseException, changes: bool = True) -> str:
        """Return which command failed and why, or that its outcome is unknown.

        `changes`: whether the command would change something. Otherwise it has no outcome.
        """
        is_definite = is_definite_failure(error) or not changes
        return self(FAILED if is_definite else PERHAPS_DONE, what=what, reason=self.describe_error(error))


# --- why a request failed -------------------------------------------------------------------------

ERRORS: dict[ErrorCode, TranslatedText] = {
    ErrorCode.MALFORMED_FRAME: TranslatedText(
        "this is too long for the server; shorten it", "内容太长，服务器不接收，请缩短"
    ),
    ErrorCode.MALFORMED_BODY: TranslatedText(
        "the server does not understand this request; update it or this program",
        "服务器无法识别这个请求，请更新服务器或本程序",
    ),
    ErrorCode.UNKNOWN_TYPE: TranslatedText("this server does not support that", "这个服务器不支持此操作"),
    ErrorCode.NOT_LOGGED_IN: TranslatedText("you are not logged in; log in again", "尚未登录，请重新登录"),
    ErrorCode.ALREADY_LOGGED_IN: TranslatedText("you are already logged in", "已经登录"),
    ErrorCode.WRONG_CREDENTIALS: TranslatedText("the name or the password is wrong", "用户名或密码不对"),
    ErrorCode.TOO_MANY_ATTEMPTS: TranslatedText(
        "too many failed logins to this account; try again later", "这个账号登录失败次数过多，请稍后再试"
    ),
    ErrorCode.ACCOUNT_DISABLED: TranslatedText(
        "the operator of the server has disabled this account", "服务器管理员已停用这个账号"
    ),
    ErrorCode.INVALID_USERNAME: TranslatedText(
        "a name must have 1 to 32 characters, without spaces or invisible characters, in one script",
        "用户名须为 1 到 32 个字符，不能含空格或不可见字符，不能混用不同的文字",
    ),
    ErrorCode.REGISTRATION_CLOSED: TranslatedText(
        "this server does not let anybody register; ask its operator for an account",
        "这个服务器不开放注册，请向管理员申请账号",
    ),
    ErrorCode.INVITE_NEEDED: TranslatedText(
        "registering here needs an invitation; ask somebody who has an account for a code",
        "在这里注册需要邀请，请向已有账号的人索取邀请码",
    ),
    ErrorCode.INVALID_INVITE: TranslatedText(
        "this invitation is not valid, or no longer; ask for another one", "这个邀请码无效或已失效，请重新索取"
    ),
    ErrorCode.TOO_MANY_REGISTRATIONS: TranslatedText(
        "too many accounts were made from your address; try again in an hour",
        "从你的地址注册的账号太多，请一小时后再试",
    ),
    ErrorCode.INVALID_PASSWORD: TranslatedText("a password must have 1 to 128 characters", "密码须为 1 到 128 个字符"),
    ErrorCode.USERNAME_TAKEN: TranslatedText("this name is taken; choose another one", "这个用户名已被使用，请换一个"),
    ErrorCode.NAME_RESERVED: TranslatedText(
        "this name is reserved for the operator of the server; choose another one",
        "这个用户名留给服务器管理员，请换一个",
    ),
    ErrorCode.INVALID_TOKEN: TranslatedText("the session has ended; log in again", "会话已失效，请重新登录"),
    ErrorCode.NOT_YOURSELF: TranslatedText(
        "you are logged in under another name; log in again", "当前登录的是另一个用户名，请重新登录"
    ),
    ErrorCode.NO_SUCH_USER: TranslatedText("no such user", "没有这个用户"),
    ErrorCode.ALREADY_FRIENDS: TranslatedText("already on your friend list", "已经在好友列表里"),
    ErrorCode.NOT_FRIENDS: TranslatedText("not on your friend list", "不在好友列表里"),
    ErrorCode.NOT_ASKED: TranslatedText("there is no such question to answer", "没有待答复的请求"),
    ErrorCode.NOT_ACCEPTED: TranslatedText("this user accepts nothing from you", "对方不接收你的消息和请求"),
    ErrorCode.INVALID_GROUP_NAME: TranslatedText(
        "a group name must have 1 to 32 characters, without spaces or invisible characters, in one script",
        "群组名须为 1 到 32 个字符，不能含空格或不可见字符，不能混用不同的文字",
    ),
    ErrorCode.GROUP_EXISTS: TranslatedText(
        "a group of this name exists already; choose another name", "已有同名群组，请换一个名字"
    ),
    ErrorCode.NO_SUCH_GROUP: TranslatedText("no such group", "没有这个群组"),
    ErrorCode.NOT_GROUP_CREATOR: TranslatedText(
        "only the owner of the group or its admins can do this", "只有群主或管理员可以这样做"
    ),
    ErrorCode.ALREADY_MEMBER: TranslatedText("already a member of this group", "已经是该群组的成员"),
    ErrorCode.NOT_A_MEMBER: TranslatedText("not a member of this group", "不是该群组的成员"),
    ErrorCode.CREATOR_CANNOT_LEAVE: TranslatedText(
        "the owner cannot leave the group: pass it on first (/group owner), or disband it",
        "群主不能退出群组：请先转让（/group owner），或解散它",
    ),
    ErrorCode.TOO_LONG: TranslatedText("this is too long; shorten it", "内容太长，请缩短"),
    ErrorCode.LIMIT_REACHED: TranslatedText(
        "the limit is reached; remove something first", "数量已达上限，请先删除一些"
    ),
    ErrorCode.RATE_LIMITED: TranslatedText("too many messages per second; slow down", "发送太频繁，请慢一点"),
    ErrorCode.INBOX_FULL: TranslatedText(
        "too many messages wait for this user; try again later", "对方积压的未读消息太多，请稍后再试"
    ),
    ErrorCode.REQUEST_ID_REUSED: TranslatedText(
        "the server took this for another message; send it again", "服务器把它当成了另一条消息，请重新发送"
    ),
    ErrorCode.NO_SUCH_MESSAGE: TranslatedText("there is no such message", "没有这条消息"),
    ErrorCode.TOO_LATE: TranslatedText("a message can be changed for 15 minutes only", "消息只能在 15 分钟之内修改"),
    ErrorCode.BUSY: TranslatedText(
        "the server is busy and did nothing; try again in a moment", "服务器繁忙，未做处理，请稍后再试"
    ),
    ErrorCode.INTERNAL: TranslatedText("the server had an internal error", "服务器内部出错"),
}

NO_USE_TO_RESEND = frozenset(
    {
        ErrorCode.NO_SUCH_USER,
        ErrorCode.NOT_ACCEPTED,
        ErrorCode.NO_SUCH_GROUP,
        ErrorCode.NOT_A_MEMBER,
        ErrorCode.TOO_LONG,
        ErrorCode.MALFORMED_BODY,
        ErrorCode.MALFORMED_FRAME,
        ErrorCode.UNKNOWN_TYPE,
    }
)
"""Why the same message would be refused again. The chat does not suggest to resend it."""
PROBABLY = TranslatedText("probably {reason}", "很可能{reason}")
CONNECTION_LOST = TranslatedText("the connection was lost", "连接中断")
NOT_CONNECTED = TranslatedText("not connected", "未连接")
SERVER_BUSY = ERRORS[ErrorCode.BUSY]
SERVER_FAILED = ERRORS[ErrorCode.INTERNAL]
NO_ANSWER = TranslatedText("the server did not answer in time", "服务器没有及时应答")
REFUSED = TranslatedText("the server refused this without a reason", "服务器拒绝了，没有说明原因")
LIST_SEPARATOR = TranslatedText(", ", "，")

# --- the connection, and who is online ------------------------------------------------------------

WELCOME = TranslatedText(
    "Welcome, {name}. /to NAME starts a conversation, /help lists all commands.",
    "欢迎，{name}。用 /to 名字 开始对话，用 /help 查看所有命令。",
)
ONLINE_NOW = TranslatedText("online: {names}", "在线：{names}")
NOBODY_ONLINE = TranslatedText("none of your friends is online", "没有好友在线")
NO_FRIENDS = TranslatedText(
    "your friend list is empty: /add NAME adds a friend", "好友列表还是空的：用 /add 名字 添加好友"
)
WHILE_AWAY = TranslatedText(
    "while you were away: {counts} (Alt-a goes there)", "你不在的时候：{counts}（按 Alt-a 前往）"
)
COUNT_FROM = TranslatedText("{count} from {name}", "{name} 发来 {count} 条")
COUNT_IN = TranslatedText("{count} in {name}", "{name} 中有 {count} 条")
WRITES_FIRST = TranslatedText("{name} writes to you: Alt-{number} goes there", "{name} 发来消息：按 Alt-{number} 前往")
CONNECTED_AGAIN = TranslatedText("connected again (not connected since {since})", "已重新连接（自 {since} 起曾断开）")
CONNECTED_AGAIN_AT = TranslatedText(
    "connected again, to {address} (not connected since {since})", "已重新连接到 {address}（自 {since} 起曾断开）"
)
GOING_TO_ANOTHER = TranslatedText(
    "the connection to {address} was lost; going to another address", "与 {address} 的连接已断开，正在改用另一个地址"
)
CONNECTED = TranslatedText("connected", "已连接")
TAKEN_OVER = TranslatedText(
    "someone logged in as {name} elsewhere. /connect logs in again",
    "{name} 在别处登录，会话已结束。/connect 可重新登录",
)
PASSWORD_CHANGED_ELSEWHERE = TranslatedText(
    "the password of {name} was changed elsewhere. /connect asks for the new one",
    "{name} 的密码已在别处更改。/connect 会询问新密码",
)
ENDED_ELSEWHERE = TranslatedText(
    "the login of {name} was ended, elsewhere or by the operator. /connect logs in again",
    "{name} 的登录已在别处或被管理员结束。/connect 可重新登录",
)
CONNECTION_CLOSED = TranslatedText("the connection is closed. /connect tries again", "连接已断开。/connect 可重试")
CANNOT_CONNECT_NOW = TranslatedText("cannot connect: {reason}", "无法连接：{reason}")
PASSWORD_NEEDED = TranslatedText("/connect asks for the password", "/connect 会询问密码")
SERVER_STOPS = TranslatedText("the server is shutting down", "服务器即将停止")
ALREADY_CONNECTED = TranslatedText("you are already connected", "已经连接")
ALREADY_TRYING = TranslatedText("still trying to connect", "仍在尝试连接")

# --- the status bar -------------------------------------------------------------------------------

BAR_CONNECTED = TranslatedText("connected", "已连接")
BAR_CONNECTING = TranslatedText("connecting", "正在连接")
BAR_RECONNECTING = TranslatedText("not connected since {since}, trying again", "自 {since} 起断开，正在重试")
BAR_OFFLINE = TranslatedText("not connected since {since}; /connect", "自 {since} 起断开；/connect")
BAR_TAKEN_OVER = TranslatedText("ended: logged in elsewhere; /connect", "会话已结束：账号在别处登录；/connect")
BAR_PASSWORD_CHANGED = TranslatedText("ended: the password was changed; /connect", "会话已结束：密码已更改；/connect")
BAR_TYPING = TranslatedText("{names} typing…", "{names} 正在输入…")
BAR_ENDED = TranslatedText("ended: the login was ended; /connect", "会话已结束：登录已被结束；/connect")
BAR_MORE_BELOW = TranslatedText("more below", "下方还有")
LOADING = TranslatedText("loading earlier messages", "正在读取更早的消息")
NO_EARLIER_MESSAGES = TranslatedText("there are no earlier messages", "没有更早的消息")
CANNOT_LOAD_HISTORY = TranslatedText("cannot load earlier messages: {reason}", "无法读取更早的消息：{reason}")
TRUNCATED = TranslatedText("earlier messages are no longer in memory", "更早的消息已不在内存中")
NEW = TranslatedText("new", "新消息")

# --- conversations --------------------------------------------------------------------------------

NOT_DELIVERED = TranslatedText("not delivered: {reason}. /resend sends it again", "未送达：{reason}。/resend 可重发")
REFUSED_MESSAGE = TranslatedText("not delivered: {reason}", "未送达：{reason}")
PERHAPS_DELIVERED = TranslatedText(
    "perhaps delivered: {reason}. /resend sends it again, so it may arrive twice",
    "不确定是否送达：{reason}。/resend 可重发，但可能收到两次",
)
SOME_NOT_DELIVERED = TranslatedText(
    "not delivered: {counts}. /resend in that conversation sends them again",
    "未送达：{counts}。在该对话中用 /resend 重发",
)
SOME_PERHAPS_DELIVERED = TranslatedText(
    "perhaps delivered: {counts}. /resend in that conversation sends them again, so they may arrive twice",
    "不确定是否送达：{counts}。在该对话中可用 /resend 重发，但可能收到两次",
)
COUNT_TO = TranslatedText("{count} to {name}", "给 {name} 的 {count} 条")
SENT_LATER = TranslatedText("not connected: this is sent as soon as you are connected", "未连接：恢复连接后会发出")
NOTHING_TO_RESEND = TranslatedText("there is nothing to resend here", "这里没有需要重发的消息")
NO_RECEIVER = TranslatedText("no receiver yet: choose one with /to NAME", "还没有对话对象：请先用 /to 名字 选择")
TEXT_STAYS = TranslatedText(
    "your text is kept: /to NAME puts it into the input again", "文字已保留：用 /to 名字 选择对象后会回到输入行"
)
CONVERSATION_WITH = TranslatedText("you are writing to {name}", "正在与 {name} 对话")
NO_CONVERSATIONS = TranslatedText("no conversations yet: /to NAME starts one", "还没有对话：用 /to 名字 开始")
NO_HISTORY = TranslatedText("this server has no message history", "这个服务器不提供历史消息")
HISTORY_BEGIN = TranslatedText("earlier messages with {name}", "与 {name} 的历史消息")
HISTORY_END = TranslatedText("end of earlier messages", "以上是历史消息")
FRIEND_REQUEST = TranslatedText(
    "{name} asks to have you as a friend: to see your profile, and when you are online. /accept {name} or "
    "/decline {name}",
    "{name} 请求加你为好友：对方将能看到你的资料和在线状态。/accept {name} 同意，/decline {name} 拒绝",
)
INVITATION = TranslatedText(
    "{name} invites you to {group}: /accept {group} or /decline {group}",
    "{name} 邀请你加入 {group}：/accept {group} 同意，/decline {group} 拒绝",
)
REQUEST_ACCEPTED = TranslatedText("{name} has accepted your friend request", "{name} 同意了你的好友请求")
REQUEST_DECLINED = TranslatedText("{name} has declined your friend request", "{name} 拒绝了你的好友请求")
CAME_ONLINE = TranslatedText("{name} is online", "{name} 上线了")
WENT_OFFLINE = TranslatedText("{name} is offline", "{name} 下线了")
ADDED = TranslatedText("{user} added {names}", "{user} 将 {names} 加入了群组")
REMOVED = TranslatedText("{user} removed {names}", "{user} 将 {names} 移出了群组")
YOU_WERE_REMOVED = TranslatedText("{user} removed you from {group}", "{user} 已将你移出 {group}")
JOINED = TranslatedText("{names} joined", "{names} 加入了群组")
LEFT = TranslatedText("{names} left", "{names} 离开了群组")
ROLE_CHANGES = {
    "admin": TranslatedText("{user} made {name} an admin", "{user} 将 {name} 设为管理员"),
    "member": TranslatedText("{user} made {name} a plain member", "{user} 将 {name} 设为普通成员"),
    "owner": TranslatedText("{user} passed the group on to {name}", "{user} 将群组转让给了 {name}"),
}
YOU_ARE_IN = TranslatedText("you are in {group} with {names}", "你已加入 {group}，成员：{names}")
YOU_ARE_OUT = TranslatedText("you are no longer in {group}", "你已不在 {group} 中")
GROUP_MISSED = TranslatedText(
    "too much waited for you, so messages in {group} were left out; /history shows them",
    "等待你的消息太多，{group} 中有一些没有送达；用 /history 查看",
)
GROUP_ENDED = TranslatedText("{group} was disbanded", "{group} 已解散")

REPORTED = TranslatedText(
    "the operator of the server can read your report about {name}", "服务器管理员可以看到你对 {name} 的举报"
)
REPORTED_WITH_MESSAGE = TranslatedText(
    "the operator of the server can read your report about {name}, and the last message of {name} in this conversation",
    "服务器管理员可以看到你对 {name} 的举报，以及 {name} 在当前对话中的最后一条消息",
)
INVITE_TO_GROUP = TranslatedText(
    "{code} is good for {uses} to join {group} with /join {code}, until {until}",
    "{code} 可供 {uses} 人在 {until} 之前用 /join {code} 加入 {group}",
)
INVITE_TO_REGISTER = TranslatedText(
    "{code} is good for {uses} to register here, until {until}", "{code} 可供 {uses} 人在 {until} 之前注册"
)
GROUP_ENTERED = TranslatedText("you are in {group} now", "你已加入 {group}")
ASK_INVITE = TranslatedText("Code of an invitation: ", "邀请码：")
LOGIN_LINE = TranslatedText("{login}: since {when}, from {network}", "{login}：{when}，来自 {network}")
LOGIN_HERE = TranslatedText(
    "{login}: since {when}, from {network} (this one)", "{login}：{when}，来自 {network}（当前登录）"
)
LOGIN_ENDED = TranslatedText("the login {login} is ended", "登录 {login} 已结束")
DELETE_PASSWORD = TranslatedText(
    "This deletes the account {name} for ever. Password: ", "账号 {name} 将被永久删除。密码："
)
ACCOUNT_DELETED = TranslatedText("the account {name} is deleted", "账号 {name} 已删除")
FOUND_USERS = TranslatedText("found: {names}", "找到：{names}")
FOUND_NOBODY = TranslatedText("no name begins like this", "没有以此开头的用户名")
FOUND_LINE = TranslatedText("{when} {sender}: {content}", "{when} {sender}：{content}")
FROM_TO = TranslatedText("{sender} to {receiver}", "{sender} 发给 {receiver}")
FOUND_NOTHING = TranslatedText("no message has this text: {wanted}", "没有找到含有“{wanted}”的消息")
EDITED = TranslatedText("(edited)", "（已编辑）")
RECALLED = TranslatedText("(recalled)", "（已撤回）")
NOTHING_TO_EDIT = TranslatedText("there is no message of yours here that could be changed", "这里没有可以修改的消息")
SEARCH_AGAIN = TranslatedText("/search {wanted} again shows older ones", "再次输入 /search {wanted} 可查看更早的结果")

# --- answers to commands --------------------------------------------------------------------------

UNKNOWN_COMMAND = TranslatedText(
    "there is no /{name}; /help lists all commands. (// sends a text that begins with /)",
    "没有 /{name} 命令；用 /help 查看所有命令。（要发送以 / 开头的文字，请多输入一个 /）",
)
DID_YOU_MEAN = TranslatedText(
    "there is no /{name}: did you mean /{close}?", "没有 /{name} 命令：是不是想输入 /{close}？"
)
USAGE = TranslatedText("usage: {usage}", "用法：{usage}")
FAILED = TranslatedText("{what}: {reason}", "{what}：{reason}")
PERHAPS_DONE = TranslatedText(
    "{what}: {reason}; it may or may not have been done", "{what}：{reason}，不确定是否已完成"
)
ADDED_FRIEND = TranslatedText("{name} is on your friend list now", "{name} 已加入好友列表")
ASKED_FRIEND = TranslatedText(
    "{name} is asked, and is shown as offline until then", "已向 {name} 发出好友请求，对方同意之前显示为离线"
)
YOU_ACCEPTED = TranslatedText(
    "{name} has you as a friend now. /add {name} adds {name} to your own list",
    "{name} 现在可以把你当作好友了。用 /add {name} 把对方加入你的列表",
)
YOU_DECLINED = TranslatedText("declined: {name} does not see when you are online", "已拒绝：{name} 看不到你是否在线")
YOU_BLOCKED = TranslatedText(
    "{name} is blocked: no messages, requests or groups from {name}. /unblock {name} ends it",
    "已屏蔽 {name}：不再接收对方的消息、请求和入群邀请。用 /unblock {name} 解除",
)
YOU_UNBLOCKED = TranslatedText("{name} is no longer blocked", "已解除对 {name} 的屏蔽")
BLOCKED = TranslatedText("blocked: {names}", "已屏蔽：{names}")
NOBODY_BLOCKED = TranslatedText("you have blocked nobody", "你没有屏蔽任何人")
REMOVED_FRIEND = TranslatedText("{name} is no longer on your friend list", "{name} 已从好友列表移除")
FRIENDS_ONLINE = TranslatedText("online: {names}", "在线：{names}")
FRIENDS_OFFLINE = TranslatedText("offline: {names}", "离线：{names}")
FRIENDS_ASKED = TranslatedText("not accepted yet: {names}", "尚未同意：{names}")
FRIENDS_ASKING = TranslatedText(
    "they ask you: {names} (/accept, /decline)", "请求加你为好友：{names}（/accept、/decline）"
)
GROUP_CREATED = TranslatedText(
    "{group} is created: /to {group} opens it, /group add {group} NAME adds members",
    "{group} 已创建：用 /to {group} 打开，用 /group add {group} 名字 添加成员",
)
GROUP_DISBANDED = TranslatedText("{group} is disbanded", "{group} 已解散")
MEMBER_ADDED = TranslatedText("{name} is in {group} now", "{name} 已加入 {group}")
MEMBER_INVITED = TranslatedText("{name} is invited to {group}", "已邀请 {name} 加入 {group}")
INVITATION_DECLINED = TranslatedText("declined: you are not in {group}", "已拒绝加入 {group}")
MEMBER_REMOVED = TranslatedText("{name} is no longer in {group}", "已将 {name} 移出 {group}")
GROUP_LEFT = TranslatedText("you have left {group}", "你已退出 {group}")
NO_GROUPS = TranslatedText(
    "you are in no group: /group create NAME creates one", "你还没有群组：用 /group create 名字 创建"
)
GROUP_LINE = TranslatedText("{group}: {names}", "{group}：{names}")
OWNER = TranslatedText("{name} (owner)", "{name}（群主）")
ADMIN = TranslatedText("{name} (admin)", "{name}（管理员）")
ROLES_GIVEN = {
    "admin": TranslatedText("{name} is an admin of {group} now", "{name} 现在是 {group} 的管理员"),
    "member": TranslatedText("{name} is a plain member of {group} now", "{name} 现在是 {group} 的普通成员"),
    "owner": TranslatedText("{group} belongs to {name} now", "{group} 现在由 {name} 担任群主"),
}
PROFILE_OF = TranslatedText("the profile of {name}", "{name} 的资料")
SEEN_AT = TranslatedText("last seen: {time}", "上次在线：{time}")
SEEN_ON = TranslatedText("friends can see when you were online last", "好友可以看到你上次在线的时间")
SEEN_OFF = TranslatedText("nobody can see when you were online last", "没有人能看到你上次在线的时间")
RECEIPTS_ON = TranslatedText("others are told what you have received and read", "对方会知道你收到和读过哪些消息")
RECEIPTS_OFF = TranslatedText("nobody is told what you have received and read", "没有人会知道你收到和读过哪些消息")
PROFILE_EMPTY = TranslatedText("the profile is empty", "没有填写资料")
PROFILE_LINE = TranslatedText("{field}: {value}", "{field}：{value}")
OWN_PROFILE_EMPTY = TranslatedText(
    "your profile is empty: begin with /set name YOUR NAME", "你的资料是空的：可从 /set name 你的名字 开始填写"
)
FIELD_SET = TranslatedText("{field} is now: {value}", "{field} 已改为：{value}")
NO_SUCH_FIELD = TranslatedText("there is no such field. The fields are: {fields}", "没有这个字段。可填写：{fields}")
WHOIS_NEEDS_FRIEND = TranslatedText("not on your friend list: /add {name} first", "不在好友列表里：请先 /add {name}")
OLD_PASSWORD = TranslatedText("Present password: ", "当前密码：")
OLD_PASSWORD_WRONG = TranslatedText("the present password was wrong: nothing was changed", "当前密码不对，未做更改")
NEW_PASSWORD = TranslatedText("New password: ", "新密码：")
ONCE_MORE = TranslatedText("Once more: ", "再输一次：")
PASSWORDS_DIFFER = TranslatedText("the passwords differ: nothing was changed", "两次输入的密码不一致，未做更改")
PASSWORD_EMPTY = TranslatedText("nothing was changed", "未做更改")
PASSWORD_CHANGED = TranslatedText("your password was changed", "密码已更改")

FIELDS: dict[str, TranslatedText] = {
    "name": TranslatedText("name", "姓名"),
    "sex": TranslatedText("sex", "性别"),
    "age": TranslatedText("age", "年龄"),
    "phone": TranslatedText("phone", "电话"),
    "address": TranslatedText("address", "地址"),
    "introduction": TranslatedText("introduction", "简介"),
}

NOTHING = TranslatedText("", "")
HELP: dict[str, Help] = {
    "to": Help(
        TranslatedText("bob | #team [TEXT]", "bob | #team [文字]"),
        TranslatedText("open the conversation with a person or group", "打开与某人或群组的对话"),
        TranslatedText(
            "/to bob hello also sends hello. Groups begin with #. /to alone lists the conversations.",
            "/to bob 你好 会同时发出“你好”。群组以 # 开头。单独的 /to 列出所有对话。",
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
            "/group list                 列出自己的群组及成员\n"
            "在该群组的对话里可以省略 [#team]。",
        ),
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
            "The fields are name, sex, age, phone, address and introduction.",
            "可填写：name、sex、age、phone、address、introduction。",
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
    "account", "invite", "join",
)  # fmt: skip
"""The commands that few people need often: the list of /help has only their names."""
MORE_COMMANDS = TranslatedText(
    "also {names}: /help set says more about /set", "还有 {names}：用 /help set 查看 /set 的说明"
)
HELP_KEYS = TranslatedText(
    "Alt-a     next unread conversation; Alt-1, Alt-2: that one\n"
    "Tab       completes; ↑ recalls; Alt-Enter: new line\n"
    "PageUp    scrolls back; Ctrl-End: to the end\n"
    "//text    sends /text\n"
    "… ✗ ?     being sent, not delivered, perhaps delivered",
    "Alt-a     下一个未读；Alt-1、Alt-2：切换对话\n"
    "Tab       补全；↑ 调出之前的输入；Alt-Enter 换行\n"
    "PageUp    向上滚动；Ctrl-End 回到末尾\n"
    "//文字    发送 /文字\n"
    "… ✗ ?     发送中、未送达、不确定",
)
HELP_PLAIN = TranslatedText(
    "//text    sends /text\n✗ ?       not delivered, perhaps delivered",
    "//文字    发送 /文字\n✗ ?       未送达、不确定",
)

# --- the login dialog, and failures that end the program ------------------------------------------

ASK_NAME = TranslatedText("Name: ", "用户名：")
ASK_PASSWORD = TranslatedText("Password for {name}: ", "{name} 的密码：")
ASK_REGISTER = TranslatedText(
    "Unknown name or wrong password. Register {name} as a new user? [y/N] ",
    "没有这个用户，或密码不对。要注册新用户 {name} 吗？[y/N] ",
)
REGISTERED = TranslatedText("Welcome: {name} is registered.", "欢迎：{name} 注册成功。")
PASSWORD_WAS_WRONG = TranslatedText(
    "The name {name} is taken, so the password was wrong. Try again.",
    "用户名 {name} 已被注册，刚才的密码不对。请再试一次。",
)
PASSWORDS_DIFFER_TRY_AGAIN = TranslatedText("The passwords differ. Try again.", "两次输入的密码不一致，请再试一次。")
LOGIN_REFUSED = TranslatedText("Cannot log in as {name}: {reason}.", "无法以 {name} 登录：{reason}。")
CANNOT_REGISTER = TranslatedText("Cannot register {name}: {reason}.", "无法注册 {name}：{reason}。")
CANNOT_CONNECT = TranslatedText("Cannot connect to {server}: {reason}.", "无法连接 {server}：{reason}。")
IS_IT_RUNNING = TranslatedText(" Is the server running?", "服务器在运行吗？")
CLOSED_BY_SERVER = TranslatedText(
    "the server closed the connection (if it uses TLS, write jellys:// in its address)",
    "服务器关闭了连接（如果服务器使用 TLS，地址应以 jellys:// 开头）",
)
CERTIFICATE_PROBLEMS: dict[CertificateProblem, TranslatedText] = {
    CertificateProblem.UNKNOWN_AUTHORITY: TranslatedText(
        "its certificate is self-signed, or from an authority that this machine does not know (if you trust the "
        "server, get its certificate from its operator, and name the file with --tls-ca)",
        "它的证书是自签名的，或来自本机不认识的证书机构（信任这个服务器时，请向管理员索取证书，并用 --tls-ca 指定）",
    ),
    CertificateProblem.OTHER_NAME: TranslatedText(
        "its certificate is for another name or address (name the server as its certificate does, or ask its "
        "operator for a certificate with this name)",
        "它的证书属于另一个名字或地址（请用证书里的名字连接，或请管理员换一个包含这个名字的证书）",
    ),
    CertificateProblem.EXPIRED: TranslatedText(
        "its certificate has expired (its operator has to renew it; check the clock of this machine, too)",
        "它的证书已过期（需要管理员更新；也请检查本机的时钟）",
    ),
    CertificateProblem.NOT_YET_VALID: TranslatedText(
        "its certificate is not valid yet (check the clock of this machine)", "它的证书尚未生效（请检查本机的时钟）"
    ),
    CertificateProblem.OTHER: TranslatedText(
        "its certificate is refused: {reason} (ask its operator for another one)",
        "它的证书不被接受：{reason}（请管理员更换证书）",
    ),
}
CERTIFICATE_NOT_IN_FILE = TranslatedText(
    "its certificate is not the one in {file}, and no authority in that file has signed it (ask its operator for the "
    "certificate that it has now)",
    "它的证书不是 {file} 里的那个，也不是其中的证书机构签发的（请向管理员索取现在的证书）",
)
NO_TLS = TranslatedText(
    "the TLS handshake failed (if the server does not use TLS, write jelly:// in its address)",
    "TLS 握手失败（如果服务器不使用 TLS，地址应以 jelly:// 开头）",
)
NO_CERTIFICATE = TranslatedText(
    'it contains no certificate in PEM ("-----BEGIN CERTIFICATE-----"), or only a part of one',
    "其中没有 PEM 证书（“-----BEGIN CERTIFICATE-----”），或者证书不完整",
)
OTHER_ADDRESS = TranslatedText("Cannot use {address}: connected to {other}.", "{address} 无法使用，已连接到 {other}。")
UNREACHABLE = TranslatedText("no server answers there", "没有服务器应答")
NEED_NAME = TranslatedText("No name is given. Use: jelly chat NAME.", "没有给出用户名。用法：jelly chat NAME。")
NEED_PASSWORD = TranslatedText(
    "There is no terminal to ask for the password: set JELLY_PASSWORD.",
    "没有终端，无法询问密码：请设置 JELLY_PASSWORD。",
)
BAD_CA = TranslatedText("--tls-ca: {file} cannot be used: {reason}.", "--tls-ca：无法使用 {file}：{reason}。")
CA_WITHOUT_TLS = TranslatedText(
    "--tls-ca needs a server with TLS: jellys://…", "--tls-ca 只能用于启用 TLS 的服务器：jellys://…"
)
BAD_SERVER = TranslatedText(
    "{server} is not of the form jelly://host:port or jellys://host:port, or with several addresses "
    "jelly://host:port,host:port.",
    "{server} 的格式应为 jelly://host:port 或 jellys://host:port，多个地址写作 jelly://host:port,host:port。",
)
BAD_TO = TranslatedText("--send needs a receiver: bob or #team.", "--send 需要收信人：bob 或 #team。")
BAD_TEXT = TranslatedText("There is no text to send.", "没有要发送的文字。")
NOT_UTF8 = TranslatedText("The text is not valid UTF-8: convert it first.", "文字不是有效的 UTF-8：请先转换编码。")
SEND_FAILED = TranslatedText("Not delivered to {name}: {reason}.", "未送达 {name}：{reason}。")
SEND_UNKNOWN = TranslatedText(
    "Perhaps delivered to {name}: {reason}. If you send it again, it may arrive twice.",
    "不确定是否送达 {name}：{reason}。再发一次，对方可能收到两次。",
)
PLAIN_HINT = TranslatedText(
    "Plain mode, line by line. For the full screen: pip install '.[chat]'",
    "逐行模式。要使用全屏界面：pip install '.[chat]'",
)
STILL_NOT_DELIVERED = TranslatedText(
    "Messages not delivered: {count}. They are not kept: write them again.",
    "未送达的消息：{count} 条。程序不会保留它们，请重新发送。",
)
STILL_PERHAPS_DELIVERED = TranslatedText(
    "Messages perhaps delivered: {count}. Look at /history before you write them again.",
    "不确定是否送达的消息：{count} 条。重新发送之前，请先用 /history 查看。",
)

# --- --help ---------------------------------------------------------------------------------------

ABOUT = TranslatedText("Chat in the terminal. The program asks for the password.", "终端聊天。密码会在运行时询问。")
USAGE_PREFIX = TranslatedText("usage: ", "用法：")
USAGE_LINES = TranslatedText(
    "jelly chat [NAME] [options]\n       jelly chat NAME --send TO TEXT [options]",
    "jelly chat [NAME] [选项]\n      jelly chat NAME --send TO TEXT [选项]",
)
ARGUMENTS = TranslatedText("arguments", "参数")
OPTIONS = TranslatedText("options", "选项")
ARG_NAME = TranslatedText(
    "your user name; if you leave it out, the program asks. It offers to register a new one",
    "你的用户名；不写时程序会询问。未注册的名字可当场注册",
)
ARG_SERVER = TranslatedText(
    "the server: jelly://host:port, or jellys:// with TLS; several with commas: jelly://a:20000,b:20000 "
    "(default: %(default)s)",
    "服务器：jelly://host:port，TLS 用 jellys://；多个地址用逗号隔开：jelly://a:20000,b:20000（默认：%(default)s）",
)
ARG_CA = TranslatedText(
    "file with the server's certificate, if no authority that this machine knows has signed it; for jellys://",
    "服务器的证书文件，用于 jellys://：证书不是由本机认识的证书机构签发时需要它",
)
ARG_PLAIN = TranslatedText("line by line instead of the full screen", "逐行模式，不用全屏界面")
ARG_SEND = TranslatedText(
    "send TEXT to TO (a user, or a group: '#team'), and exit; if TEXT is -, read it from standard input",
    "把 TEXT 发给 TO（用户，或群组：'#team'）后退出；TEXT 为 - 时读标准输入",
)
SEE_HELP = TranslatedText(" See jelly chat --help.", "参见 jelly chat --help。")
NO_SUCH_FLAG = TranslatedText("There is no flag {flag}.", "没有 {flag} 这个选项。")
DID_YOU_MEAN_FLAG = TranslatedText(
    "There is no flag {flag} (did you mean {close}?).", "没有 {flag} 这个选项（是不是想输入 {close}？）。"
)
TOO_MANY_ARGUMENTS = TranslatedText(
    "Too many arguments: {arguments}. There is one NAME, and a TEXT with spaces needs quotes.",
    "参数太多：{arguments}。NAME 只能有一个；TEXT 里有空格时要加引号。",
)
FLAG_NEEDS_VALUE = TranslatedText(
    "{flag} is not complete: write {flag} {values}.", "{flag} 不完整：应写成 {flag} {values}。"
)
FLAG_WITHOUT_VALUE = TranslatedText("{flag} takes no value.", "{flag} 不带值。")
FLAG_CHOICES = TranslatedText("{flag} must be one of {values}.", "{flag} 只能是 {values} 之一。")
ARG_LANG = TranslatedText("language (default: LANG)", "语言（默认取 LANG）")
ARG_HELP = TranslatedText("show this and exit", "显示本说明")
ABOUT_EXIT = TranslatedText(
    "environment:\n"
    "  JELLY_PASSWORD  the password, for scripts\n"
    "  JELLY_SERVER    instead of --server\n"
    "  NO_COLOR        no colours\n\n"
    "exit codes:\n"
    "  0  done; with --send: the message is stored\n"
    "  1  the server refused the message: nobody gets it\n"
    "  2  wrong usage\n"
    "  3  no connection, or it was lost before anything was sent\n"
    "  4  the login was refused\n"
    "  5  perhaps delivered: it was sent, and no answer came",
    "环境变量：\n"
    "  JELLY_PASSWORD  密码，供脚本使用\n"
    "  JELLY_SERVER    代替 --server\n"
    "  NO_COLOR        不使用颜色\n\n"
    "退出码：\n"
    "  0  完成；用 --send 时：消息已保存\n"
    "  1  服务器拒绝了消息：没有人会收到\n"
    "  2  用法有误\n"
    "  3  没有连接，或在发出之前断开\n"
    "  4  登录被拒绝\n"
    "  5  不确定是否送达：已发出，但没有收到应答",
)
