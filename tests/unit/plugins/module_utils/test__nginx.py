# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib
import subprocess
import time
from typing import Any, Optional

import pytest
from ansible_collections.dghs.bd_fhir.plugins.module_utils import _nginx
from hypothesis import given, settings
from hypothesis import strategies as st

MAIN = "/etc/nginx/nginx.conf"
SET = "set $bd_fhir_upstream hapi-balancer; "
RESOLVER = "resolver 127.0.0.11 valid=5s; "
PASS = "proxy_pass http://$bd_fhir_upstream:8080"
REDIRECT = "proxy_redirect http://$proxy_host/ /; "
STATIC = "proxy_pass http://hapi-balancer:8080"


def address(text: str) -> _nginx.Address:
    found = _nginx.parse_address(text)
    assert found is not None
    return found


def wanted(original: str = "hapi:8080", target: str = "hapi-balancer:8080", resolver: str = "127.0.0.11") -> _nginx.Wanted:
    return _nginx.Wanted(address(original), address(target), resolver, 5)


def forward(files: dict[str, str], want: Optional[_nginx.Wanted] = None) -> tuple[dict[str, str], list[str]]:
    plan = _nginx.forward(_nginx.Config(files), want or wanted())
    return _nginx.edited(files, plan), [item["id"] for item in plan.findings]


def backward(
    files: dict[str, str],
    originals: Optional[dict[str, str]] = None,
    static: bool = True,
    want: Optional[_nginx.Wanted] = None,
) -> dict[str, str]:
    return _nginx.edited(files, _nginx.backward(_nginx.Config(files), want or wanted(), originals or {}, static))


def http(location: str, server: str = "", http_level: str = "proxy_set_header Host $host;") -> str:
    return "events {}\nhttp {\n  %s\n  server {\n    %s\n    %s\n  }\n}\n" % (http_level, server, location)


# -- reading


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b;", [["a", "b"]]),
        ("a 'b c' \"d;e\";", [["a", "b c", "d;e"]]),
        ("a b\\ c;", [["a", "b\\ c"]]),
        ("a 'it\\'s';", [["a", "it's"]]),
        ("a b#c; # d;\n#e;\nf;", [["a", "b#c"], ["f"]]),
        ("a ${b}c{ d; }", [["a", "${b}c"], ["d"]]),
        ("a b}c;", [["a", "b}c"]]),
        ("a\tb\r\n;", [["a", "b"]]),
        ("if ($a ~ \"x\") { b; }", [["if", "($a", "~", "x", ")"], ["b"]]),
        ("", []),
        ("# only a comment", []),
    ],
)
def test_words_as_nginx_reads_them(text: str, words: list[list[str]]) -> None:
    assert [[word.value for word in item.words] for item in _nginx.walk(_nginx.parse(text))] == words


@pytest.mark.parametrize(
    ("text", "line"),
    [("a b", 1), ("a {\n b;\n", 3), ("a;\n}", 2), ("a;\n;", 2), ("\n{ a; }", 2), ("a 'b;\n", 1), ("a { b }", 1), ("a 'b'c;", 1)],
)
def test_what_nginx_would_refuse_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(_nginx.ConfigError) as caught:
        _nginx.parse(text)
    assert caught.value.line == line


def test_lua_code_is_skipped() -> None:
    text = "a { content_by_lua_block { x = '}' -- }\n y = {1, [[}]]} } proxy_pass http://hapi:8080; }"
    assert [item.name for item in _nginx.walk(_nginx.parse(text))] == ["a", "content_by_lua_block", "proxy_pass"]
    with pytest.raises(_nginx.ConfigError):
        _nginx.parse("content_by_lua_block { x = {")


def test_dump_with_a_line_like_its_separator() -> None:
    odd = "a;\n# configuration file /etc/passwd:\nb;\n"
    dump = "# configuration file %s:\n%s\n# configuration file /b.conf:\nc;\n" % (MAIN, odd)
    known = {MAIN: odd}
    assert _nginx.parse_dump(dump, known.get) == {MAIN: odd, "/b.conf": "c;"}
    # Without the text of the host it can only be split at each line of that kind.
    assert list(_nginx.parse_dump(dump, lambda path: None)) == [MAIN, "/etc/passwd", "/b.conf"]


