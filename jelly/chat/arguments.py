"""The arguments of `jelly chat`: what may be there, and one sentence about what may not."""

import argparse
import difflib
import ipaddress
import re
import socket
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jelly.chat import start_texts
from jelly.chat.cells import sanitize
from jelly.chat.language import LANGUAGES, language_of
from jelly.chat.login import ExitCode, FatalError
from jelly.chat.output import write_line
from jelly.chat.settings import Settings, load_settings
from jelly.chat.translator import Translator
from jelly.names import MAX_NAME, is_valid_name

DEFAULT_SERVER = "jelly://127.0.0.1:20000"


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """Return the options. Raises FatalError: one sentence that says which argument is wrong."""
    translate = Translator(_language(arguments, language_of(environment)))
    settings = load_settings(environment, translate)
    translate = Translator(_language(arguments, settings.language or language_of(environment)))
    parser = _parser(translate, environment, settings)
    try:
        options, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise _usage_error(translate, _describe(parser, translate, error)) from error
    if unknown:
        raise _usage_error(translate, _describe_unknown(parser, translate, unknown))
    options.settings = settings
    name, _, host = options.name.rpartition("@")
    if name and host and isinstance(options.server, _Default):
        options.name, options.server = name, host
    options.server = url_of(options.server)
    if options.device is None and not options.send:
        options.device = settings.device or None
    if options.device is None:
        # A message from a script is no reason to keep others for the machine that it runs on.
        options.device = "" if options.send else device_of_machine(socket.gethostname())
    elif options.device and not is_valid_name(options.device):
        raise _usage_error(translate, translate(start_texts.BAD_DEVICE, device=options.device, length=MAX_NAME))
    return options


class _Default(str):
    """The server that holds unless one is named on the command line."""


def url_of(server: str) -> str:
    """Return the URL of a server that may be written as `host` or `host:port`: with TLS, so that no
    password goes over a network as it is, except on this machine.
    """
    if "://" in server:
        return str(server)
    hosts = [re.sub(r":\d*$", "", address).strip("[]") for address in server.split(",")]
    return f"{'jelly' if all(map(_is_here, hosts)) else 'jellys'}://{server}"


def _is_here(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def device_of_machine(host: str) -> str:
    """Make the name of a device of that of a machine; empty if nothing is left of it."""
    name = "".join(c for c in unicodedata.normalize("NFC", host) if is_valid_name(f"x{c}"))
    name = unicodedata.normalize("NFC", name)[:MAX_NAME]
    while name and not is_valid_name(name):  # it begins with a mark that would belong to the character before
        name = name[1:]
    return name


class _Parser(argparse.ArgumentParser):
    """A parser that raises ArgumentError also where argparse would end the program."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ARG002 - argparse's signature
        write_line(message.removesuffix("\n"))  # argparse ignores an output that fails


def _language(arguments: Sequence[str], default: str) -> str:
    """Return the language of --help and of errors."""
    parser = _Parser(add_help=False, exit_on_error=False)
    parser.add_argument("--lang", choices=LANGUAGES, default=default)
    try:
        return str(parser.parse_known_args(arguments)[0].lang)
    except argparse.ArgumentError:  # the other parser says so, in the usual language
        return default


def _parser(translate: Translator, environment: Mapping[str, str], settings: Settings) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jelly chat",
        usage=translate(start_texts.USAGE_LINES),
        description=translate(start_texts.ABOUT),
        epilog=translate(start_texts.ABOUT_EXIT),
        formatter_class=_formatter(translate),
        add_help=False,
        exit_on_error=False,
    )
    positional = parser.add_argument_group(translate(start_texts.ARGUMENTS))
    add = parser.add_argument_group(translate(start_texts.OPTIONS)).add_argument
    server = _Default(environment.get("JELLY_SERVER") or settings.server or DEFAULT_SERVER)
    language = settings.language or language_of(environment)
    positional.add_argument(
        "name", nargs="?", default=settings.name, metavar="NAME", help=translate(start_texts.ARG_NAME)
    )
    add("--send", nargs=2, metavar=("TO", "TEXT"), help=translate(start_texts.ARG_SEND))
    add("--server", default=server, metavar="URL", help=translate(start_texts.ARG_SERVER))
    add("--tls-ca", default="", metavar="FILE", help=translate(start_texts.ARG_CA))
    add("--device", metavar="NAME", help=translate(start_texts.ARG_DEVICE))
    add("--notify", default=settings.notify, metavar="COMMAND", help=translate(start_texts.ARG_NOTIFY))
    add(
        "--notify-content",
        action="store_true",
        default=settings.notify_content,
        help=translate(start_texts.ARG_NOTIFY_CONTENT),
    )
    add("--plain", action="store_true", help=translate(start_texts.ARG_PLAIN))
    add("--lang", choices=LANGUAGES, default=language, help=translate(start_texts.ARG_LANG))
    add("-h", "--help", action="help", help=translate(start_texts.ARG_HELP))
    return parser


def _formatter(translate: Translator) -> type[argparse.HelpFormatter]:
    """Return a help formatter that translates the word "usage"."""

    class Formatter(argparse.RawDescriptionHelpFormatter):
        def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
            super().add_usage(usage, actions, groups, translate(start_texts.USAGE_PREFIX) if prefix is None else prefix)

    return Formatter


def _usage_error(translate: Translator, sentence: str) -> FatalError:
    return FatalError(ExitCode.USAGE, sanitize(f"{sentence}{translate(start_texts.SEE_HELP)}"))


def _describe(parser: argparse.ArgumentParser, translate: Translator, error: argparse.ArgumentError) -> str:
    """Return what is wrong with the value of a flag."""
    if found := re.fullmatch("ambiguous option: (.*) could match (.*)", error.message):
        return translate(start_texts.AMBIGUOUS_FLAG, flag=found[1], flags=translate.join_names(found[2].split(", ")))
    for action in parser._actions:
        if action.option_strings and "/".join(action.option_strings) == error.argument_name:
            flag = action.option_strings[-1]
            if action.nargs == 0:
                return translate(start_texts.FLAG_WITHOUT_VALUE, flag=flag)
            if action.choices:
                return translate(start_texts.FLAG_CHOICES, flag=flag, values=translate.join_names([*action.choices]))
            values = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
            return translate(start_texts.FLAG_NEEDS_VALUE, flag=flag, values=values)
    return f"{error.message[:1].upper()}{error.message[1:]}."


def _describe_unknown(parser: argparse.ArgumentParser, translate: Translator, unknown: Sequence[str]) -> str:
    """Return what is wrong with arguments that the parser does not know."""
    for argument in unknown:
        if argument.startswith("-") and argument != "-":
            flag = argument.partition("=")[0]
            flags = [name for action in parser._actions for name in action.option_strings]
            if close := difflib.get_close_matches(flag, flags, n=1):
                return translate(start_texts.DID_YOU_MEAN_FLAG, flag=flag, close=close[0])
            return translate(start_texts.NO_SUCH_FLAG, flag=flag)
    return translate(start_texts.TOO_MANY_ARGUMENTS, arguments=" ".join(unknown))
