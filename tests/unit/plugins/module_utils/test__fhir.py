# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import time

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _fhir
from ansible_collections.dghs.bd_fhir.plugins.module_utils._fhir import Client, FhirError, HttpError
from ansible_collections.dghs.bd_fhir.tests.unit.plugins.http_stub import (
    FIXTURES,
    Server,
    make_ca,
    reply,
    server_context,
    statement,
    statement_xml,
)
from hypothesis import given
from hypothesis import strategies as st

SECRET = "s3cr3t-token-value"


@pytest.fixture(autouse=True)
def _no_proxy_of_the_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return make_ca(tmp_path_factory.mktemp("ca"))


# -- statements (case 101)


def test_real_json_and_real_xml_say_the_same():
    read = {kind: _fhir.parse_statement((FIXTURES / ("metadata." + kind)).read_bytes()) for kind in ("json", "xml")}
    for kind, result in read.items():
        assert result.format == kind
        assert (result.software_name, result.software_version, result.fhir_version) == (
            "BD FHIR National",
            "0.2.1",
            "4.0.1",
        )
        assert _fhir.parse_instant(result.date) is not None
        assert result.implementation_guides == []


def test_guides_come_with_their_versions():
    expected = [{"canonical": "https://ig.example/core", "version": "0.3.0"}]
    assert _fhir.parse_statement(json.dumps(statement()).encode()).implementation_guides == expected
    assert _fhir.parse_statement(statement_xml()).implementation_guides == expected
    without = statement(ig="https://ig.example/core")
    assert _fhir.parse_statement(json.dumps(without).encode()).implementation_guides == [
        {"canonical": "https://ig.example/core", "version": ""}
    ]


def test_dstu2_bom_and_utf16_are_read():
    dstu2 = b'\xef\xbb\xbf {"resourceType":"Conformance","software":{"version":"1"},"fhirVersion":"1.0.2"}'
    assert _fhir.parse_statement(dstu2).fhir_version == "1.0.2"
    utf16 = statement_xml().decode().replace("UTF-8", "UTF-16").encode("utf-16")
    assert _fhir.parse_statement(utf16).software_version == "0.3.0"


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><html><head><title>Log in</title><script>var a = 1;</script></head><body>Hi</body></html>",
        b"\n<html lang='en'><body>Bad gateway</body></html>",
        b'<?xml version="1.0"?><!-- x --><html xmlns="http://www.w3.org/1999/xhtml"><body>Page</body></html>',
    ],
)
def test_html_is_an_error_that_says_so(body):
    with pytest.raises(FhirError, match="an HTML page came.*base_path") as error:
        _fhir.parse_statement(body)
    assert "<" not in str(error.value)
    assert "var a" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "neither JSON nor XML"),
        (b"Service starting", "beginning: 'Service starting'"),
        (b'{"resourceType":', "broken JSON"),
        (b"{" * 100000, "broken JSON"),
        (b'{"a":' * 100000, "broken JSON"),
        (b'{"status":404,"error":"Not Found"}', "no FHIR resource.*base_path"),
        (b'{"resourceType":"Patient"}', "the resource Patient"),
        (b"<Patient xmlns='http://hl7.org/fhir'/>", "its root is Patient"),
        (b"<CapabilityStatement>", "broken XML"),
        (b"<?xml version='1.0' encoding='no-such'?><a/>", "broken XML"),
    ],
)
def test_another_answer_is_named(body, words):
    with pytest.raises(FhirError, match=words):
        _fhir.parse_statement(body)


@pytest.mark.parametrize("kind", ["json", "xml"])
def test_a_real_operation_outcome_is_quoted(kind):
    with pytest.raises(FhirError, match="OperationOutcome: HAPI-0302: Unknown resource type 'Nothing'"):
        _fhir.parse_statement((FIXTURES / ("outcome." + kind)).read_bytes())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_a_document_type_is_refused_before_an_entity_grows(encoding):
    entities = "".join('<!ENTITY e%d "%s">' % (n + 1, "&e%d;" % n * 10) for n in range(12))
    body = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "ha">%s]><CapabilityStatement>&e12;</CapabilityStatement>'
    started = time.monotonic()
    with pytest.raises(FhirError, match="document type"):
        _fhir.parse_statement((body % entities).encode(encoding))
    assert time.monotonic() - started < 1


