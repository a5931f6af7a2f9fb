"""Whether the operator's certificate and its key can be used; if not, one sentence says why.

OpenSSL's own words ("PEM lib", "no certificate assigned") do not say which file is wrong. So when
it has refused the files, this module looks into them.
"""

import logging
import re
import ssl
from pathlib import Path

from jelly.errors import ConfigError

log = logging.getLogger("jelly.tls")

BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
DER = b"\x30\x82"
"""How a certificate or key in a binary file begins."""
NOT_YET_VALID, EXPIRED = 9, 10
"""OpenSSL's numbers for these reasons to refuse a certificate (X509_V_ERR_...)."""


def load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load the operator's certificate and key into a context; `key` is empty if it is in the same
    file.

    Raises ConfigError if they cannot be used. Logs a warning if clients will refuse the certificate
    for its dates.
    """
    try:
        # With a password that is wrong, a key with a password fails. Without one, Python would ask.
        context.load_cert_chain(certificate, key or None, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(
            _unreadable(certificate, "certificate", "--tls-cert")
            or _certificate_problem(certificate)
            or (_unreadable(key, "private key", "--tls-key") if key else "")
            or _key_problem(certificate, key)
            or _other_problem(certificate, key or certificate, error)
        ) from error
    if problem := _date_problem(context):
        log.warning("the certificate %s %s", certificate, problem)


def _unreadable(file: str, name: str, flag: str) -> str:
    """Why a file cannot be read; empty if it can."""
    try:
        Path(file).read_bytes()
    except PermissionError:
        return f"This user may not read the {name} {file}: change its permissions, or name another file with {flag}."
    except OSError as error:
        return f"The {name} {file} cannot be read: {error.strerror}. Check {flag}."
    except ValueError:
        return f"The {name} {file!r} is not the name of a file. Check {flag}."
    return ""


def _certificate_problem(file: str) -> str:
    """Why a file is no certificate; empty if it is one, as far as can be seen."""
    data = Path(file).read_bytes()
    if b"-----BEGIN CERTIFICATE-----" in data:
        if _is_certificate(data):
            return ""
        return f"The certificate {file} is damaged or not complete: copy it anew."
    if b"-----BEGIN TRUSTED CERTIFICATE-----" in data or b"-----BEGIN X509 CERTIFICATE-----" in data:
        return ""
    if data.startswith(DER):
        return (
            f"The file {file} is binary, and not a certificate in PEM: convert it "
            f"(openssl x509 -inform DER -in FILE -out NEW_FILE; for PKCS #12: openssl pkcs12 -nodes)."
        )
    if b"-----BEGIN CERTIFICATE REQUEST-----" in data or b"-----BEGIN NEW CERTIFICATE REQUEST-----" in data:
        return (
            f"The file {file} has only the request for a certificate: give --tls-cert the certificate that the "
            "authority has made from it."
        )
    if b"PRIVATE KEY-----" in data:
        return f"The file {file} has a private key, and no certificate: give --tls-cert the file with the certificate."
    return f'The file {file} has no certificate in PEM ("-----BEGIN CERTIFICATE-----"). Check --tls-cert.'


def _is_certificate(data: bytes) -> bool:
    blocks = [block.decode("ascii", "replace") for block in BLOCK.findall(data)]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="\n".join(blocks))
    except (ssl.SSLError, ValueError):
        return False
    return len(blocks) == data.count(b"-----BEGIN CERTIFICATE-----")


def _key_problem(certificate: str, key: str) -> str:
    """What is wrong with the private key, if one can see it in its file; empty if not."""
    file = key or certificate
    data = Path(file).read_bytes()
    if b"PRIVATE KEY-----" not in data:
        if data.startswith(DER):
            return f"The private key {file} is binary: convert it to PEM (openssl pkey -in KEY -out NEW_KEY)."
        advice = "Check --tls-key" if key else "Give --tls-key, too"
        return f"The file {file} has no private key. {advice}."
    if b"ENCRYPTED" in data:
        return (
            f"The private key in {file} cannot be used: it has a password. Store it without one "
            "(openssl pkey -in KEY -out NEW_KEY), and give it with --tls-key."
        )
    return ""


def _other_problem(certificate: str, key: str, error: Exception) -> str:
    """What OpenSSL says about a certificate and a key that both look right."""
    reason = getattr(error, "reason", None) or ""
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return f"The private key in {key} does not belong to the certificate {certificate}. Check --tls-key."
    if reason.endswith(("_TOO_SMALL", "_TOO_WEAK")):
        return (
            f"The certificate {certificate} is too weak for this system ({reason.replace('_', ' ').lower()}): make a "
            "new one, with an RSA key of at least 2048 bits."
        )
    if not reason or reason in ("PEM_LIB", "NO_START_LINE", "UNSUPPORTED"):
        return f"The private key in {key} is damaged or not complete: copy it anew, and check --tls-key."
    return f"OpenSSL refuses the certificate {certificate} with the key in {key} ({error}): make new ones."


def _date_problem(context: ssl.SSLContext) -> str:
    """Why clients refuse the certificate of a server's context for its dates; empty if they do not.

    Python cannot read the dates of a certificate from a file. So a client in memory trusts this
    certificate and nothing else, and says what it thinks of it.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    try:
        client.verify_mode = ssl.CERT_NONE
        own = _connect_in_memory(context, client).getpeercert(binary_form=True)
        client.load_verify_locations(cadata=own or b"")
        client.verify_mode = ssl.CERT_REQUIRED
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its authority is not asked
        _connect_in_memory(context, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == EXPIRED:
            return "has expired, so clients refuse it: renew it, and send SIGHUP"
        if error.verify_code == NOT_YET_VALID:
            return "is not valid yet, so clients refuse it: check the clock of this machine"
    except (ssl.SSLError, ValueError):
        pass  # clients may know better
    return ""


def _connect_in_memory(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> ssl.SSLObject:
    """Do a handshake without a network, and return its client. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    for end in (client, server, client):  # hello, certificate, finished
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client
