"""Proxies and certificates as the shell's variables name them."""

import certifi
import pytest

from irg_rl.environment import is_loopback, proxy_for, trusted_certificates, wandb_mode
from irg_rl.errors import InputError

PROXY = {"HTTP_PROXY": "http://proxy:3128"}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_this_machine_is_never_asked_through_a_proxy(host):
    assert is_loopback(host) and proxy_for("http", host, 80, PROXY) is None


@pytest.mark.parametrize(
    ("listed", "host", "through"),
    [
        ("[fd00::7]", "fd00::7", False),
        ("fd00::/8", "fd00::7", False),
        ("[fd00::7]:81", "fd00::7", True),
        ("10.0.0.0/8", "10.1.2.3", False),
        ("10.0.0.0/8", "11.1.2.3", True),
        ("example.org", "gpu.example.org", False),
        (".example.org", "gpu.example.org", False),
        ("example.org", "notexample.org", True),
        ("gpu7:80", "gpu7", False),
        ("gpu7:81", "gpu7", True),
        ("*", "gpu7", False),
        ("", "gpu7", True),
        (" , gpu7", "gpu7", False),
    ],
)
def test_no_proxy_lists_names_addresses_and_networks(listed, host, through):
    assert (proxy_for("http", host, 80, PROXY | {"NO_PROXY": listed}) is not None) == through


def test_the_scheme_decides_which_variable_counts():
    variables = {"HTTPS_PROXY": "http://a:1", "all_proxy": "http://b:1"}
    assert proxy_for("https", "gpu7", None, variables) == "http://a:1"
    assert proxy_for("http", "gpu7", None, variables) == "http://b:1"


def test_a_proxy_without_a_scheme_is_an_http_proxy():
    assert proxy_for("http", "gpu7", None, {"http_proxy": "proxy:3128"}) == "http://proxy:3128"


@pytest.mark.parametrize("value", ["http://", "gopher://proxy", "http://proxy:port", "http://[::1"])
def test_a_proxy_that_is_no_address_is_named(value):
    with pytest.raises(InputError, match="^HTTP_PROXY is "):
        proxy_for("http", "gpu7", None, {"HTTP_PROXY": value})


def test_a_socks_proxy_says_which_package_it_needs_and_no_password():
    with pytest.raises(InputError, match="^ALL_PROXY is .*needs the package socksio") as refusal:
        proxy_for("http", "gpu7", None, {"ALL_PROXY": "socks5://me:pass@proxy:1080"})
    assert "pass@" not in str(refusal.value)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_missing_name_their_variable(variable):
    with pytest.raises(InputError, match=f"^{variable} is '/nowhere', which is not there"):
        trusted_certificates({variable: "/nowhere"})


def test_a_file_without_certificates_names_its_variable(tmp_path):
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(InputError, match="^SSL_CERT_FILE is .*holds no certificates"):
        trusted_certificates({"SSL_CERT_FILE": str(tmp_path / "empty.pem")})


def test_certificates_that_are_there_are_trusted():
    assert trusted_certificates({"SSL_CERT_FILE": certifi.where()}).get_ca_certs()
    assert trusted_certificates({}).get_ca_certs()


def test_a_mode_that_wandb_does_not_have_names_its_variable():
    with pytest.raises(InputError, match="^WANDB_MODE is 'off', choose online, .*tracking.wandb=false"):
        wandb_mode({"WANDB_MODE": "off"})


def test_wandb_is_online_with_a_key_alone():
    assert wandb_mode({}) == wandb_mode({"WANDB_MODE": ""}) == "offline"
    assert wandb_mode({"WANDB_API_KEY": "k"}) == "online"
    assert wandb_mode({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}) == "disabled"