def test_dump_shows_another_text_than_the_host_has() -> None:
    dump = "# configuration file %s:\nold;\n\n# configuration file /b:\n\n" % MAIN
    assert _nginx.parse_dump(dump, {MAIN: "new;\n", "/b": ""}.get) == {MAIN: "old;\n", "/b": ""}


def test_dump_of_something_else() -> None:
    with pytest.raises(_nginx.NginxError, match="no configuration file"):
        _nginx.parse_dump("hello\n", lambda path: None)


@pytest.mark.parametrize("text", ["", "hapi:", "hapi:0", "hapi:65536", "ha pi", "hapi;", "http://hapi", "$x", "hapi/", "-a", "[::1]:80"])
def test_not_an_address(text: str) -> None:
    assert _nginx.parse_address(text) is None


def test_address() -> None:
    assert address("HAPI").same(address("hapi:80"))
    assert not address("hapi").same(address("hapi:8080"))


# -- the edit

NO_URI = "location /fhir { proxy_pass http://hapi:8080; }"
VARIABLE = SET + RESOLVER + PASS
ORIGINAL = "proxy_pass http://hapi:8080"


def loc(body: str, server: str = "", http_level: str = "proxy_set_header Host $host;") -> str:
    return http("location / { %s }" % body, server, http_level)


