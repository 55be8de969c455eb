"""The lab starts anywhere: with its port taken, with a token, on loopback, and stops on Ctrl-C."""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error

import pytest

from lab_browser import DIRECT, PATIENCE
from moeviz.app import lab

START = """
import sys
from pathlib import Path
from moeviz.app import lab
lab.ROOT = Path(sys.argv[1])
sys.exit(lab.main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another signal there")
def test_the_lab_takes_the_next_port_wants_its_token_and_stops_on_ctrl_c(tmp_path):
    page = tmp_path / lab.FIRST_PAGE
    page.parent.mkdir()
    page.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    environment = {**os.environ, "HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path / "r")}
    environment.pop("JUPYTER_TOKEN", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-P", "-c", START, str(tmp_path), "--port", str(port)]
        server = subprocess.Popen(
            [*command, "--no-browser"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            said = ""
            while "Ctrl-C stops" not in said and (line := server.stdout.readline()):
                said += line
            assert f"Port {port} is taken; using" in said
            address = re.search(r"http://127\.0\.0\.1:(\d+)/\S+\?token=[0-9a-f]{48}", said)
            assert address and int(address[1]) != port, said
            assert f"ssh -N -L {address[1]}:127.0.0.1:{address[1]}" in said
            assert DIRECT.open(address[0]).status == 200
            with pytest.raises(urllib.error.HTTPError, match="403"):
                DIRECT.open(f"http://127.0.0.1:{address[1]}/api/contents")
            server.send_signal(signal.SIGINT)
            assert server.wait(PATIENCE) == 0
        finally:
            server.kill()
            server.stdout.close()


@pytest.mark.parametrize(
    ("environ", "marks", "reason"),
    [
        ({"SSH_CONNECTION": "1.1.1.1 5 2.2.2.2 22", "DISPLAY": ":0"}, "gone", "is an ssh session"),
        ({"DISPLAY": ":0"}, "gone", None),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "gone", None),
        ({}, "gone", "there is no display"),
        ({"DISPLAY": ":0"}, ".", "this is a container"),
    ],
)
def test_a_browser_is_opened_only_where_it_is_seen(monkeypatch, tmp_path, environ, marks, reason):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(lab, "CONTAINER_MARKS", [tmp_path / marks])
    given = lab.no_browser_reason(environ)
    assert given is None if reason is None else given.endswith(reason)


def test_the_ssh_command_uses_what_ssh_says_about_this_machine(monkeypatch):
    monkeypatch.setattr(lab, "user_name", lambda: "ada")
    assert lab.ssh_command(8889, {"SSH_CONNECTION": "1.1.1.1 5 2.2.2.2 2200"}) == (
        "ssh -N -L 8889:127.0.0.1:8889 -p 2200 ada@2.2.2.2"
    )
    assert lab.ssh_command(8888, {}).endswith("ada@HOST")


@pytest.mark.parametrize(
    ("ip", "address", "warned"),
    [
        ("127.0.0.1", "http://127.0.0.1:9/", False),
        ("::1", "http://[::1]:9/", False),
        ("10.0.0.7", "http://10.0.0.7:9/", False),
        ("0.0.0.0", "http://127.0.0.1:9/", True),
        ("::", "http://[::1]:9/", True),
    ],
)
def test_the_address_answers_and_an_open_one_is_warned_of(ip, address, warned, monkeypatch, capsys):
    monkeypatch.setattr(lab, "in_container", lambda: False)
    lab.announce(9, "token", argparse.Namespace(ip=ip, port=9), None)
    out = capsys.readouterr().out
    assert address in out and ("Everyone on this network can reach the lab" in out) == warned


def test_in_a_container_the_port_is_published_to_this_machine_alone(monkeypatch, capsys):
    monkeypatch.setattr(lab, "in_container", lambda: True)
    lab.announce(9, "token", argparse.Namespace(ip="127.0.0.1", port=9), None)
    assert "docker run -p 127.0.0.1:9:9" in capsys.readouterr().out


def test_without_notebooks_one_sentence_says_where_they_are(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    assert lab.main([]) == 1
    assert "the notebooks live in moeviz's repository" in capsys.readouterr().err
