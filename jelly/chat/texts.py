"""The sentences of the chat, in English and in Chinese, side by side.

Names in braces are placeholders. Their values may come from strangers, so the user interface
sanitizes whole sentences, like everything that it shows.
"""

from jelly.chat.language import TranslatedText

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
NOT_CLOSED = TranslatedText(
    "messages are marked ✗ or ? here, or wait: /resend or /discard them first",
    "这里有未送达的消息：请先 /resend 或 /discard",
)
IGNORED = TranslatedText(
    "{name} is ignored: nothing of that is shown here. /ignore {name} ends it",
    "已忽略 {name}：其内容不再显示。再次 /ignore {name} 可取消",
)
NOT_IGNORED = TranslatedText("{name} is not ignored any more", "不再忽略 {name}")
WHO_IS_IGNORED = TranslatedText("ignored: {names}", "已忽略：{names}")
NOBODY_IGNORED = TranslatedText("you ignore nobody", "你没有忽略任何人")
LOGGING = TranslatedText(
    "what is shown from now on is written to {file}; /log ends that", "此后显示的内容会写入 {file}；/log 可停止"
)
NOT_LOGGING = TranslatedText("nothing is written to a file: /log FILE begins", "没有写入文件：用 /log 文件名 开始")
LOGGING_ENDED = TranslatedText("nothing more is written to {file}", "不再写入 {file}")
CANNOT_LOG = TranslatedText("cannot write to {file}: {reason}", "无法写入 {file}：{reason}")
CANNOT_NOTIFY = TranslatedText("--notify: {reason}", "--notify：{reason}")
UNREAD = TranslatedText("unread: {counts} (/to NAME shows them)", "未读：{counts}（用 /to 名字 查看）")
COUNT_FROM = TranslatedText("{count} from {name}", "{name} 发来 {count} 条")
COUNT_IN = TranslatedText("{count} in {name}", "{name} 中有 {count} 条")
WRITES_FIRST = TranslatedText("{name} writes to you: {key} goes there", "{name} 发来消息：按 {key} 前往")
HOW_TO_LEAVE = TranslatedText("Ctrl-D or /quit exits", "按 Ctrl-D 或输入 /quit 退出")
ASK_NUMBER = TranslatedText("Conversation number: ", "对话编号：")
CONNECTED_AGAIN = TranslatedText("connected again (not connected since {since})", "已重新连接（自 {since} 起曾断开）")
CONNECTED_AGAIN_AT = TranslatedText(
    "connected again, to {address} (not connected since {since})", "已重新连接到 {address}（自 {since} 起曾断开）"
)
GOING_TO_ANOTHER = TranslatedText(
    "the connection to {address} was lost; going to another address", "与 {address} 的连接已断开，正在改用另一个地址"
)
CONNECTED = TranslatedText("connected", "已连接")
GAP = TranslatedText(
    "this device was away for so long that messages may be missing here; /history shows them",
    "本设备离线太久，这里可能缺少一些消息；用 /history 查看",
)
TAKEN_OVER = TranslatedText(
    "someone logged in as {name} elsewhere, with the same --device. /connect logs in again",
    "{name} 在别处以同一个设备名（--device）登录，会话已结束。/connect 可重新登录",
)
PASSWORD_CHANGED_ELSEWHERE = TranslatedText(
    "the password of {name} was changed elsewhere. /connect asks for the new one",
    "{name} 的密码已在别处更改。/connect 会询问新密码",
)
DELETED_ELSEWHERE = TranslatedText("the account {name} was deleted", "账号 {name} 已被删除")
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
BAR_TAKEN_OVER = TranslatedText("ended: logged in elsewhere; /connect", "已在别处登录；/connect 重新登录")
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
KEPT = TranslatedText("not delivered when you left. /resend sends it again", "上次离开时未送达。/resend 可重发")
KEPT_PERHAPS = TranslatedText(
    "perhaps delivered when you left. /resend sends it again, so that it arrives once",
    "上次离开时不确定是否送达。/resend 可重发，不会重复",
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
SENT_AFTER_CONNECT = TranslatedText("not connected: this is sent after /connect", "未连接：/connect 之后会发出")
DISCARDED = TranslatedText("discarded: {count}", "已丢弃 {count} 条消息")
NOTHING_TO_DISCARD = TranslatedText("there is nothing to discard here", "这里没有可以丢弃的消息")
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
INVITE_LIMITS = TranslatedText(
    "a code is for 1 to {uses} people, and for 1 to {hours} hours",
    "邀请码可供 1 到 {uses} 人使用，有效 1 到 {hours} 小时",
)
GROUP_ENTERED = TranslatedText("you are in {group} now", "你已加入 {group}")
ASK_INVITE = TranslatedText("Code of an invitation: ", "邀请码：")
LOGIN_LINE = TranslatedText("{login}: since {when}, from {network}", "{login}：{when}，来自 {network}")
LOGIN_HERE = TranslatedText(
    "{login}: since {when}, from {network} (this one)", "{login}：{when}，来自 {network}（当前登录）"
)
LOGIN_DEVICE = TranslatedText("{network} on {device}", "{network}（设备 {device}）")
LOGIN_ENDED = TranslatedText("the login {login} is ended", "登录 {login} 已结束")
DELETE_PASSWORD = TranslatedText(
    "This deletes the account {name} for ever. Password: ", "账号 {name} 将被永久删除。密码："
)
NO_SUCH_LOGIN = TranslatedText("you have no such login: /account lists them", "没有这个登录：用 /account 查看")
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
ASK_DISBAND = TranslatedText("Disband {group} for ever? [y/N] ", "要永久解散 {group} 吗？[y/N] ")
ASK_DISBAND_COUNT = TranslatedText(
    "Disband {group} with {count} members for ever? [y/N] ", "{group} 有 {count} 名成员，要永久解散吗？[y/N] "
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
FIELD_EMPTIED = TranslatedText("{field} is empty now", "{field} 已清空")
NO_SUCH_FIELD = TranslatedText("there is no such field. The fields are: {fields}", "没有这个字段。可填写：{fields}")
WHOIS_NEEDS_FRIEND = TranslatedText("not on your friend list: /add {name} first", "不在好友列表里：请先 /add {name}")
OLD_PASSWORD = TranslatedText("Present password: ", "当前密码：")
OLD_PASSWORD_WRONG = TranslatedText("the present password was wrong: nothing was changed", "当前密码不对，未做更改")
NEW_PASSWORD = TranslatedText("New password: ", "新密码：")
ONCE_MORE = TranslatedText("Once more: ", "请再次输入密码：")
PASSWORDS_DIFFER = TranslatedText("the passwords differ: nothing was changed", "两次输入的密码不一致，未做更改")
NOTHING_CHANGED = TranslatedText("nothing was changed", "未做更改")
PASSWORD_CHANGED = TranslatedText("your password was changed", "密码已更改")

FIELDS: dict[str, TranslatedText] = {
    "name": TranslatedText("name", "姓名"),
    "sex": TranslatedText("sex", "性别"),
    "age": TranslatedText("age", "年龄"),
    "phone": TranslatedText("phone", "电话"),
    "address": TranslatedText("address", "地址"),
    "introduction": TranslatedText("introduction", "简介"),
}