def test_wrong_types_inside_do_not_break_the_reader():
    odd = {
        "resourceType": "CapabilityStatement",
        "software": "HAPI",
        "fhirVersion": 4,
        "implementationGuide": [1, None, "a|b|c"],
    }
    result = _fhir.parse_statement(json.dumps(odd).encode())
    assert (result.software_version, result.fhir_version) == ("", "")
    assert result.implementation_guides == [{"canonical": "a", "version": "b|c"}]
    assert _fhir.outcome({"issue": "nonsense"}) == "no issue is named"


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=200).map(lambda data: b"<a>" + data),
        st.binary(max_size=200).map(lambda data: b"{" + data),
    )
)
def test_no_answer_breaks_the_reader_otherwise(body):
    with contextlib.suppress(FhirError):
        _fhir.parse_statement(body)


@given(st.text(max_size=400))
def test_first_words_are_one_short_line_without_markup(text):
    words = _fhir.first_words(text, 60)
    assert len(words) <= 60
    assert "\n" not in words
    assert all(char.isprintable() for char in words)


def test_build_info_in_its_shapes():
    assert _fhir.build_info(json.loads((FIXTURES / "info.json").read_text())) == {
        "version": "1.0.0",
        "revision": "abc1234",
    }
    assert _fhir.build_info({"git": {"commit": {"id": "1a2b"}}})["revision"] == "1a2b"
    assert _fhir.build_info({"git": {"commit": {"id": {"abbrev": "1a2b", "full": "1a2b3c"}}}})["revision"] == "1a2b3c"
    assert _fhir.build_info({"git": "?", "build": []}) == {"version": "", "revision": ""}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-25T09:28:07.565+00:00", 1795598887.565),
        ("2026-11-25T15:28:07+06:00", 1795598887.0),
        ("2026-11-25T09:28:07.565123456Z", 1795598887.565123),
        ("Wed, 25 Nov 2026 09:28:07 GMT", 1795598887.0),
        ("2026-11-25", None),
        ("2026-11-25T09:28:07", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_instants(text, seconds):
    moment = _fhir.parse_instant(text)
    assert (moment and moment.timestamp()) == (pytest.approx(seconds) if seconds else None)


# -- asking


def test_the_format_is_asked_for_in_both_ways_and_past_caches():
    with Server({"/fhir/metadata": reply(statement())}) as server:
        result, answer = _fhir.read_statement(Client(), server.url + "/fhir/metadata")
        assert result.software_version == "0.3.0"
        (asked,) = server.asked
    assert asked.path == "/fhir/metadata?_format=json"
    assert asked.headers["accept"].startswith("application/fhir+json")
    assert asked.headers["cache-control"] == "no-cache"
    assert "authorization" not in asked.headers


def test_a_server_that_only_speaks_xml_and_one_that_mislabels_json():
    with Server(
        {"/x": reply(statement_xml(), "application/fhir+xml"), "/j": reply(statement(), "text/html")}
    ) as server:
        assert _fhir.read_statement(Client(), server.url + "/x")[0].format == "xml"
        assert _fhir.read_statement(Client(), server.url + "/j")[0].format == "json"


def test_gzip_that_was_not_asked_for_is_unpacked():
    packed = reply(gzip.compress(json.dumps(statement()).encode()), Content_Encoding="gzip")
    with Server({"/m": packed}) as server:
        assert _fhir.read_statement(Client(), server.url + "/m")[0].software_version == "0.3.0"


# -- redirects and credentials (case 103)


def redirect(target, status=301):
    return status, {"Location": target}, b""


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_at_the_same_server_is_followed_with_the_token(status):
    with Server({"/old": redirect("/new?_format=json", status), "/new": reply({"ok": 1})}) as server:
        answer = Client(bearer_token=SECRET).get(server.url + "/old")
        assert answer.status == 200
        assert answer.url == server.url + "/new?_format=json"
        assert [item.headers["authorization"] for item in server.asked] == ["Bearer " + SECRET] * 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("credential", ["bearer", "basic", "header", "cookie"])
def test_nothing_is_sent_to_another_server(status, credential):
    options = {
        "bearer": {"bearer_token": SECRET},
        "basic": {"url_username": "u", "url_password": SECRET},
        "header": {"headers": {"Authorization": "Bearer " + SECRET}},
        "cookie": {"headers": {"Cookie": "session=" + SECRET}},
    }[credential]
    with Server(address="127.0.0.2") as thief, Server(address="127.0.0.1") as other_port:
        for target in (thief.url, other_port.url, "//%s:%d" % (thief.address, thief.port)):
            with Server({"/m": redirect(target + "/m?t=" + SECRET, status)}) as server:
                with pytest.raises(HttpError, match="not the server that was asked") as error:
                    Client(**options).get(server.url + "/m")
                assert error.value.kind == "redirect"
                assert SECRET not in str(error.value)
        assert thief.asked == other_port.asked == []


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://[::1", "http://u:p@127.0.0.1/x", ""]
)
def test_odd_redirect_targets_are_not_followed(target):
    with Server({"/m": redirect(target)}) as server:
        if target:
            # urllib itself stumbles over the address that is none.
            with pytest.raises(HttpError, match="not the server|could not be made"):
                Client().get(server.url + "/m")
        else:
            with pytest.raises(HttpError, match="in a circle"):
                Client().get(server.url + "/m")


