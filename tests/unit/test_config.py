"""Settings come from flags, environment and file, in this order, and what can't work is refused with a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconq_cluster.app import capacity_from
from falconq_cluster.config import Address, Settings, load_settings, parse_peers
from falconq_cluster.errors import ConfigurationError
from falconq_cluster.machine.capacity import Capacity

THREE = "n1=127.0.0.1:7001,n2=127.0.0.1:7002,n3=127.0.0.1:7003"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FALCONQ_"):
            monkeypatch.delenv(name)


def test_a_node_without_settings_is_alone_and_reachable_from_its_machine_only() -> None:
    settings = load_settings()
    assert str(settings.http_address) == "127.0.0.1:8080"
    assert settings.data_dir == Path("falconq-data")
    assert not settings.is_cluster
    assert settings.raft_bind.is_loopback


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "falconq.toml"
    file.write_text('node_id = "file"\nbody_bytes_max = 2048\nheartbeat_ms = 20\n')
    monkeypatch.setenv("FALCONQ_CONFIG", str(file))
    monkeypatch.setenv("FALCONQ_NODE_ID", "environment")
    monkeypatch.setenv("FALCONQ_HEARTBEAT_MS", "30")
    settings = load_settings({"node_id": "flag", "heartbeat_ms": None})
    assert (settings.node_id, settings.heartbeat_ms, settings.body_bytes_max) == ("flag", 30, 2048)


def test_peers_may_be_a_table_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "falconq.toml"
    file.write_text('[peers]\nn1 = "127.0.0.1:7001"\nn2 = "[::1]:7002"\n')
    settings = load_settings({"config": file})
    assert settings.peers == {"n1": Address("127.0.0.1", 7001), "n2": Address("::1", 7002)}
    assert settings.raft_bind == Address("127.0.0.1", 7001)


def test_variables_of_others_with_our_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # A Kubernetes service named falconq gives its pods such variables.
    monkeypatch.setenv("FALCONQ_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("FALCONQ_PORT", "tcp://10.0.0.1:8080")
    assert load_settings().node_id == "n1"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"http_address": "8080"}, "http_address = '8080' (--http-address, FALCONQ_HTTP_ADDRESS)"),
        ({"http_address": "host:99999"}, "is not HOST:PORT"),
        ({"http_address": "::1:8080"}, "write an IPv6 address as [::1]:8080"),
        ({"http_address": "0.0.0.0:8080"}, "say --insecure when the network is trusted"),
        ({"http_address": "broker.example:8080"}, "say --insecure when the network is trusted"),
        ({"peers": "n1=10.0.0.1:1,n2=10.0.0.2:1"}, "raft_address is 10.0.0.1:1, which other machines can reach"),
        ({"peers": "n1=10.0.0.1:1,n2=10.0.0.2:1", "insecure": True}, "set FALCONQ_CLUSTER_SECRET"),
        ({"peers": "127.0.0.1:7001"}, "is not NAME=HOST:PORT"),
        ({"peers": "n1=127.0.0.1:1,n1=127.0.0.1:2"}, "'n1' is there twice"),
        ({"peers": "n1=127.0.0.1:0"}, "port 0, which others can't connect to"),
        ({"peers": ",".join(f"n{n}=127.0.0.1:{n}" for n in range(1, 9))}, "at most 7 are supported"),
        ({"peers": THREE, "node_id": "n4"}, "node_id is 'n4', but peers has only n1, n2, n3"),
        ({"node_id": "../n1"}, "'../n1' is not a name"),
        ({"node_id": ""}, "'' is not a name"),
        ({"heartbeat_ms": "often"}, "heartbeat_ms = 'often'"),
        ({"heartbeat_ms": "200"}, "one late heartbeat would start an election"),
        ({"election_timeout_max_ms": "300"}, "or elections tie"),
        ({"body_bytes_max": "-1"}, "--body-bytes-max"),
        ({"config": "/nowhere/falconq.toml"}, "/nowhere/falconq.toml, which is not a file"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(flags: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(flags)
    assert says in refused.value.message


def test_a_secret_makes_a_reachable_cluster_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALCONQ_CLUSTER_SECRET", "s3cret")
    settings = load_settings({"peers": "n1=10.0.0.1:1,n2=10.0.0.2:1", "insecure": True})
    assert settings.is_cluster
    assert "s3cret" not in repr(settings)


def test_a_file_with_an_unknown_key_or_no_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "falconq.toml"
    file.write_text("hartbeat_ms = 50\n")
    with pytest.raises(ConfigurationError, match="'hartbeat_ms' is not a setting"):
        load_settings({"config": file})
    file.write_text("hartbeat_ms: 50\n")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        load_settings({"config": file})


def test_what_is_told_to_others_is_the_advertised_address() -> None:
    settings = Settings(http_address="0.0.0.0:8080", http_advertise="node1:80", insecure=True)
    assert settings.http_address.is_wildcard
    assert str(settings.advertised_http) == "node1:80"


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_sentence(text: str) -> None:
    for read in (Address.parse, parse_peers):
        try:
            read(text)
        except ValueError as error:
            assert str(error)  # noqa: PT017 (most texts are refused, some are not)


@given(st.sampled_from(["127.0.0.1", "::1", "node-1.example"]), st.integers(0, 65535))
def test_an_address_is_read_as_it_is_written(host: str, port: int) -> None:
    address = Address(host, port)
    assert Address.parse(str(address)) == address


def test_a_limit_of_capacity_is_said_in_commands_only_when_it_is_not_the_default() -> None:
    assert capacity_from(load_settings()) == Capacity()
    assert capacity_from(load_settings({"topics_max": 5, "held_max": 7})) == Capacity(topics_max=5, held_max=7)


@pytest.mark.parametrize(
    ("name", "value"), [("topics_max", 100_001), ("dedupe_max", 0), ("partitions_per_topic_max", 257)]
)
def test_a_limit_of_capacity_beyond_what_the_machine_can_take_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} = {value} "):
        load_settings({name: value})
