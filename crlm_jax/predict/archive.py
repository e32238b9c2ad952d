"""A DICOMweb archive on the command line: its address, and what it is told to let us in.

No message repeats a user name, a password or a token; an address that holds one is not repeated.
"""

import dataclasses
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crlm_jax.errors import UserError

TOKEN, USER, PASSWORD = (f"CRLM_DICOMWEB_{name}" for name in ("TOKEN", "USER", "PASSWORD"))
_SERIES = "https://HOST/dicom-web/studies/UID/series/UID"
_STUDIES = "https://HOST/dicom-web/studies"
_HOST = re.compile(r"([\w.-]+|\[[\da-f:.]+\])(:\d{1,5})?", re.ASCII)
_PATH = re.compile(r"[\w./~%+-]*", re.ASCII)
_UID = r"([0-9][0-9.]{0,63})"
_OF_SERIES = re.compile(rf"(.*)/studies/{_UID}/series/{_UID}/?")
_OF_STUDIES = re.compile(r"(.*)/studies/?()()")


class ArchiveError(UserError):
    """An archive that cannot be used as it was asked for."""


@dataclasses.dataclass(frozen=True)
class Address:
    """Where something lies on an archive's DICOMweb service."""

    base: str  # of the service, such as https://pacs.example.org/dicom-web
    study: str = ""  # Study Instance UID
    series: str = ""  # Series Instance UID

    def __str__(self) -> str:
        series = f"/{self.study}/series/{self.series}" if self.series else ""
        return f"{self.base}/studies{series}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return origin(self.base)

    @property
    def host(self) -> str:
        """Host, and port where the address names one."""
        return urlsplit(self.base).netloc

    @property
    def encrypted(self) -> bool:
        return self.base.startswith("https://")

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine, so that nothing goes over a network."""
        return _is_loopback(urlsplit(self.base).hostname or "")


@dataclasses.dataclass(frozen=True)
class Credentials:
    """What lets us in; a token, or a user with a password. Never shown."""

    token: str = dataclasses.field(default="", repr=False)
    user: str = dataclasses.field(default="", repr=False)
    password: str = dataclasses.field(default="", repr=False)


def is_address(text: str) -> bool:
    """Whether an argument means an archive, and not a path of this machine."""
    return re.match("https?:", text, re.IGNORECASE) is not None


def origin(url: str) -> str:
    """Returns scheme, host and port of a URL."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def parse_series(option: str, text: str, *, insecure: bool) -> Address:
    """Reads the address of a series; see `parse_studies`."""
    return _parse(option, text, _OF_SERIES, _SERIES, insecure)


def parse_studies(option: str, text: str, *, insecure: bool) -> Address:
    """Reads the address to which results are sent.

    Args:
      option: for messages.
      text: the address.
      insecure: let `http://` lead to other machines.

    Raises:
      ArchiveError: it is none, or holds a password, or is not encrypted.
    """
    return _parse(option, text, _OF_STUDIES, _STUDIES, insecure)


def _parse(
    option: str, text: str, pattern: re.Pattern[str], example: str, insecure: bool
) -> Address:
    if "@" in text or "?" in text or "#" in text:
        raise ArchiveError(
            f"{option}: the address holds a user, a password or a query (@, ?, #), which others on "
            "this machine could read; take them out, and give a password or token by --credentials "
            f"FILE, or by {TOKEN}, or by {USER} and {PASSWORD}"
        )
    try:
        parts = urlsplit(text)
        scheme, host, _ = parts.scheme.lower(), parts.netloc.lower(), parts.port
    except ValueError:
        host = ""
    found = pattern.fullmatch(parts.path) if host and _HOST.fullmatch(host) else None
    if not found or not _PATH.fullmatch(found[1]):
        raise ArchiveError(f"{option} {text}: is no such address; write it as {example}")
    address = Address(f"{scheme}://{host}{found[1]}", found[2], found[3])
    if not (address.encrypted or address.is_here or insecure):
        raise ArchiveError(
            f"{option} {address}: http:// would send images and passwords unencrypted; write "
            "https://, or add --insecure where everybody on the network may read them"
        )
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_credentials(
    addresses: list[Address], file: Path | None, environment: Mapping[str, str] = os.environ
) -> dict[str, Credentials]:
    """Returns what lets us in, by the origin of each archive; empty where there is nothing.

    Args:
      addresses: of all archives of the command.
      file: with a table for each host; see docs/how-to/dicom.md. None: the environment.
      environment: variables.

    Raises:
      ArchiveError: the file can be read by others or is wrong, the variables are wrong, or there
        are several archives, of which the environment cannot say which it means.
    """
    if file:
        tables = _read_file(file)
        return {
            each.origin: _check(f"--credentials {file}: [{each.host!r}]", tables[each.host])
            for each in addresses
            if each.host in tables
        }
    given = {
        name: environment[variable]
        for name, variable in (("token", TOKEN), ("user", USER), ("password", PASSWORD))
        if environment.get(variable)
    }
    if not given:
        return {}
    if len({each.origin for each in addresses}) > 1:
        raise ArchiveError(
            "the credentials of the environment are for one archive, and the command names two; "
            "give --credentials FILE with a table for each host"
        )
    return {each.origin: _check("the environment", given) for each in addresses}


def _read_file(file: Path) -> dict[str, dict[str, Any]]:
    """Returns the tables of a file of credentials by host."""
    remedy = '["pacs.example.org"] with token, or with user and password'
    try:
        with file.open("rb") as opened:
            if os.name == "posix" and os.fstat(opened.fileno()).st_mode & 0o077:
                raise ArchiveError(
                    f"--credentials {file}: others may read or write it; chmod 600 {file}"
                )
            tables = tomllib.load(opened)
    except ValueError:  # whose message may hold what stands in the file
        raise ArchiveError(f"--credentials {file}: is no TOML; write {remedy}") from None
    if not all(isinstance(table, dict) for table in tables.values()):
        raise ArchiveError(f"--credentials {file}: not a table for each host; write {remedy}")
    return {host.lower(): table for host, table in tables.items()}


def _check(where: str, given: Mapping[str, Any]) -> Credentials:
    """Returns credentials that can be sent."""
    texts = {name: text for name, text in given.items() if isinstance(text, str)}
    known = set(texts) in ({"token"}, {"user", "password"})
    if not known or len(texts) != len(given) or not all(texts.values()):
        raise ArchiveError(f"{where}: give either a token, or a user and a password, as text")
    made = Credentials(**texts)
    if not re.fullmatch("[!-~]*", made.token.strip()):
        raise ArchiveError(f"{where}: the token has letters that none has; copy it anew")
    if ":" in made.user:
        raise ArchiveError(f"{where}: a user name cannot hold a colon; correct it")
    return dataclasses.replace(made, token=made.token.strip())