def test_a_circle_ends():
    with Server({"/a": redirect("/b"), "/b": redirect("/a")}) as server:
        with pytest.raises(HttpError, match="more than 5 times.*X-Forwarded-Proto"):
            Client().get(server.url + "/a")
        assert len(server.asked) == 6


def test_http_to_https_of_the_same_host_is_followed_and_back_is_not(tls):
    with (
        Server({"/m": reply({"ok": 1})}, context=server_context(tls)) as secure,
        Server({"/m": redirect(secure.url + "/m")}) as plain,
    ):
        assert Client(ca_path=tls["ca.pem"], bearer_token=SECRET).get(plain.url + "/m").status == 200
        assert secure.asked[0].headers["authorization"] == "Bearer " + SECRET
        secure.routes["/down"] = redirect(plain.url + "/m")
        with pytest.raises(HttpError, match="not the server"):
            Client(ca_path=tls["ca.pem"]).get(secure.url + "/down")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "No credential was sent; the server asks for Bearer. Give bearer_token"),
        ({"bearer_token": SECRET}, "The token of option bearer_token was sent.*wrong, expired"),
        ({"url_username": "auditor", "url_password": SECRET}, "The user auditor of option url_username was sent"),
        ({"headers": {"authorization": "Bearer " + SECRET}}, "The Authorization header of option headers was sent"),
    ],
)
def test_401_says_which_credential_was_used(options, words):
    # The server repeats what it got, as some do.
    def deny(asked):
        return reply(
            "Unknown: %s" % asked.headers.get("authorization"), "text/plain", 401, WWW_Authenticate='Bearer realm="x"'
        )

    with Server({"/fhir/metadata": deny}) as server, pytest.raises(FhirError, match=words) as error:
        _fhir.read_statement(Client(**options), server.url + "/fhir/metadata")
    message = str(error.value)
    assert "HTTP 401" in message
    assert SECRET not in message
    assert base64.b64encode(b"auditor:" + SECRET.encode()).decode() not in message


def test_basic_credentials_go_with_the_first_request():
    def check(asked):
        wanted = "Basic " + base64.b64encode("ü:pä:ss".encode()).decode()
        return reply(statement()) if asked.headers.get("authorization") == wanted else reply({}, status=401)

    with Server({"/m": check}) as server:
        assert _fhir.read_statement(Client(url_username="ü", url_password="pä:ss"), server.url + "/m")[1].status == 200
        assert len(server.asked) == 1


