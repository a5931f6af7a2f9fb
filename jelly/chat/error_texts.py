"""Why a request failed, in English and in Chinese."""

from jelly.chat.language import TranslatedText
from jelly.errors import ErrorCode

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
        "only the owner of the group can do this; its admins can add and remove plain members",
        "只有群主可以这样做；管理员可以添加和移除普通成员",
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
NO_ANSWER = TranslatedText("the server did not answer in time", "服务器没有及时响应")
REFUSED = TranslatedText("the server refused this without a reason", "服务器拒绝了，没有说明原因")
FAILED = TranslatedText("{what}: {reason}", "{what}：{reason}")
PERHAPS_DONE = TranslatedText(
    "{what}: {reason}; it may or may not have been done", "{what}：{reason}，不确定是否已完成"
)
