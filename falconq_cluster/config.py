"""What can be set, where it can be set, and what it is when it isn't.

What lives here: `Settings`, its sources (flags win over `FALCONQ_…`, that wins over `--config FILE`), addresses.
Rules: every setting has a default that is safe on a laptop, and a row in docs/configuration.md. A value that can't
work is refused at the start with a sentence that names the setting, the value and what to do.
Must not know: who uses a setting.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import InitSettingsSource, TomlConfigSettingsSource

from falconq_cluster.errors import ConfigurationError

ENVIRONMENT_PREFIX = "FALCONQ_"
NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
"""Names of topics, consumers and nodes."""
MEMBER_COUNT_MAX = 7
"""Each acknowledgement waits for a majority; more members cost speed and add no safety that anyone asked for."""

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name, IPv4 or IPv6 without brackets) and a port; port 0 lets the system choose when listening."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `HOST:PORT` or `[IPV6]:PORT`. Raises: ValueError with a sentence."""
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"'{text}' has several colons; write an IPv6 address as [::1]:8080")
        if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:  # noqa: PLR2004
            raise ValueError(f"'{text}' is not HOST:PORT, for example 127.0.0.1:8080")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than localhost counts as reachable."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_wildcard(self) -> bool:
        """Whether it is every address of the machine, so that it can't be told to others."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_peers(text: str) -> dict[str, Address]:
    """Reads `n1=HOST:PORT,n2=HOST:PORT`, member by member. Raises: ValueError with a sentence."""
    peers: dict[str, Address] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, address = part.partition("=")
        if not equals:
            raise ValueError(f"'{part}' is not NAME=HOST:PORT")
        _check_name(name)
        if name in peers:
            raise ValueError(f"'{name}' is there twice")
        peers[name] = Address.parse(address)
        if peers[name].port == 0:
            raise ValueError(f"'{part}' has port 0, which others can't connect to")
    if len(peers) > MEMBER_COUNT_MAX:
        raise ValueError(f"there are {len(peers)} members, at most {MEMBER_COUNT_MAX} are supported")
    return peers


def _check_name(name: str) -> str:
    if NAME_PATTERN.fullmatch(name) is None:
        raise ValueError(f"'{name}' is not a name: 1 to 200 of A-Z a-z 0-9 . _ - and not starting with . or -")
    return name


def _read_address(value: object) -> Address:
    return value if isinstance(value, Address) else Address.parse(str(value))


def _read_peers(value: object) -> dict[str, Address]:
    if isinstance(value, Mapping):
        return parse_peers(",".join(f"{name}={address}" for name, address in value.items()))
    return parse_peers(str(value))


AddressField = Annotated[Address, NoDecode, PlainValidator(_read_address)]
PeersField = Annotated[dict[str, Address], NoDecode, PlainValidator(_read_peers)]
NameField = Annotated[str, AfterValidator(_check_name)]


class Settings(BaseSettings):
    """All settings of one node."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True)

    # The node.
    config: Path | None = Field(None, description="TOML file with any of these settings as keys.")
    node_id: NameField = Field("n1", description="Name of this node, one of the names in peers.")
    data_dir: Path = Field(Path("falconq-data"), description="Directory of this node alone; it is created.")
    http_address: AddressField = Field(Address("127.0.0.1", 8080), description="Where clients are served.")
    http_advertise: AddressField | None = Field(
        None, description="What /v1/cluster reports as the HTTP address, when http_address is a wildcard."
    )
    raft_address: AddressField | None = Field(
        None, description="Where the other nodes connect to; unset: this node's address in peers."
    )
    peers: PeersField = Field(
        default_factory=dict, description="All members with their Raft addresses, this node too; empty: a single node."
    )
    cluster_secret: SecretStr = Field(
        SecretStr(""), description="Shared secret by which nodes authenticate each other; never given as a flag."
    )
    insecure: bool = Field(default=False, description="Allow addresses beyond this machine without TLS.")
    auto_create: bool = Field(default=True, description="Publishing to a missing topic creates it.")
    drain_ms: int = Field(5000, ge=0, description="How long a stopping node finishes the requests that it has.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["json", "console"] = Field("json", description="How log lines look.")

    # Raft, journal and store.
    heartbeat_ms: int = Field(50, ge=10, description="How often a leader speaks to its followers.")
    election_timeout_min_ms: int = Field(300, ge=50, description="Shortest silence of a leader before an election.")
    election_timeout_max_ms: int = Field(600, ge=51, description="Longest such silence; each wait is drawn between.")
    sync_stall_ms: int = Field(800, ge=100, description="A disk sync that takes longer makes a leader step down.")
    journal_segment_bytes: int = Field(16 * MIB, ge=64 * KIB, description="Size of one journal file.")
    journal_cache_bytes: int = Field(64 * MIB, ge=MIB, description="Newest journal entries that are kept in memory.")
    journal_keep_entries: int = Field(
        10_000, ge=1, description="Entries that stay in the journal behind a snapshot, for followers that lag."
    )
    flush_entries: int = Field(50_000, ge=1, description="Applied entries after which the store is flushed.")
    journal_bytes_max: int = Field(
        256 * MIB, ge=MIB, description="Journal size above which the store is flushed and the journal cut."
    )
    leader_fallback_ms: int = Field(
        1000, ge=200, description="A leader that no majority answers for so long steps down."
    )
    snapshot_chunk_bytes: int = Field(256 * KIB, ge=4 * KIB, le=4 * MIB, description="Part of a snapshot in one frame.")

    # Connections between nodes.
    frame_bytes_max: int = Field(
        24 * MIB, ge=20 * MIB, description="Bytes of one frame between nodes; a larger one closes the connection."
    )
    outbound_bytes_max: int = Field(
        64 * MIB, ge=32 * MIB, description="Bytes that wait for one peer; a slower reader is disconnected."
    )
    handshake_timeout_ms: int = Field(
        3000, ge=100, description="How long a connection between nodes may take to authenticate."
    )
    connect_timeout_ms: int = Field(
        1000, ge=50, description="How long a name or a connection attempt to a peer may take."
    )
    peer_idle_timeout_ms: int = Field(
        3000, ge=500, description="A connection between nodes that is silent for so long is closed."
    )

    # Broker.
    command_bytes_max: int = Field(MIB, ge=4 * KIB, le=4 * MIB, description="Bytes of operations in one log entry.")
    command_operations_max: int = Field(500, ge=1, le=1000, description="Operations in one log entry.")
    outstanding_commands_max: int = Field(8, ge=1, description="Commands of this node that are not applied yet.")
    outstanding_bytes_max: int = Field(16 * MIB, ge=4 * MIB, description="Bytes of those commands.")
    waiting_operations_max: int = Field(20_000, ge=1, description="Operations that wait to be sent; then 429.")
    waiting_bytes_max: int = Field(64 * MIB, ge=MIB, description="Bytes of the operations that wait; then 429.")
    pull_bytes_max: int = Field(4 * MIB, ge=64 * KIB, description="Message bytes in one answer of consume or peek.")
    merge_count_max: int = Field(256, ge=1, le=10_000, description="Messages that share one record batch.")
    merge_bytes_max: int = Field(
        64 * KIB, ge=KIB, le=MIB, description="Bytes of the messages that share one record batch."
    )
    polls_max: int = Field(10_000, ge=1, description="Consumes that wait for messages; then 429.")
    index_waits_max: int = Field(10_000, ge=1, description="Requests that wait for an index; then 429.")
    fresh_wait_ms: int = Field(
        1000, ge=0, description="How long an empty answer waits for the leader's word that it is not stale."
    )
    expiry_allowance_ms: int = Field(
        250, ge=0, description="How long an operation outlives its client's deadline, for what two clocks differ."
    )
    resend_ms: int = Field(1000, ge=50, description="Commands without progress for so long are sent again.")
    open_retry_ms: int = Field(
        500, ge=50, description="A node's opening that is not applied after so long is proposed again."
    )
    trim_interval_ms: int = Field(
        20, ge=1, description="Least time between two commands that erase 500 keys of trimmed or deleted topics."
    )
    stream_heartbeat_ms: int = Field(
        10_000, ge=100, le=60_000, description="An event stream says something at least so often."
    )
    no_leader_wait_ms: int = Field(
        5000, ge=0, description="How long a write or a linearizable read waits for a leader before 503."
    )

    # Capacity.
    topics_max: int = Field(
        100_000, ge=1, le=100_000, description="Topics, with what is deleted and not erased yet; then 429."
    )
    partitions_per_topic_max: int = Field(256, ge=1, le=256, description="Partitions of one topic; then 400.")
    consumers_per_topic_max: int = Field(10_000, ge=1, le=10_000, description="Consumers of one topic; then 429.")
    delayed_per_topic_max: int = Field(
        100_000, ge=1, le=10_000_000, description="Messages of one topic that wait for their time; then 429."
    )
    delayed_max: int = Field(1_000_000, ge=1, le=10_000_000, description="The same of all topics; then 429.")
    dedupe_per_topic_max: int = Field(
        100_000, ge=1, le=3_000_000, description="Keys and producers of one topic that are remembered; then 429."
    )
    dedupe_max: int = Field(
        300_000, ge=1, le=3_000_000, description="The same of all topics, about 150 MB of memory; then 429."
    )
    held_per_consumer_max: int = Field(
        50_000, ge=1, le=50_000, description="Messages that one consumer has in hand; then 429 for fresh ones."
    )
    held_max: int = Field(
        300_000, ge=1, le=3_000_000, description="The same of all consumers, about 150 MB of memory; then 429."
    )

    # Gateway.
    body_bytes_max: int = Field(MIB, ge=KIB, le=3 * MIB, description="Bytes of a request body; then 413.")
    batch_bytes_max: int = Field(
        4 * MIB, ge=KIB, le=16 * MIB, description="Bytes of the body of a batch of messages; then 413."
    )
    json_depth_max: int = Field(64, ge=8, le=200, description="Nesting of a JSON body; then 400.")
    request_line_bytes_max: int = Field(8190, ge=1024, description="Bytes of a request line; then 400.")
    header_bytes_max: int = Field(8190, ge=1024, description="Bytes of one request header; then 400.")
    request_timeout_ms: int = Field(10_000, ge=100, description="How long a request may take without waitMs; then 504.")
    long_poll_ms_max: int = Field(20_000, ge=0, le=60_000, description="Largest waitMs of a consume.")
    connections_max: int = Field(10_000, ge=1, description="Open client connections; more are closed at once.")
    requests_max: int = Field(10_000, ge=1, description="Requests in progress; then 429. Probes are always answered.")
    keepalive_ms: int = Field(75_000, ge=0, description="How long an idle client connection stays open.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (its place in the library's call)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file that either of them names."""
        assert isinstance(init_settings, InitSettingsSource)
        path = init_settings.init_kwargs.get("config") or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
        if path is None:
            return init_settings, env_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(str(path)))

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.peers and self.node_id not in self.peers:
            raise ValueError(f"node_id is '{self.node_id}', but peers has only {', '.join(self.peers)}; add it there")
        if self.election_timeout_min_ms < 3 * self.heartbeat_ms:
            raise ValueError(
                f"election_timeout_min_ms is {self.election_timeout_min_ms}, less than three times heartbeat_ms "
                f"({self.heartbeat_ms}); one late heartbeat would start an election"
            )
        if self.election_timeout_max_ms <= self.election_timeout_min_ms:
            raise ValueError("election_timeout_max_ms must be larger than election_timeout_min_ms, or elections tie")
        self._check_exposure()
        return self

    def _check_exposure(self) -> None:
        exposed = {"http_address": self.http_address}
        if self.is_cluster:
            exposed["raft_address"] = self.raft_bind
        for name, address in exposed.items():
            if not address.is_loopback and not self.insecure:
                raise ValueError(
                    f"{name} is {address}, which other machines can reach, and there is no TLS: "
                    "bind to 127.0.0.1, or say --insecure when the network is trusted"
                )
        if self.is_cluster and not self.raft_bind.is_loopback and not self.cluster_secret.get_secret_value():
            raise ValueError(
                f"raft_address is {self.raft_bind}, which other machines can reach: set FALCONQ_CLUSTER_SECRET to the "
                "same secret on all nodes, so that only they can join"
            )

    @property
    def is_cluster(self) -> bool:
        """Whether there is another member."""
        return len(self.peers) > 1

    @property
    def raft_bind(self) -> Address:
        """Where to listen for the other nodes."""
        return self.raft_address or self.peers.get(self.node_id, Address("127.0.0.1", 7000))

    @property
    def advertised_http(self) -> Address:
        """What to tell others as the HTTP address."""
        return self.http_advertise or self.http_address


def load_settings(flags: Mapping[str, object] | None = None) -> Settings:
    """Reads all sources; a flag that is None was not given. Raises: ConfigurationError."""
    given: dict[str, Any] = {name: value for name, value in (flags or {}).items() if value is not None}
    config = given.get("config") or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    if config is not None and not Path(str(config)).is_file():
        raise ConfigurationError(f"config names {config}, which is not a file")
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(describe_problems(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{config} is not TOML: {error}") from error


def describe_problems(error: ValidationError) -> str:
    """One sentence for each problem, naming the setting in each of its spellings."""
    sentences = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            sentences.append(f"'{name}' is not a setting; docs/configuration.md lists them all")
        elif name:
            shown = "" if name == "cluster_secret" else f" = {problem['input']!r}"
            flag = name.replace("_", "-")
            sentences.append(f"{name}{shown} (--{flag}, {ENVIRONMENT_PREFIX}{name.upper()}): {text}")
        else:
            sentences.append(text)
    return "; ".join(sentences)