def test_403_404_and_503_say_what_to_do():
    routes = {
        "/403": reply({}, status=403),
        "/404": reply({"status": 404}, status=404),
        "/503": reply("<h1>503</h1> No server is available", "text/html", 503),
        "/outcome": reply((FIXTURES / "outcome.json").read_bytes(), status=404),
        "/302": redirect("http://elsewhere.example/login"),
    }
    said = {}
    with Server(routes) as server:
        for path in routes:
            try:
                said[path] = _fhir.complaint(Client().get(server.url + path, follow=False), "no credential")
            except HttpError as error:
                said[path] = str(error)
    assert "may not do this" in said["/403"]
    assert "check base_path" in said["/404"]
    assert "'503 No server is available'" in said["/503"]
    assert "starting" in said["/503"]
    assert "HAPI-0302" in said["/outcome"]
    assert "points to http://elsewhere.example/login" in said["/302"]


def test_netrc_is_not_read(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login root password %s\n" % SECRET)
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Server({"/m": reply({})}) as server:
        Client().get(server.url + "/m")
        assert "authorization" not in server.asked[0].headers


def test_cookies_are_never_sent_back():
    with Server({"/m": reply({}, Set_Cookie="route=a; Path=/")}) as server:
        client = Client()
        client.get(server.url + "/m")
        client.get(server.url + "/m")
        assert all("cookie" not in asked.headers for asked in server.asked)


def test_proxy_only_when_allowed_and_not_for_inner_hosts(monkeypatch):
    with Server({"/m": reply({"direct": 1})}) as server, Server(fallback=lambda asked: reply({"proxy": 1})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert json.loads(Client().get(server.url + "/m").body) == {"direct": 1}
        assert json.loads(Client(use_proxy=True).get(server.url + "/m").body) == {"proxy": 1}
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert json.loads(Client(use_proxy=True).get(server.url + "/m").body) == {"direct": 1}
        assert len(proxy.asked) == 1


def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch):
    with Server(fallback=lambda asked: reply("no", "text/plain", 407)) as proxy:
        monkeypatch.setenv("https_proxy", "http://user:%s@127.0.0.1:%d" % (SECRET, proxy.port))
        monkeypatch.setenv("http_proxy", "http://user:%s@127.0.0.1:%d" % (SECRET, proxy.port))
        with pytest.raises(HttpError) as error:
            Client(use_proxy=True).get("https://fhir.invalid/m")
        assert error.value.kind == "proxy"
        assert "no_proxy" in str(error.value)
        assert SECRET not in str(error.value)
        answer = Client(use_proxy=True).get("http://fhir.invalid/m")
        assert "name the host in no_proxy" in _fhir.complaint(answer, "no credential")


# -- certificates (case 104)


def test_a_private_ca_is_honoured(tls):
    with Server({"/m": reply(statement())}, context=server_context(tls)) as server:
        assert _fhir.read_statement(Client(ca_path=tls["ca.pem"]), server.url + "/m")[0].software_version == "0.3.0"


def test_without_the_ca_nothing_is_sent_and_the_message_names_ca_path(tls):
    with Server({"/m": reply(statement())}, context=server_context(tls)) as server:
        for options, words in (
            ({}, "give the CA's certificate as option ca_path"),
            ({"ca_path": tls["other.pem"]}, "not signed by a CA in .*other.pem"),
        ):
            with pytest.raises(HttpError, match=words) as error:
                Client(bearer_token=SECRET, **options).get(server.url + "/m")
            assert error.value.kind == "tls"
        assert server.asked == []
        assert Client(validate_certs=False).get(server.url + "/m").status == 200


def test_the_name_is_checked_and_can_be_given(tls):
    with Server({"/m": redirect("https://fhir.example/n"), "/n": reply({})}, context=server_context(tls)) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(HttpError, match="Use the name that stands in the certificate"):
            Client(ca_path=tls["ca.pem"]).get(url + "/n")
        client = Client(ca_path=tls["ca.pem"], server_name="fhir.example")
        assert client.get(url + "/n").status == 200
        with pytest.raises(HttpError, match="not the server"):
            # Port 443 of the same name is another server than this port.
            client.get(url + "/m")
        server.routes["/m"] = redirect("https://FHIR.example:%d/n" % server.port)
        assert client.get(url + "/m").url == url + "/n"
        with pytest.raises(HttpError, match="certificate"):
            Client(ca_path=tls["ca.pem"], server_name="other.example").get(url + "/n")


def test_client_certificate(tls):
    with Server({"/m": reply({})}, context=server_context(tls, client_ca=True)) as server:
        pair = {"client_cert": tls["client.pem"], "client_key": tls["client.key"]}
        client = Client(ca_path=tls["ca.pem"], **pair)
        assert client.get(server.url + "/m").status == 200
        assert "client certificate" in client.credential
        with pytest.raises(HttpError) as error:
            Client(ca_path=tls["ca.pem"]).get(server.url + "/m")
        assert error.value.kind in ("tls", "connect")


def test_unusable_files_are_named(tls, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate\n")
    for options, words in (
        ({"ca_path": "/no/such.pem"}, "Cannot read /no/such.pem, the file of option ca_path: No such file"),
        ({"ca_path": str(broken)}, "broken.pem, the file of option ca_path, holds no usable PEM"),
        ({"client_cert": "/no/such.pem"}, "option client_cert"),
        ({"client_cert": tls["client.pem"], "client_key": tls["server.key"]}, "belong together"),
        ({"client_cert": tls["client.pem"]}, "belong together"),
    ):
        with pytest.raises(HttpError, match=words) as error:
            Client(**options)
        assert error.value.kind == "tls"


def test_https_to_a_plain_port_and_http_to_a_tls_port(tls):
    with Server({"/m": reply({})}) as plain, Server({"/m": reply({})}, context=server_context(tls)) as secure:
        with pytest.raises(HttpError, match="speaks plain http"):
            Client().get(plain.url.replace("http:", "https:") + "/m")
        with pytest.raises(HttpError):
            Client().get(secure.url.replace("https:", "http:") + "/m")


# -- servers that do not answer, or not properly


def test_refused_unknown_and_hung_up():
    with Server() as gone:
        url = gone.url
    with pytest.raises(HttpError, match="nothing listens there") as error:
        Client().get(url + "/m")
    assert error.value.kind == "connect"
    with pytest.raises(HttpError, match="name is not known"):
        Client().get("http://no-such-host.invalid/m")
    with Server({"/m": lambda asked: None}) as server, pytest.raises(HttpError, match="closed the connection"):
        Client().get(server.url + "/m")


def test_a_slow_server_ends_in_time():
    with Server({"/m": lambda asked: time.sleep(3)}) as server:
        started = time.monotonic()
        with pytest.raises(HttpError, match="within 0.5 s.*option timeout") as error:
            Client(timeout=0.5).get(server.url + "/m")
        assert error.value.kind == "timeout"
        assert time.monotonic() - started < 1.5


def test_a_trickling_server_ends_in_time():
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle():
            connection = listener.accept()[0]
            with connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                    for _number in range(100):
                        connection.sendall(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass

        threading.Thread(target=trickle, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(HttpError) as error:
            Client(timeout=0.5).get("http://127.0.0.1:%d/m" % listener.getsockname()[1])
        assert error.value.kind == "timeout"
        assert time.monotonic() - started < 1.5


def test_a_cut_answer_and_too_large_an_answer_are_errors():
    cut = 200, {"Content-Length": "100"}, b"short"

    def hang_up(asked):
        return cut

    with Server(
        {
            "/cut": hang_up,
            "/big": reply(b"x" * 5000),
            "/zip": reply(gzip.compress(b"x" * 10**6), Content_Encoding="gzip"),
        }
    ) as server:
        with pytest.raises(HttpError) as error:
            Client(timeout=1).get(server.url + "/cut")
        assert error.value.kind in ("protocol", "timeout")
        for path in ("/big", "/zip"):
            with pytest.raises(HttpError, match="larger than 4000 bytes"):
                Client().get(server.url + path, max_body=4000)


def test_a_chunked_answer_that_breaks_off_is_an_error():
    chunk = b"ff\r\n" + b"x" * 20  # announces 255 bytes
    headers = {"Transfer-Encoding": "chunked", "Content-Length": ""}

    def hang_up(asked):
        return 200, headers, chunk

    with (
        Server({"/m": hang_up}) as server,
        pytest.raises(HttpError, match="without a complete answer|no complete answer"),
    ):
        Client(timeout=1).get(server.url + "/m")


def test_what_is_not_http_is_said():
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def ssh():
            connection = listener.accept()[0]
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=ssh, daemon=True).start()
        with pytest.raises(HttpError, match="not HTTP") as error:
            Client().get("http://127.0.0.1:%d/m" % listener.getsockname()[1])
        assert error.value.kind == "protocol"


# -- options


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"X-Key": SECRET + "\r\nX-Evil: 1"}, "the value of X-Key holds a line break"),
        ({"X-Key": SECRET + "\N{SNOWMAN}"}, "X-Key"),
        ({"Bad Name": SECRET}, "'Bad Name' is not the name of a header"),
        ({"X-Key": True}, "must be a string"),
        ({"X-Key": {"a": SECRET}}, "must be a string"),
        ({"X-Key": None}, "must be a string"),
    ],
)
def test_unusable_headers_are_refused_without_their_value(headers, words):
    with pytest.raises(HttpError, match=words) as error:
        Client(headers=headers)
    assert SECRET not in str(error.value)


