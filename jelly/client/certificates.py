"""Why a client refuses the certificate of a server, and what to do about it, in plain words."""

from enum import Enum
from ssl import SSLCertVerificationError


class CertificateProblem(Enum):
    """Why a certificate is refused."""

    UNKNOWN_AUTHORITY = "is self-signed, or from an authority that this machine does not know"
    OTHER_NAME = "is for another name or address"
    EXPIRED = "has expired"
    NOT_YET_VALID = "is not valid yet"
    OTHER = "is refused"


ADVICE = {
    CertificateProblem.UNKNOWN_AUTHORITY: (
        "If you trust the server, get its certificate from its operator: name the file in SSL_CERT_FILE, or pass "
        "tls=ssl.create_default_context(cafile=FILE)."
    ),
    CertificateProblem.OTHER_NAME: (
        "Connect by a name or address in the certificate, or ask the operator for a certificate with this one."
    ),
    CertificateProblem.EXPIRED: "The operator of the server has to renew it. Check the clock of this machine, too.",
    CertificateProblem.NOT_YET_VALID: "Check the clock of this machine.",
    CertificateProblem.OTHER: "Ask the operator of the server for another certificate.",
}
"""What to do about each of them."""

_BY_NUMBER = {
    **dict.fromkeys((2, 18, 19, 20, 21, 27), CertificateProblem.UNKNOWN_AUTHORITY),
    **dict.fromkeys((62, 64), CertificateProblem.OTHER_NAME),
    10: CertificateProblem.EXPIRED,
    9: CertificateProblem.NOT_YET_VALID,
}
"""OpenSSL's numbers (X509_V_ERR_...)."""


def problem_of(error: SSLCertVerificationError) -> CertificateProblem:
    """Return why a certificate was refused."""
    return _BY_NUMBER.get(error.verify_code, CertificateProblem.OTHER)


def describe_problem(error: SSLCertVerificationError) -> str:
    """Say why a certificate was refused, as a part of a sentence."""
    problem = problem_of(error)
    detail = f" ({error.verify_message.rstrip('.')})" if problem is CertificateProblem.OTHER else ""
    return f"its certificate {problem.value}{detail}"
