"""Start JupyterLab on the first notebook: on a desk, over ssh, in a container, as root or not."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIRST_PAGE = "notebooks/00_start_here.ipynb"
LOOPBACK = "127.0.0.1"
EVERY_ADDRESS = ("0.0.0.0", "::", "*", "")
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
# Nothing pops up over the first picture, and a notebook that is opened again shows its pictures; a
# learner's own settings still win.
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True},
}


def no_browser_reason(environ: Mapping[str, str] = os.environ) -> str | None:
    """Why a browser started here would not be seen, as half a sentence; None where it would."""
    if "SSH_CONNECTION" in environ:
        return "this is an ssh session"
    if in_container():
        return "this is a container"
    if sys.platform.startswith("linux") and not (
        environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    ):
        return "there is no display"
    return None


def in_container() -> bool:
    return any(Path(mark).exists() for mark in CONTAINER_MARKS)


def ssh_command(port: int, environ: Mapping[str, str] = os.environ) -> str:
    """The command that brings the page to another machine, with what ssh says about this one."""
    # SSH_CONNECTION: client address, client port, server address, server port
    connection = environ.get("SSH_CONNECTION", "").split()
    host, ssh_port = (connection[2], connection[3]) if len(connection) == 4 else ("HOST", "22")
    port_option = "" if ssh_port == "22" else f"-p {ssh_port} "
    return f"ssh -N -L {port}:{LOOPBACK}:{port} {port_option}{user_name()}@{host}"


def user_name() -> str:
    """The login name; a container may run under a number that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "USER"


def add_settings(folder: Path) -> None:
    """Put SETTINGS below `folder`, and the folder where JupyterLab looks for defaults."""
    target = folder / "labconfig" / "default_setting_overrides.json"
    target.parent.mkdir()
    target.write_text(json.dumps(SETTINGS), encoding="utf-8")
    paths = [str(folder), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(paths)


def server_arguments(ip: str, port: int, browser: bool) -> list[str]:
    """The command line of `jupyter lab`."""
    arguments = [
        f"--ServerApp.root_dir={ROOT}",
        f"--ServerApp.ip={ip}",
        f"--ServerApp.port={port}",
        f"--LabApp.default_url=/lab/tree/{FIRST_PAGE}",
        f"--ServerApp.open_browser={browser}",
        # Our own lines say all that a learner needs, and errors still come through.
        "--Application.log_level=ERROR",
        # Ctrl-C stops at once instead of asking.
        "--ServerApp.answer_yes=True",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")  # Jupyter refuses root without it
    return arguments


def shown_host(ip: str) -> str:
    """Where a browser on this machine finds a server that listens on this address."""
    host = "::1" if ip == "::" else LOOPBACK if ip in EVERY_ADDRESS else ip
    return f"[{host}]" if ":" in host else host


def announce(port: int, token: str, options: argparse.Namespace, reason: str | None) -> None:
    """Say where the lab is and how to get there; `reason`: why no browser was opened."""
    if port != options.port:
        print(f"Port {options.port} is taken; using {port}.")
    print(f"\n  http://{shown_host(options.ip)}:{port}/lab/tree/{FIRST_PAGE}?token={token}\n")
    if options.ip in EVERY_ADDRESS and not in_container():
        print(
            "Everyone on this network can reach the lab, unencrypted; who has the token above can "
            "run anything on this machine."
        )
    if reason:
        print(f"No browser is opened ({reason}): open this address in yours.")
        print(f"From another machine, first run there: {ssh_command(port)}")
    if in_container() and options.ip == LOOPBACK:
        print(
            "From outside the container: publish the port, "
            f"docker run -p {LOOPBACK}:{port}:{port}, "
            'and make lab ARGS="--ip 0.0.0.0".'
        )
    print("Ctrl-C stops the lab and its kernels.", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Start the server, say where it is, and stay until Ctrl-C; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m moeviz lab", description=__doc__)
    parser.add_argument("--ip", default=LOOPBACK, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8888, help="first port to try (%(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    options = parser.parse_args(argv)

    if not (ROOT / FIRST_PAGE).is_file():
        print(
            f"{ROOT / FIRST_PAGE} is missing: the notebooks live in moeviz's repository; "
            "clone it and run 'make lab' there.",
            file=sys.stderr,
        )
        return 1
    reason = "you asked for none" if options.no_browser else no_browser_reason()
    print("Starting JupyterLab (5 to 20 seconds) ...", flush=True)
    try:
        from jupyterlab.labapp import LabApp
    except ModuleNotFoundError as error:
        print(f"{error}: run 'make lab' to install what the lab needs.", file=sys.stderr)
        return 1

    with tempfile.TemporaryDirectory(prefix="moeviz-lab-") as folder:
        add_settings(Path(folder))
        # Through the environment, because every user of a machine can read a command line.
        os.environ.setdefault("JUPYTER_TOKEN", secrets.token_hex(24))
        server = LabApp.initialize_server(
            argv=server_arguments(options.ip, options.port, browser=reason is None)
        )
        token = server.identity_provider.token  # the one above, or what a configuration file says
        # Kernels inherit the environment, and need no key to the server.
        os.environ.pop("JUPYTER_TOKEN", None)
        # Queued behind Jupyter's own first callback, which begins to listen: the address is printed
        # when it answers.
        server.io_loop.add_callback(announce, server.port, token, options, reason)
        server.start()
    return 0