def test_a_token_with_a_newline_at_its_end_is_taken_and_one_inside_refused():
    assert Client(bearer_token=SECRET + "\n").headers["Authorization"] == "Bearer " + SECRET
    with pytest.raises(HttpError, match="Option bearer_token.*line break") as error:
        Client(bearer_token="a\nb" + SECRET)
    assert SECRET not in str(error.value)


def test_two_credentials_are_refused():
    with pytest.raises(HttpError, match="Give only one"):
        Client(bearer_token=SECRET, headers={"authorization": "x"})


@pytest.mark.parametrize("url", ["ftp://h/", "h:8080", "", "http://", "http://h:99999/", "http://[::1/"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(HttpError, match="URL"):
        Client().get(url)


def test_a_url_with_a_password_is_refused_without_it():
    with pytest.raises(HttpError, match="url_username") as error:
        Client().get("http://user:%s@127.0.0.1/" % SECRET)
    assert SECRET not in str(error.value)


def test_which_header_values_are_secret():
    headers = {
        "Accept": "application/fhir+json",
        "host": "hapi",
        "X-Api-Key": "key-1",
        "Authorization": "Basic " + base64.b64encode(b"user:pass-1").decode(),
    }
    assert {"key-1", "pass-1", headers["Authorization"]} <= _fhir.header_secrets(headers)
    assert _fhir.open_header_values(headers) == {"application/fhir+json", "hapi"}
    # The same word as a secret elsewhere stays a secret.
    assert _fhir.open_header_values({"Host": "x", "X-Api-Key": "x"}) == set()


def test_joining_urls():
    assert _fhir.join("http://h:1/", "/fhir/", "metadata") == "http://h:1/fhir/metadata"
    assert _fhir.join("http://h:1", "", "metadata") == "http://h:1/metadata"
    assert _fhir.join("http://h:1", "/") == "http://h:1"
    assert _fhir.base_url("fd00::5", 8080) == "http://[fd00::5]:8080"
    assert _fhir.public_url("https://u:p@h:1/a?b=c#d") == "https://h:1/a?b=c"


def test_retry_stops_at_the_first_success_and_sleeps_between():
    slept, asked = [], []
    _fhir.retry(4, 2.0, lambda number: asked.append(number) or number == 3, slept.append)
    assert (asked, slept) == ([1, 2, 3], [2.0, 2.0])
    asked.clear(), slept.clear()
    _fhir.retry(2, 1.0, asked.append, slept.append)
    assert (asked, slept) == ([1, 2], [1.0])
