"""Reads environment variables about the network (proxies and certificates) and about wandb.

Only this module reads these variables. This has two advantages. An invalid value always gives an error that names the
variable, and requests from this machine to itself never use a proxy.
"""

import importlib.util
import ipaddress
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import certifi

from irg_rl.errors import InputError
from irg_rl.redact import redact_text

_WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
_SCHEMES = ("http", "https", "socks5", "socks5h")


def is_loopback(host: str) -> bool:
    """Return whether the host is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host.lower().rstrip(".") == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def proxy_for(scheme: str, host: str, port: int | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the address of the proxy for connections to a host, or None if no proxy is used. `scheme` is http or
    https.

    The address is the value of HTTP_PROXY (for http) or HTTPS_PROXY (for https). If the variable for this scheme is not
    set, the value of ALL_PROXY is used. No proxy is used if the host is this machine or if NO_PROXY lists the host. (An
    entry of NO_PROXY may have a port. Then the entry applies only to connections to this `port`.)

    The name of each variable may also be written in lower case, such as http_proxy. If both names are set, the value of
    the lower-case name is used, as in curl. Raises InputError with the name of the variable if its value is invalid.
    """
    if is_loopback(host) or _is_excluded(host, port, environ):
        return None
    names = [f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    name = next((name for name in names if environ.get(name, "").strip()), None)
    if name is None:
        return None
    proxy = environ[name].strip()
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    shown = redact_text(proxy, {})
    try:
        parts = urlsplit(proxy)
        if parts.scheme not in _SCHEMES or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise InputError(
            f"{name} is {shown!r}, no address of a proxy: write one such as http://host:3128, or unset it"
        ) from None
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise InputError(
            f"{name} is {shown!r}, a SOCKS proxy, which needs the package socksio: install it or unset {name}"
        )
    return proxy


def trusted_certificates(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return an SSL context with the trusted certificates for https connections. The variable SSL_CERT_FILE names a
    file with certificates, and SSL_CERT_DIR names a folder. If neither variable is set, the certificates of the package
    certifi are used. Raises InputError if the file or folder is missing, or if the file has no certificates. The error
    names the variable."""
    file, folder = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    if not file and not folder:
        return ssl.create_default_context(cafile=certifi.where())
    for name, path, there in (("SSL_CERT_FILE", file, os.path.isfile), ("SSL_CERT_DIR", folder, os.path.isdir)):
        if path and not there(path):
            raise InputError(f"{name} is {path!r}, which is not there: correct it or unset it")
    try:
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    except (ssl.SSLError, OSError) as error:
        raise InputError(f"SSL_CERT_FILE is {file!r}, which holds no certificates: correct it or unset it") from error


def wandb_mode(environ: Mapping[str, str] = os.environ) -> Any:
    """Return the mode of wandb (such as "online"). If WANDB_MODE is set, its value is the mode. Otherwise the mode is
    "online" if WANDB_API_KEY is set, and "offline" if not. Raises InputError for an unknown mode."""
    mode = environ.get("WANDB_MODE") or ("online" if environ.get("WANDB_API_KEY") else "offline")
    if mode not in _WANDB_MODES:
        raise InputError(f"WANDB_MODE is {mode!r}, choose {', '.join(_WANDB_MODES)}, or set tracking.wandb=false")
    return mode


def _is_excluded(host: str, port: int | None, environ: Mapping[str, str]) -> bool:
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return any(_matches(entry.strip().lower(), host.lower(), port) for entry in listed.split(",") if entry.strip())


def _matches(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of NO_PROXY matches a host. An entry is *, a domain with all its subdomains, an address
    (IPv6 also in brackets), or a network such as 10.0.0.0/8. If an entry ends with a port, it matches only this
    port."""
    if entry == "*":
        return True
    name, only = entry, ""
    if entry.startswith("["):
        name, _, only = entry[1:].partition("]")
        only = only.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, only = entry.partition(":")
    if only and only != str(port):
        return False
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
    name = name.removeprefix("*").removeprefix(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
