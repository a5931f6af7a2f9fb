"""What the program says before the chat and after it, in English and in Chinese: the login dialog,
failures that end the program, and --help.
"""

from jelly.chat.language import TranslatedText
from jelly.client.certificates import CertificateProblem

ASK_NAME = TranslatedText("Name: ", "用户名：")
ASK_PASSWORD = TranslatedText("Password for {name}: ", "{name} 的密码：")
ASK_REGISTER = TranslatedText(
    "Unknown name or wrong password. Register {name} as a new user? [y/N] ",
    "没有这个用户，或密码不对。要注册新用户 {name} 吗？[y/N] ",
)
REGISTERED = TranslatedText("Welcome: {name} is registered.", "欢迎：{name} 注册成功。")
PASSWORD_WAS_WRONG = TranslatedText(
    "The name {name} is taken, so the password was wrong. Try again.",
    "用户名 {name} 已被注册，说明密码不对。请再试一次。",
)
PASSWORDS_DIFFER_TRY_AGAIN = TranslatedText("The passwords differ. Try again.", "两次输入的密码不一致，请再试一次。")
LOGIN_REFUSED = TranslatedText("Cannot log in as {name}: {reason}.", "无法以 {name} 的身份登录：{reason}。")
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
BAD_SETTINGS = TranslatedText("{file}: {reason}", "{file}：{reason}")
NO_SUCH_SETTING = TranslatedText("there is no setting {name}.", "没有 {name} 这项设置。")
DID_YOU_MEAN_SETTING = TranslatedText(
    "there is no setting {name} (did you mean {close}?).", "没有 {name} 这项设置（是不是想写 {close}？）。"
)
KIND_OF_SETTING: dict[type, TranslatedText] = {
    str: TranslatedText('{name} must be a text in quotes: "…".', '{name} 应为带引号的文字："…"。'),
    bool: TranslatedText("{name} must be true or false.", "{name} 只能是 true 或 false。"),
    dict: TranslatedText(
        'keys must be a table: [keys], and lines like next-unread = "f2".',
        'keys 应为一个表：先写 [keys]，再写 next-unread = "f2" 这样的行。',
    ),
}
NO_SUCH_ACTION = TranslatedText(
    "keys: there is no action {name}. There are: {actions}.", "keys：没有 {name} 这个操作。可用的有：{actions}。"
)
NO_SUCH_KEY = TranslatedText(
    "keys: there is no key {key}. Write f2, ctrl-n or alt-n, for example.",
    "keys：没有 {key} 这个键。可以写 f2、ctrl-n 或 alt-n 等。",
)
BAD_DEVICE = TranslatedText(
    "--device: {device} cannot be a name: it must have 1 to {length} characters, and no spaces.",
    "--device：{device} 不能用作设备名：应有 1 到 {length} 个字符，且不含空格。",
)
BAD_TO = TranslatedText("--send needs a receiver: bob or #team.", "--send 需要收信人：bob 或 #team。")
BAD_TEXT = TranslatedText("There is no text to send.", "没有要发送的文字。")
NOT_UTF8 = TranslatedText("The text is not valid UTF-8: convert it first.", "文字不是有效的 UTF-8：请先转换编码。")
SEND_FAILED = TranslatedText("Not delivered to {name}: {reason}.", "未送达 {name}：{reason}。")
SEND_UNKNOWN = TranslatedText(
    "Perhaps delivered to {name}: {reason}. If you send it again, it may arrive twice.",
    "不确定是否送达 {name}：{reason}。再发一次，对方可能收到两次。",
)
OUTPUT_FAILED = TranslatedText(
    "Cannot write the output: {reason}. Messages that were not written wait for the next chat.",
    "无法写入输出：{reason}。没有写出的消息会保留到下次。",
)
PLAIN_HINT = TranslatedText(
    "Plain mode, line by line. For the full screen: pip install prompt_toolkit",
    "逐行模式。要使用全屏界面：pip install prompt_toolkit",
)
STILL_NOT_DELIVERED = TranslatedText("Messages not delivered: {counts}.", "未送达的消息：{counts}。")
STILL_PERHAPS_DELIVERED = TranslatedText("Messages perhaps delivered: {counts}.", "有消息未确认送达：{counts}。")
TEXTS_KEPT = TranslatedText("They are kept: the next chat shows them.", "这些消息已保留，下次启动时会显示。")
TEXTS_NOT_KEPT = TranslatedText(
    "They cannot be kept ({reason}): write them again.", "这些消息无法保留（{reason}），请重新发送。"
)
DRAFTS_NOT_KEPT = TranslatedText("Drafts cannot be kept: {reason}.", "草稿无法保留：{reason}。")

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
    "your user name, or alice@host; if you leave it out, the program asks. It offers to register a new one",
    "你的用户名，也可写作 alice@host；不写时程序会询问。未注册的名字可当场注册",
)
ARG_SERVER = TranslatedText(
    "the server: jelly://host:port, or jellys:// with TLS; several with commas: jelly://a:20000,b:20000; host alone "
    "means TLS, except on this machine (default: %(default)s)",
    "服务器：jelly://host:port，TLS 用 jellys://；多个地址用逗号隔开：jelly://a:20000,b:20000；"
    "只写 host 时使用 TLS，本机除外（默认：%(default)s）",
)
ARG_CA = TranslatedText(
    "file with the server's certificate, if no authority that this machine knows has signed it; for jellys://",
    "服务器的证书文件，用于 jellys://：证书不是由本机认识的证书机构签发时需要它",
)
ARG_DEVICE = TranslatedText(
    "the name of this device: the chat runs on each device at the same time (default: the name of the machine; '': "
    "none)",
    "本设备的名字：同一用户可在多台设备上同时聊天（默认：本机名；''：不用设备名）",
)
ARG_NOTIFY = TranslatedText(
    "run COMMAND, without a shell, for messages to you or with your name; JELLY_FROM, JELLY_CONVERSATION and "
    "JELLY_COUNT say which",
    "收到发给你或提到你的消息时运行 COMMAND（不经过 shell）；JELLY_FROM、JELLY_CONVERSATION、JELLY_COUNT 说明是哪条",
)
ARG_NOTIFY_CONTENT = TranslatedText("let it have the text, too: JELLY_TEXT", "同时提供消息内容：JELLY_TEXT")
BAD_NOTIFY = TranslatedText("--notify: {reason}.", "--notify：{reason}。")
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
AMBIGUOUS_FLAG = TranslatedText("{flag} may mean several flags: {flags}.", "{flag} 可能指多个选项：{flags}。")
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
    "  XDG_CONFIG_HOME where jelly/chat.toml is, with your settings\n"
    "  NO_COLOR        no colours\n\n"
    "exit codes:\n"
    "  0  done; with --send: the message is stored\n"
    "  1  the server refused the message: nobody gets it\n"
    "  2  wrong usage\n"
    "  3  no connection, or it was lost before anything was sent\n"
    "  4  the login was refused\n"
    "  5  perhaps delivered: it was sent, and no answer came\n"
    "  6  the output could not be written",
    "环境变量：\n"
    "  JELLY_PASSWORD  密码，供脚本使用\n"
    "  JELLY_SERVER    代替 --server\n"
    "  XDG_CONFIG_HOME 设置文件 jelly/chat.toml 所在的目录\n"
    "  NO_COLOR        不使用颜色\n\n"
    "退出码：\n"
    "  0  完成；用 --send 时：消息已保存\n"
    "  1  服务器拒绝了消息：没有人会收到\n"
    "  2  用法有误\n"
    "  3  没有连接，或在发出之前断开\n"
    "  4  登录被拒绝\n"
    "  5  不确定是否送达：已发出，但没有收到应答\n"
    "  6  无法写入输出",
)