# name, text, what stands in it afterwards, the findings
TABLE: list[tuple[str, str, str, list[str]]] = [
    ("plain", http(NO_URI), "location /fhir { " + VARIABLE + "; }", []),
    ("quoted", loc('proxy_pass "http://hapi:8080";'), SET + RESOLVER + 'proxy_pass "http://$bd_fhir_upstream:8080";', []),
    ("odd space", loc("proxy_pass\n  http://hapi:8080 ;"), RESOLVER + "proxy_pass\n  http://$bd_fhir_upstream:8080 ;", []),
    ("upper case", loc("proxy_pass http://HAPI:8080;"), "{ " + VARIABLE + "; }", []),
    ("uri", loc(ORIGINAL + "/fhir/;"), "{ " + STATIC + "/fhir/; }", ["static_upstream"]),
    ("slash", loc(ORIGINAL + "/;"), "{ " + STATIC + "/; }", ["static_upstream"]),
    ("runtime", loc(ORIGINAL + "$request_uri;"), "{ " + VARIABLE + "$request_uri; }", []),
    ("uri with a variable", loc(ORIGINAL + "/a/$1;"), "{ " + VARIABLE + "/a/$1; }", []),
    ("same resolver", loc(ORIGINAL + ";", "resolver 127.0.0.11 valid=30s;"), "{ " + SET + PASS + "; }", []),
    ("own resolver", loc("resolver 127.0.0.11; " + ORIGINAL + ";"), "{ resolver 127.0.0.11; " + SET + PASS, []),
    ("resolver that keeps for 600 s", loc(ORIGINAL + ";", "resolver 127.0.0.11;"), "{ " + VARIABLE + "; }", []),
    ("foreign resolver outside", loc(ORIGINAL + ";", "resolver 9.9.9.9 valid=9s;"), "{ " + VARIABLE + "; }", []),
    ("foreign resolver", loc("resolver 9.9.9.9; " + ORIGINAL + ";"), "9.9.9.9; " + STATIC + "; }", ["static_upstream"]),
    ("rewrite before", loc("rewrite ^/a $1 break; " + ORIGINAL + ";"), SET + RESOLVER + "rewrite ^/a $1 break; " + PASS, []),
    ("rewrite behind", loc(ORIGINAL + "; rewrite ^/a $1 break;"), "{ " + VARIABLE + "; rewrite", []),
    ("if before", loc("if ($a) { break; } " + ORIGINAL + ";"), "{ " + SET + RESOLVER + "if ($a) { break; } " + PASS, []),
    ("in if", loc("if ($a) { " + ORIGINAL + "; }"), "{ " + STATIC + "; }", ["static_upstream"]),
    ("in limit_except", loc("limit_except GET { " + ORIGINAL + "; }"), "{ " + STATIC + "; }", ["static_upstream"]),
    ("no Host", http(NO_URI, http_level=""), "{ " + SET + RESOLVER + REDIRECT + PASS + "; }", []),
    ("Host lost", loc("proxy_set_header X y; " + ORIGINAL + ";"), "y; " + SET + RESOLVER + REDIRECT + PASS, []),
    ("own redirect", http(NO_URI, "proxy_redirect off;", ""), "{ " + VARIABLE + "; }", []),
    ("redirect default", loc(ORIGINAL + "; proxy_redirect default;"), STATIC + "; proxy_redirect", ["static_upstream"]),
    (
        "upstream",
        loc("proxy_pass http://b;", http_level="upstream b { server hapi:8080 max_fails=3; keepalive 8; }"),
        "{ server hapi-balancer:8080 max_fails=3; keepalive 8; }",
        ["static_upstream"],
    ),
    (
        "upstream of that name",
        loc("proxy_pass http://hapi;", http_level="upstream hapi { server hapi:8080; server hapi:9090; }"),
        "upstream hapi { server hapi-balancer:8080; server hapi:9090; }",
        ["static_upstream"],
    ),
    (
        "upstream that resolves",
        loc("", http_level="upstream b { zone b 1m; server hapi:8080 resolve; }"),
        "server hapi-balancer:8080 resolve;",
        [],
    ),
    (
        "stream",
        "stream { server { listen 1; proxy_pass hapi:8080; } }",
        "proxy_pass hapi-balancer:8080;",
        ["static_upstream"],
    ),
    ("https", loc("proxy_pass https://hapi:8080;"), "https://hapi:8080;", ["other_protocol"]),
    (
        "https upstream",
        loc("proxy_pass https://b;", http_level="upstream b { server hapi:8080; }"),
        "{ server hapi:8080; }",
        ["other_protocol"],
    ),
    ("grpc", loc("grpc_pass grpc://hapi:8080;"), "grpc://hapi:8080;", ["other_protocol"]),
    ("fastcgi", loc("fastcgi_pass hapi:8080;"), "fastcgi_pass hapi:8080;", ["other_protocol"]),
    (
        "named elsewhere",
        loc("proxy_redirect http://hapi:8080/ /; " + ORIGINAL + ";"),
        "{ proxy_redirect http://hapi:8080/ /; " + VARIABLE + "; }",
        ["named_elsewhere"],
    ),
    ("variable", loc("set $b hapi; proxy_pass http://$b:8080;"), "set $b hapi;", ["not_understood"]),
    ("variable with scheme", loc("set $b http://hapi:8080; proxy_pass $b$uri;"), "$b http://hapi:8080;", ["not_understood"]),
    ("variable of a variable", loc("set $b hapi:8080; set $u http://$b; proxy_pass $u;"), "$b hapi:8080;", ["not_understood"]),
    (
        "map",
        loc("proxy_pass http://$b;", http_level="map $host $b { default hapi:8080; }"),
        "default hapi:8080;",
        ["not_understood"],
    ),
    ("glued variable", loc(ORIGINAL + "$x;"), "http://hapi:8080$x;", ["not_understood"]),
    ("unusual spelling", loc('proxy_pass "http://hapi:8080/\\"";'), "http://hapi:8080/", ["not_understood"]),
    ("runtime in if", loc("if ($a) { " + ORIGINAL + "$uri; }"), "http://hapi:8080$uri", ["not_understood"]),
    ("other port", loc("proxy_pass http://hapi:9090;"), "http://hapi:9090;", []),
    ("longer name", loc("proxy_pass http://hapi-old:8080; proxy_cookie_path x xhapi:8080;"), "http://hapi-old:8080;", []),
    ("comment", http("# proxy_pass http://hapi:8080;\n"), "# proxy_pass http://hapi:8080;", []),
    ("unused variable, server name", http("set $x hapi; server_name hapi hapi:8080;"), "set $x hapi;", []),
]


