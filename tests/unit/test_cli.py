"""The command line offers every setting, and refuses in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from falconq_cluster import __version__
from falconq_cluster.cli import app
from falconq_cluster.config import Settings
from falconq_cluster.storage.lock import DirectoryLock

NARROW = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def test_every_setting_but_the_secret_is_a_flag_of_serve() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"], env=NARROW)
    assert shown.exit_code == 0
    for name in Settings.model_fields:
        flag = "--" + name.replace("_", "-")
        assert (flag in shown.output) is (name != "cluster_secret"), flag


def test_a_setting_that_cannot_work_ends_the_start_with_78_and_a_sentence() -> None:
    refused = CliRunner().invoke(app, ["serve", "--http-address", "0.0.0.0:80", "--no-insecure"])
    assert refused.exit_code == 78
    assert "http_address is 0.0.0.0:80" in refused.stderr
    assert refused.stdout == ""


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"falconq {__version__}\n"


@pytest.mark.parametrize("command", [["reconfigure", "--members", "n1,n2"], ["recover", "--sole-survivor"]])
def test_work_on_a_stopped_node_is_refused_where_there_is_none(tmp_path: Path, command: list[str]) -> None:
    for place in (tmp_path / "missing", tmp_path):
        refused = CliRunner().invoke(app, ["node", *command, "--data-dir", str(place)])
        assert refused.exit_code == 78
        assert "--data-dir of a stopped node" in refused.stderr


def test_work_on_the_data_of_a_running_node_is_refused(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path):
        refused = CliRunner().invoke(app, ["node", "recover", "--sole-survivor", "--data-dir", str(tmp_path)])
    assert refused.exit_code == 78
    assert "in use by another process" in refused.stderr


def test_recovery_is_refused_without_its_reason(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["node", "recover", "--data-dir", str(tmp_path)])
    assert refused.exit_code == 78
    assert "--sole-survivor" in refused.stderr


def test_a_file_that_is_no_backup_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"something else")
    for command in (
        ["backup", "check", str(file)],
        ["node", "restore", str(file), "--data-dir", str(tmp_path / "data")],
    ):
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 78
        assert "this is no backup" in refused.stderr
    assert not list((tmp_path / "data").glob("store"))
