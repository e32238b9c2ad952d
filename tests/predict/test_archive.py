"""Addresses and credentials of archives: what is taken, and that nothing secret is repeated."""

import pytest

from crlm_jax.predict.archive import (
    Address,
    ArchiveError,
    find_credentials,
    is_address,
    parse_series,
    parse_studies,
)

SERIES = "https://pacs.example.org:8443/dicom-web/studies/1.2/series/1.2.3"


def test_an_address_of_a_series():
    read = parse_series("--image", "HTTPS://PACS.example.org:8443/a/b/studies/1.2/series/1.2.3/",
                        insecure=False)  # fmt: skip
    assert read == Address("https://pacs.example.org:8443/a/b", "1.2", "1.2.3")
    assert str(read) == "https://pacs.example.org:8443/a/b/studies/1.2/series/1.2.3"
    assert read.origin == "https://pacs.example.org:8443"
    studies = parse_studies("--stow", "https://h/w/studies/", insecure=False)
    assert str(studies) == "https://h/w/studies"
    texts = ("HTTPS://x", "http:x", "httpd/ct", "gs://x")
    assert [is_address(text) for text in texts] == [True, True, False, False]


@pytest.mark.parametrize(
    "wrong",
    [
        "https://HOST/dicom-web/studies/1.2",
        "https://HOST/dicom-web/studies/1.2/series/1.2/instances/3",
        "https://HOST/studies/../series/..",
        "https:/HOST/studies/1.2/series/1.3",
        "https://[::1/studies/1.2/series/1.3",
        "https://HOST:99999/studies/1.2/series/1.3",
        "https://a b/studies/1.2/series/1.3",
    ],
)
def test_what_is_no_address(wrong):
    with pytest.raises(ArchiveError, match="write it as https://HOST/dicom-web/studies/UID/series"):
        parse_series("--image", wrong, insecure=True)


@pytest.mark.parametrize(
    "address",
    [
        "https://me:Geheim1@h/studies/1/series/2",
        "https://Geheim1@h/studies/1/series/2",
        "https:me:Geheim1@h/studies/1/series/2",
        "https://h/studies/1/series/2?token=Geheim1",
        "https://h/studies/1/series/2#Geheim1",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(address):
    with pytest.raises(ArchiveError, match="CRLM_DICOMWEB_TOKEN") as caught:
        parse_series("--image", address, insecure=False)
    assert "Geheim1" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("here", ["127.0.0.1:8042", "localhost", "[::1]:80", "127.9.9.9"])
def test_unencrypted_only_on_this_machine(here):
    assert parse_studies("--stow", f"http://{here}/studies", insecure=False).is_here
    for there in ("pacs", "127.0.0.1.example.org", "10.0.0.5", "localhost.example.org"):
        with pytest.raises(ArchiveError, match=r"http://.* unencrypted; write https://"):
            parse_studies("--stow", f"http://{there}/studies", insecure=False)
        assert not parse_studies("--stow", f"http://{there}/studies", insecure=True).is_here


A, B = Address("https://a"), Address("https://b:444/web")


def test_credentials_of_the_environment():
    (token,) = find_credentials([A, A], None, {"CRLM_DICOMWEB_TOKEN": "abc\n"}).values()
    assert (token.token, token.user) == ("abc", "")
    assert "abc" not in repr(token)
    pair = {"CRLM_DICOMWEB_USER": "ü", "CRLM_DICOMWEB_PASSWORD": "p:w"}
    assert find_credentials([B], None, pair)["https://b:444"].password == "p:w"
    assert find_credentials([A], None, {"CRLM_DICOMWEB_TOKEN": ""}) == {}
    for wrong in (
        {"CRLM_DICOMWEB_USER": "Geheim1"},
        pair | {"CRLM_DICOMWEB_TOKEN": "Geheim1"},
        {"CRLM_DICOMWEB_TOKEN": "Geheim1\nX-Evil: 1"},
        {"CRLM_DICOMWEB_USER": "Geheim1:x", "CRLM_DICOMWEB_PASSWORD": "y"},
    ):
        with pytest.raises(ArchiveError, match="the environment: ") as caught:
            find_credentials([A], None, wrong)
        assert "Geheim1" not in str(caught.value)
    with pytest.raises(ArchiveError, match="--credentials FILE with a table for each host"):
        find_credentials([A, B], None, pair)


def test_credentials_of_a_file_go_to_the_host_that_they_are_of(tmp_path):
    file = tmp_path / "secret.toml"
    file.write_text('["A"]\ntoken = "t"\n["b:444"]\nuser = "u"\npassword = "p"\n')
    file.chmod(0o600)
    found = find_credentials([A, B, Address("http://127.0.0.1:1")], file, {})
    assert {origin: each.token for origin, each in found.items()} == {
        "https://a:443": "t", "https://b:444": ""
    }  # fmt: skip
    assert (found["https://b:444"].user, found["https://b:444"].password) == ("u", "p")


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ('["a"]\ntoken = "Geheim1"', 0o640, "others may read or write it; chmod 600"),
        ("Geheim1", 0o600, "is no TOML"),
        ('a = "Geheim1"', 0o600, "not a table for each host"),
        ('["a"]\ntokens = "Geheim1"', 0o600, "give either a token"),
        ('["a"]\nuser = "Geheim1"\npassword = 5', 0o600, "give either a token"),
    ],
)
def test_a_file_of_credentials_that_is_refused(tmp_path, text, mode, said):
    file = tmp_path / "secret.toml"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ArchiveError, match=said) as caught:
        find_credentials([A], file, {})
    assert "Geheim1" not in str(caught.value)
    assert str(file) in str(caught.value)