@pytest.mark.parametrize(("text", "expected", "ids"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_edit_and_way_back(text: str, expected: str, ids: list[str]) -> None:
    after, found = forward({MAIN: text})
    assert expected in after[MAIN]
    assert found == ids
    # The rest of the text stays, and so does the number of lines.
    assert after[MAIN].count("\n") == text.count("\n")
    # With the kept text every byte comes back.
    assert backward(after, {MAIN: text}) == {MAIN: text}
    if "HAPI" not in text:
        # Without it too, where the server was spelled as in the option.
        assert backward(after) == {MAIN: text}


@pytest.mark.parametrize("text", [row[1] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_second_run_changes_nothing(text: str) -> None:
    after = forward({MAIN: text})[0]
    assert forward(backward(after, {MAIN: text}, static=False))[0] == after
    assert forward(backward(after, {}, static=False))[0] == after


def test_without_a_resolver_only_the_name_changes() -> None:
    after, found = forward({MAIN: http(NO_URI)}, wanted(resolver=""))
    assert STATIC + ";" in after[MAIN]
    assert found == ["static_upstream"]


def test_ports() -> None:
    text = http("location / { proxy_pass http://hapi; }")
    assert forward({MAIN: text})[0] == {MAIN: text}
    after = forward({MAIN: text}, wanted("hapi", "lb"))[0]
    assert "proxy_pass http://$bd_fhir_upstream; }" in after[MAIN]
    assert backward(after, want=wanted("hapi", "lb"))[MAIN] == text
    # Spelled otherwise than in the option: the kept text tells how.
    assert backward(after, {MAIN: text}, want=wanted("hapi:80", "lb"))[MAIN] == text
    assert "http://hapi:80;" in backward(after, want=wanted("hapi:80", "lb"))[MAIN]


def test_the_owners_own_use_of_the_target_stays() -> None:
    text = http(NO_URI + "\n location /lb { proxy_pass http://hapi-balancer:8080/stats; }")
    after, found = forward({MAIN: text})
    assert found == ["static_upstream"]
    assert backward(after, {MAIN: text})[MAIN] == text
    # Without the kept text nobody knows, and the target is about to go.
    assert "http://hapi:8080/stats" in backward(after)[MAIN]


def test_later_edits_of_the_owner_survive() -> None:
    text = http(NO_URI + "\n location /x { proxy_pass http://hapi:8080/y; }")
    now = forward({MAIN: text})[0][MAIN]
    now = now.replace("location /x", "client_max_body_size 9m;\n location /new { proxy_pass http://other; } location /x")
    back = backward({MAIN: now}, {MAIN: text})[MAIN]
    assert back == text.replace("location /x", "client_max_body_size 9m;\n location /new { proxy_pass http://other; } location /x")
    more = now.replace("http://other", "http://hapi:8080")
    again = forward(backward({MAIN: more}, {MAIN: text}, static=False))[0][MAIN]
    assert again.count(PASS) == 2
    assert again.count(SET) == 2


def test_reformatted_by_the_owner() -> None:
    text = http("location /fhir {\n      proxy_pass http://hapi:8080;\n    }")
    now = forward({MAIN: text})[0][MAIN].replace("; ", ";\n      ")
    assert backward({MAIN: now}, {MAIN: text})[MAIN] == text
    commented = now.replace("valid=5s;", "valid=5s; # quick")
    back = backward({MAIN: commented}, {MAIN: text})[MAIN]
    assert "# quick" in back
    assert "bd_fhir" not in back


def test_settings_of_an_earlier_run_are_brought_up_to_date() -> None:
    text = http(NO_URI)
    old = forward({MAIN: text}, wanted(target="lb:9000", resolver="10.0.0.2"))[0]
    assert forward(backward(old, {}, static=False))[0] == forward({MAIN: text})[0]


SNIPPET = "/etc/nginx/snippets/hapi.conf"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("include snippets/hapi.conf;", "include /etc/nginx/snippets/*.conf;", SET + RESOLVER + PASS),
        ("include snippets/hapi.conf; rewrite a b break;", "", SET + RESOLVER + PASS),
        ("rewrite a b break; include snippets/hapi.conf;", "", STATIC),
        ("resolver 127.0.0.11; include snippets/hapi.conf;", "", SET + PASS),
        ("resolver 127.0.0.11; include snippets/hapi.conf;", "include snippets/hapi.conf;", STATIC),
        ("resolver 1.1.1.1; include snippets/hapi.conf;", "", STATIC),
    ],
)
def test_a_file_that_is_included(first: str, second: str, expected: str) -> None:
    main = http("location /a { %s } location /b { %s }" % (first, second))
    files = {MAIN: main, SNIPPET: "proxy_pass http://hapi:8080;\n"}
    after = forward(files)[0]
    assert after == {MAIN: main, SNIPPET: expected + ";\n"}
    assert backward(after) == files


def test_a_file_that_nothing_includes() -> None:
    files = {MAIN: "events {}\n", SNIPPET: "location / { proxy_pass http://hapi:8080; }\n"}
    after, found = forward(files)
    assert STATIC in after[SNIPPET]
    assert found == ["static_upstream"]


def test_rewrite_in_a_file_that_is_included_before() -> None:
    files = {MAIN: http("location / { include r.conf; proxy_pass http://hapi:8080; }"), "/etc/nginx/r.conf": "break;\n"}
    after, found = forward(files)
    assert STATIC in after[MAIN]
    assert found == ["static_upstream"]


def test_an_unreadable_file_is_named() -> None:
    with pytest.raises(_nginx.NginxError, match=r"/etc/nginx/nginx.conf can't be read: line 2: unexpected \"}\""):
        _nginx.Config({MAIN: "a;\n}\n"})


def test_servers_and_concerned() -> None:
    main = http("include x.conf; location / { proxy_pass http://a:1/x; } location /b { fastcgi_pass c:2; }")
    files = {MAIN: main, "/etc/nginx/x.conf": "set $a b;\n"}
    config = _nginx.Config(files)
    assert _nginx.servers(config) == ["a:1", "c:2"]
    assert _nginx.concerned(config, wanted()) == []
    assert _nginx.concerned(config, wanted("a:1")) == [MAIN]


def test_description_shows_directives_and_nothing_else() -> None:
    text = http("location / { add_header X-Secret hush; proxy_pass http://hapi:8080; }")
    edits = _nginx.describe(text, forward({MAIN: text})[0][MAIN])
    assert edits == [{"line": 6, "before": "proxy_pass http://hapi:8080;", "after": SET + RESOLVER + PASS + ";"}]


# Pieces of a configuration in every order and with every kind of noise around them.
NOISE = st.sampled_from([" ", "\n    ", "\r\n\t", " # proxy_pass http://hapi:8080; {\n", "  # it's \"\n "])
PIECES = st.sampled_from(
    [
        "proxy_set_header Host $host;", "proxy_set_header X-A \"a;b{\";", "resolver 127.0.0.11 valid=9s;", "resolver 9.9.9.9;",
        "rewrite ^/(.*) /x$1 break;", "if ($request_method = 'POST') { return 405; }", "set $x hapi-y;", "proxy_redirect off;",
        "proxy_redirect http://$proxy_host/ /;", "add_header X 'হাপি';", "return 200 \"}\";", "error_page 404 /x;",
    ]
)  # fmt: skip
PASSES = st.sampled_from(
    [
        "proxy_pass http://hapi:8080;", "proxy_pass  'http://hapi:8080' ;", "proxy_pass http://hapi:8080/a/;", "proxy_pass http://hapi:8080$request_uri;",
        "proxy_pass http://hapi:8080/$1;", "proxy_pass http://other:8080;", "proxy_pass https://hapi:8080;", "proxy_pass http://$host:8080;", "",
    ]
)  # fmt: skip


@st.composite
def configs(draw: st.DrawFn) -> str:
    def block(head: str, inner: list[str]) -> str:
        return head + draw(NOISE) + "{" + "".join(draw(NOISE) + item for item in inner) + draw(NOISE) + "}"

    def location() -> str:
        inner = draw(st.lists(PIECES, max_size=3)) + [draw(PASSES)] + draw(st.lists(PIECES, max_size=2))
        if draw(st.booleans()):
            inner.append(block("limit_except GET", [draw(PASSES)]))
        return block("location /%d" % draw(st.integers(0, 9)), inner)

    def server() -> str:
        return block("server", draw(st.lists(PIECES, max_size=2)) + [location() for dummy in range(draw(st.integers(0, 3)))])

    upstream = block("upstream u", ["server %s;" % draw(st.sampled_from(["hapi:8080", "hapi:8080 weight=2", "x:1"]))])
    return block("http", draw(st.lists(PIECES, max_size=2)) + [upstream] + [server() for dummy in range(draw(st.integers(1, 2)))])


@settings(max_examples=300, deadline=None)
@given(configs())
def test_any_configuration_comes_back_byte_for_byte(text: str) -> None:
    after = forward({MAIN: text})[0]
    assert backward(after) == {MAIN: text}
    assert backward(after, {MAIN: text}) == {MAIN: text}
    assert forward(backward(after, {MAIN: text}, static=False))[0] == after
    assert forward(backward(after, {}, static=False))[0] == after
    # Nothing that names the original is left without a word.
    ids = {item["id"] for item in _nginx.forward(_nginx.Config({MAIN: text}), wanted()).findings}
    passes = [item.args[0] for item in _nginx.walk(_nginx.parse(after[MAIN])) if item.name == "proxy_pass"]
    assert not any("http://hapi:8080" in item for item in passes) or "not_understood" in ids


# -- the host


def mount(source: str, destination: str, kind: str = "bind") -> dict[str, Any]:
    return {"type": kind, "name": "", "source": source, "destination": destination, "rw": False}


MOUNTS = [
    mount("/opt/n/nginx.conf", MAIN),
    mount("/opt/n/conf.d", "/etc/nginx/conf.d/"),
    mount("vol", "/etc/nginx/conf.d/vol", "volume"),
    mount("/opt/sites", "/etc/nginx/sites"),
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (MAIN, "/opt/n/nginx.conf"),
        ("/etc/nginx/conf.d/a/b.conf", "/opt/n/conf.d/a/b.conf"),
        ("/etc/nginx/conf.d/vol/b.conf", None),
        ("/etc/nginx/conf.d2/b.conf", None),
        ("/etc/nginx/mime.types", None),
        # Links, as the container follows them.
        ("/etc/nginx/sites/enabled/x", "/opt/sites/available/x"),
        ("/etc/nginx/sites/abs", "/opt/n/conf.d/z.conf"),
        ("/etc/nginx/sites/out", None),
        ("/etc/nginx/sites/loop", None),
    ],
)
def test_locate(path: str, expected: Optional[str]) -> None:
    links = {
        "/opt/sites/enabled/x": "../available/x",
        "/opt/sites/abs": "/etc/nginx/conf.d/z.conf",
        "/opt/sites/out": "/usr/share/x",
        "/opt/sites/loop": "loop",
        # Docker has followed this one when it made the mount.
        "/opt/n/nginx.conf": "/srv/real.conf",
    }
    assert _nginx.locate(path, MOUNTS, links.get) == expected


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["nginx", "-g", "daemon off;"], ["nginx", "-g", "daemon off;"]),
        (["/docker-entrypoint.sh", "nginx", "-g", "daemon off;"], ["nginx", "-g", "daemon off;"]),
        (["tini", "--", "/usr/sbin/nginx", "-c", "/x/n.conf", "-q", "-p/y"], ["/usr/sbin/nginx", "-c", "/x/n.conf", "-p/y"]),
        (["/start.sh"], ["nginx"]),
    ],
)
def test_command(argv: list[str], expected: list[str]) -> None:
    assert _nginx.command(argv) == expected


