"""Who may see the page, and which files it may read."""

import http.client
import os
import socket
import subprocess
import sys
from urllib.parse import quote

import httpx
import pytest

from tests.view.conftest import TOKEN, serving
from tests.view.material import make_run

PAGES = ("", "run/first/", "run/first/samples", "run/first/sample?prompt=p0", "run/first/groups",
         "run/first/group?folder=looks/step-000010&group=0", "run/first/sibling?folder=looks/step-000010&sibling=1",
         "run/first/picture?arm=real&prompt=p0&turn=1", "run/first/segment?folder=looks/step-000010&segment=1",
         "static/style.css", "static/script.js")  # fmt: skip


def raw(served, path: str, host: str | None = None) -> tuple[int, str]:
    """The status and the text for a path that is sent as it is, without tidying."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.putrequest("GET", path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_forbids_what_is_not_its_own(served, path):
    answer = served.get(path)
    assert answer.status_code == 200, answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", [path for path in PAGES if "static" not in path])
def test_a_page_loads_nothing_from_elsewhere_and_has_no_script_of_its_own(served, path):
    answer = served.get(path)
    if answer.headers["content-type"].startswith("text/html"):
        assert "//" not in answer.text.replace("irg-rl view", "").split("<main>")[0].replace("<!doctype html>", "")
        assert answer.text.count("<script") == 1 and f'src="/{TOKEN}/static/script.js"' in answer.text
        assert " style=" not in answer.text and " onclick=" not in answer.text


@pytest.mark.parametrize("host", ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example", "10.0.0.7"])
def test_another_host_name_is_refused(served, host):
    status, text = raw(served, f"/{TOKEN}/", host)
    assert status in (400, 403) and "first" not in text


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:9000"])
def test_a_tunnel_from_another_port_is_answered(served, host):
    status, text = raw(served, f"/{TOKEN}/", host)
    assert status == 200 and "first" in text


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\N{SNOWMAN}"])
@pytest.mark.parametrize("path", ["", "run/first/", "static/style.css"])
def test_without_the_token_nothing_is_shown(served, token, path):
    status, text = raw(served, f"/{quote(token)}/{path}")
    assert status == 403 and "open the whole address" in text


def test_only_reading_is_answered(served):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert httpx.request(method, served.address, trust_env=False).status_code == 405, method


def test_the_server_is_on_the_loopback_address_alone(served):
    own = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in own:
        with pytest.raises(OSError):
            socket.create_connection((address, served.port), timeout=2).close()
    assert own or served.get().status_code == 200


def test_an_unchanged_page_is_not_sent_again(served, run):
    first = served.get("run/first/")
    again = served.get("run/first/", **{"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    (run / "stages.json").write_text('{"sft1": {"seconds": 120.0, "done": true}}')
    assert served.get("run/first/", **{"If-None-Match": first.headers["etag"]}).status_code == 200


@pytest.mark.parametrize("path", [
    "run/../../secret/", "run/..%2f..%2fsecret/", "run/%2e%2e/", "run//etc/passwd", "static/../../secret.txt",
    "static/..%2fapp.py", "static/%2e%2e%2fserver.py", "run/first/groups?folder=../../secret",
    "run/first/group?folder=../../secret&group=0", "run/first/segment?folder=../../secret&segment=0",
    "run/first/samples?evaluation=../../../secret", "run/first/picture?evaluation=../../secret&arm=real&prompt=p0",
    "run/first/picture?arm=../../secret&prompt=p0&turn=0", "run/first/picture?arm=real&prompt=p0&turn=99",
    "run/first/sample?prompt=nobody", "run/first/group?folder=looks/step-000010&group=99999999999", "nothing",
])  # fmt: skip
def test_a_path_that_leads_elsewhere_shows_one_line_and_no_file(served, run, path):
    secret = run.parent.parent / "secret"
    secret.mkdir()
    for name in ("groups.json", "rl.json", "metrics.jsonl", "recipe.yaml"):
        (secret / name).write_text('{"kind": "evaluation", "format": 1, "groups": [], "note": "TOP SECRET"}')
    status, text = raw(served, f"/{TOKEN}/{path}")
    assert "SECRET" not in text and "Traceback" not in text and "root:" not in text
    assert status == 404 or (status == 200 and "No groups" in text) or (status == 200 and "0 groups" in text)


def test_links_out_of_the_given_folders_are_not_followed(served, run, tmp_path):
    outside = make_run(tmp_path / "outside" / "other", kept=False)
    (outside / "stages.json").write_text('{"stolen": {"seconds": 1, "done": true}}')
    for name in ("stages.json", "metrics.jsonl"):
        (run / name).unlink()
        os.symlink(outside / name, run / name)
    os.symlink(outside, run.parent / "linked")
    (run / "looks" / "step-000020").symlink_to(outside / "looks" / "step-000010")
    page = served.page("run/first/")
    assert "stolen" not in page and "leads outside the given folders" in page
    assert "linked" not in served.page() and "step-000020" not in served.page("run/first/groups")


def test_links_inside_the_given_folders_are_followed(served, run):
    (run / "kept.json").write_text('{"moved": {"seconds": 1, "done": true}}')
    (run / "stages.json").unlink()
    os.symlink(run / "kept.json", run / "stages.json")
    assert "moved" in served.page("run/first/")


def test_the_pages_need_neither_torch_nor_ray(run):
    code = (
        "import sys, pathlib\n"
        "from irg_rl.view.app import Pages\nfrom irg_rl.view.server import make_app\n"
        "from irg_rl.view.sources import Library\n"
        "pages = Pages(Library([pathlib.Path(sys.argv[1])]))\nmake_app(pages, 'token')\n"
        "pages.runs([], [], '/'); pages.run('first', [], '/'); pages.samples('first', {}, '/')\n"
        "pages.sample('first', {'prompt': 'p0'}, '/')\n"
        "where = {'folder': 'looks/step-000010', 'group': '0', 'segment': '1'}\n"
        "pages.group('first', where, '/'); pages.segment('first', where)\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'wandb', 'matplotlib') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(run)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_two_servers_do_not_share_a_port(served, run, tmp_path):
    with serving(run.parent) as other:
        assert other.port != served.port and "first" in other.page()
