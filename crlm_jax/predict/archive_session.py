"""Requests to a DICOMweb archive: to no other machine, with answers that are whole or an error.

Needs the extra `pacs`. What dicomweb-client leaves open is closed here: redirects, proxies,
`~/.netrc`, transfers without their end. No message holds credentials.
"""

import base64
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any
from urllib.parse import urljoin

import requests
from dicomweb_client.web import DICOMwebClient

from crlm_jax.errors import UserError
from crlm_jax.predict.archive import Address, ArchiveError, Credentials, origin

TIMEOUT = (10.0, 120.0)  # seconds, for the connection and for each wait for data
LARGEST = 2**31  # bytes of an instance, which is held in memory while it arrives
_CERTIFICATES = "REQUESTS_CA_BUNDLE"
_ANSWERS = {
    401: "wants credentials, or knows none of those that were given; see --credentials",
    403: "does not allow this; ask its administrator for the right to do it",
    404: "has nothing there; correct the address or its UIDs",
    406: "does not send the objects as they are stored (transfer-syntax=*)",
    413: "takes no object of this size; have its limit raised",
}

Warn = Callable[[str], object]


def connect(address: Address, session: "Session") -> DICOMwebClient:
    """Returns a client of the archive, which tries everything once."""
    logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)  # all it says is told here
    client = DICOMwebClient(address.base, session, timeout=TIMEOUT, permissive_uid=True)
    client.set_http_retry_params(retry=False)  # the second time it would send nothing
    return client


class _Let(requests.auth.AuthBase):
    """Puts the credentials into a request, or nothing, and so never those of `~/.netrc`."""

    def __init__(self, credentials: Credentials | None):
        self._header = ""
        if credentials and credentials.token:
            self._header = f"Bearer {credentials.token}"
        elif credentials:
            pair = f"{credentials.user}:{credentials.password}".encode()
            self._header = f"Basic {base64.b64encode(pair).decode()}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header:
            request.headers["Authorization"] = self._header
        return request


class _Redirected(requests.RequestException):
    """The archive sends us elsewhere; the message is where to."""


class _Broken(requests.RequestException):
    """What comes is not whole, or nothing that was asked for; the message is what it is."""


class Session(requests.Session):
    """Requests to one archive, and to no other; and answers that are whole.

    Args:
      address: of the archive.
      credentials: None: none are sent.
      warn: called with the archive's own warnings.
    """

    def __init__(self, address: Address, credentials: Credentials | None, warn: Warn):
        super().__init__()
        self._address, self._warn = address, warn
        self.arrived = 0  # bytes of a transfer since this was last set to 0
        self.auth = _Let(credentials)
        self.headers["Accept"] = "application/dicom+json"
        self.trust_env = not address.is_here  # no proxy has a part in what stays here
        if file := os.environ.get(_CERTIFICATES):
            if not os.path.exists(file):
                raise ArchiveError(f"{_CERTIFICATES}: there is no file {file}; correct it")
            self.verify = file

    def get(self, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Asks for something; a stream has to come whole."""
        (options.get("headers") or {}).pop("Host", None)  # the client forgets the port
        answer = super().get(url, **options)
        if "Warning" in answer.headers:
            self._warn(f"{self._address}: the archive says: {answer.headers['Warning']}")
        if options.get("stream") and answer.status_code == 206:
            raise _Broken("sends only a part of the series (206); have its log looked at")
        if options.get("stream") and answer.ok:
            self._watch(answer)
        return answer

    def post(self, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Sends something."""
        (options.get("headers") or {}).pop("Host", None)
        answer = super().post(url, **options)
        # The client knows no content type with a character set, and would take it for nothing.
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        answer.headers["Content-Type"] = kind
        return answer

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Returns where an answer leads to; raises an error where that is another place."""
        target = super().get_redirect_target(resp)
        if target:
            there = origin(urljoin(resp.url, target))
            if resp.request.method != "GET" or there != self._address.origin:
                raise _Redirected(there)
        return target

    def rebuild_auth(self, *_: object) -> None:
        """A redirect stays at the same origin, so the credentials do."""

    def _watch(self, answer: requests.Response) -> None:
        """Lets a multipart answer end with an error where its end is missing.

        The client would take what came for the whole.
        """
        about = Message()
        about["Content-Type"] = answer.headers.get("Content-Type", "")
        boundary = about.get_boundary()
        if about.get_content_type() != "multipart/related" or not boundary:
            kind = answer.headers.get("Content-Type") or "no content type"
            answer.close()
            raise _Broken(f"answers with {kind[:80]}, and not with DICOM objects; is this address "
                          "that of its DICOMweb service?")  # fmt: skip
        end, read = f"--{boundary}--".encode(), answer.iter_content

        def watched(chunk_size: int) -> Iterator[bytes]:
            tail = b""
            for chunk in read(chunk_size):
                self.arrived += len(chunk)
                if self.arrived > LARGEST:
                    raise _Broken(f"sends an object of more than {LARGEST / 2**30:g} GiB; fetch it "
                                  "by other means, and give its folder")  # fmt: skip
                tail = (tail + chunk)[-len(end) - 1024 :]
                yield chunk
            if end not in tail:
                raise _Broken("broke off within the series; try again")

        answer.iter_content = watched  # type: ignore[method-assign, assignment]


def status(error: requests.HTTPError) -> int:
    """Returns the number of an answer that is an error, such as 404."""
    return 0 if error.response is None else error.response.status_code


@contextlib.contextmanager
def told(address: Address) -> Iterator[None]:
    """Turns the errors of a request, and of DICOM that cannot be read, into one line.

    Raises:
      ArchiveError: in place of each, but for `OSError` of this machine.
    """
    try:
        yield
    except requests.RequestException as error:
        raise ArchiveError(f"{address}: {_cause(address, error)}") from error
    except (UserError, OSError):
        raise
    except Exception as error:  # of the client and of pydicom, for content of any kind
        raise ArchiveError(
            f"{address}: the archive sends what is no DICOM ({type(error).__name__}); report it to "
            "its operator"
        ) from error


def _cause(address: Address, error: requests.RequestException) -> str:
    """Returns what went wrong with a request, and the remedy; nothing of the request itself."""
    match error:
        case requests.HTTPError():
            number = status(error)
            later = "try again later, or have its log looked at"
            return f"the archive {_ANSWERS.get(number, f'answers {number}; {later}')}"
        case _Redirected():
            return f"the archive leads to {error}; give an address there, if you trust it"
        case _Broken():
            return f"the archive {error}"
        case requests.exceptions.SSLError():
            return (
                "its certificate is not to be trusted, or it speaks no TLS; name the authority of "
                f"your hospital by {_CERTIFICATES}=FILE.pem"
            )
        case requests.exceptions.ProxyError():
            return "the proxy cannot be used; correct HTTPS_PROXY, or NO_PROXY"
        case requests.Timeout():
            return f"gave no answer in {TIMEOUT[1]:g} s; see that it runs, and try again"
        case requests.exceptions.ChunkedEncodingError():
            return "the archive broke off; try again"
        case requests.ConnectionError():
            return "cannot be reached, or broke off; see that the address is right and it runs"
    return f"cannot be asked ({type(error).__name__}); correct the address"