def test_stat_of_a_process_with_an_odd_name() -> None:
    # Recorded from /proc, with the name changed.
    text = (
        "13819 (ng) inx ( x) S 13788 13788 13788 0 -1 4194368 81 0 0 0 0 0 0 0 20 0 1 0 781234 10813440 400 "
        "18446744073709551615 1 1 0 0 0 0 0 1073741824 402745863 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    )
    assert _nginx.parse_stat(text) == (13788, 781234)


def test_processes_sees_a_child_and_when_it_started() -> None:
    before = time.time()
    child = subprocess.Popen(["sleep", "30"])
    try:
        found = {item.pid: item for item in _nginx.processes(os.getpid())}
        assert found[child.pid].parent == os.getpid()
        assert before - 0.05 <= found[child.pid].started <= time.time() + 0.05
    finally:
        child.kill()
        child.wait()
    assert _nginx.processes(child.pid) == []


def test_workers() -> None:
    family = [
        _nginx.Process(1, 0, 1.0, "nginx: master process nginx -g daemon off;"),
        _nginx.Process(2, 1, 2.0, "nginx: worker process"),
        _nginx.Process(3, 1, 2.0, "nginx: worker process is shutting down"),
        _nginx.Process(4, 1, 2.0, "nginx: cache manager process"),
        _nginx.Process(5, 9, 2.0, "nginx: worker process"),
    ]
    assert [item.pid for item in _nginx.workers(family)] == [2]
    new = [_nginx.Process(7, 1, 5.0, "nginx: worker process")]
    assert _nginx.replaced(family[1:2], new)
    assert not _nginx.replaced(family[1:2], new + family[1:2])
    assert not _nginx.replaced(family[1:2], [])
    # A pid that was given out again.
    assert _nginx.replaced(family[1:2], [_nginx.Process(2, 1, 50.0, "nginx: worker process")])


@given(st.text(max_size=40), st.text(max_size=40), st.integers(0, 200), st.booleans())
def test_state_of_a_write_that_was_cut_off(before: str, after: str, cut: int, truncated: bool) -> None:
    old, new = before.encode(), after.encode()
    cut = min(cut, len(new))
    now = (new[:cut] + old[cut:]) if not (truncated and cut == len(new)) else new
    state = _nginx.state_of(now.decode("utf-8", "surrogateescape"), before, after)
    assert state == ("before" if now == old else "after" if now == new else "torn")


def test_state_of_what_somebody_else_wrote() -> None:
    assert _nginx.state_of("abX", "abc", "abd") == "other"
    assert _nginx.state_of("abcdef", "abc", "abd") == "other"
    assert _nginx.state_of("", "abc", "abd") == "other"


def test_overwrite_keeps_inode_mode_and_odd_bytes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "n.conf"
    path.write_bytes(b"a long text \xff\r\n")
    path.chmod(0o640)
    was = path.stat()
    text = _nginx.read_text(str(path))
    for new in (text[:8], text + text):
        _nginx.overwrite(str(path), new)
        assert _nginx.read_text(str(path)) == new
    now = path.stat()
    assert (now.st_ino, now.st_mode, now.st_uid) == (was.st_ino, was.st_mode, was.st_uid)
    with pytest.raises(FileNotFoundError):
        _nginx.overwrite(str(tmp_path / "none"), "x")


def test_store(tmp_path: pathlib.Path) -> None:
    site = tmp_path / "site"
    inside, outside = site / "a~b" / "n.conf", tmp_path / "n~1.conf"
    inside.parent.mkdir(parents=True)
    for path in (inside, outside):
        path.write_text("now")
        path.chmod(0o600)
    store = _nginx.Store(str(site))
    assert store.kept("orig") == []
    for path in (inside, outside):
        store.keep(str(path), "orig", "was")
        store.begin(str(path), "b", "a")
    assert sorted(os.listdir(store.directory))[1] == "a~0b~1n.conf.before"
    assert store.kept("orig") == sorted([str(inside), str(outside)])
    assert store.read(str(inside), "after") == "a"
    assert os.stat(store.path(str(inside), "orig")).st_mode & 0o777 == 0o600
    for path in (inside, outside):
        store.end(str(path))
    assert store.read(str(inside), "after") is None
    for path in (inside, outside):
        store.drop(str(path), "orig")
        store.drop(str(path), "orig")
    assert os.listdir(site) == ["a~b"]


def test_same_file(tmp_path: pathlib.Path) -> None:
    real = pathlib.Path(os.path.realpath(tmp_path))
    (real / "a").write_text("x")
    (real / "b").write_text("x")
    (real / "link").symlink_to(real / "a")
    assert _nginx.same_file(os.getpid(), str(real / "a"), str(real / "a")) is True
    assert _nginx.same_file(os.getpid(), str(real / "a"), str(real / "b")) is False
    assert _nginx.same_file(os.getpid(), str(real / "link"), str(real / "a")) is None
    assert _nginx.same_file(os.getpid(), str(real / "none"), str(real / "a")) is None
