"""One process: settings in, a running node, an exit code out.

What lives here: the order in which a process starts and stops, and the only place that constructs its parts.
Rules: one process a data directory (a lock). SIGTERM or SIGINT: hand leadership over, finish what clients wait for,
stop, flush, exit 0. What must not go on ends the process at once, with code 70 (bug, divergence) or 74 (disk); a
start that can't work ends with 78 and a sentence.
Must not know: rules of consensus or of topics.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable
from functools import partial

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from falconq_cluster import __version__
from falconq_cluster.broker.limits import BrokerLimits
from falconq_cluster.broker.service import BrokerService
from falconq_cluster.clock import LoopClock
from falconq_cluster.config import Settings
from falconq_cluster.damage import EXIT_DISK, DamageGuard
from falconq_cluster.errors import ConfigurationError, CorruptionError, StopProcess
from falconq_cluster.gateway.server import Gateway, GatewayLimits
from falconq_cluster.machine.capacity import Capacity, capacity_of
from falconq_cluster.machine.limits import MachineLimits
from falconq_cluster.node import MakeNetwork, Node, NodeParts, NodeSettings
from falconq_cluster.observing import NodeObserver, TimedDiskWorker
from falconq_cluster.raft.core import RaftTimes
from falconq_cluster.raft.disk_worker import ThreadDiskWorker
from falconq_cluster.raft.frames import Hello
from falconq_cluster.raft.seams import PeerEvents
from falconq_cluster.raft.transport import PeerTransport
from falconq_cluster.raft.transport_connection import TransportLimits
from falconq_cluster.status import NodeReport
from falconq_cluster.storage.files import RealFileSystem
from falconq_cluster.storage.leveldb import LevelStore
from falconq_cluster.storage.lock import DirectoryLock
from falconq_cluster.telemetry import Metrics, configure_logging

log = structlog.get_logger(__name__)

EXIT_CONFIGURATION = 78
SWITCH_INTERVAL_S = 0.0005
"""The thread that syncs would else wait 5 ms for the interpreter's lock (RAFT.md section 3)."""
TRANSFER_TIMEOUT_S = 2.0


def run(settings: Settings) -> int:
    """Run a node until it is told to stop; returns the process's exit code."""
    configure_logging(level=settings.log_level, log_format=settings.log_format, node=settings.node_id)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        RealFileSystem().make_directory(str(settings.data_dir))
        with DirectoryLock(settings.data_dir):
            uvloop.run(_Process(settings).run())
    except (ConfigurationError, CorruptionError) as error:
        log.error("start_refused", reason=str(error))
        return EXIT_CONFIGURATION
    except OSError as error:
        log.error("start_failed", reason=str(error))
        return EXIT_DISK
    return 0


class _Process:
    """The parts of a running node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._raft_addresses = {name: str(address) for name, address in settings.peers.items()}
        self._damage = DamageGuard(RealFileSystem(), str(settings.data_dir), _end_process)

    async def run(self) -> None:
        """Start, serve until a signal comes, stop."""
        settings = self._settings
        self._damage.check()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_loop_failed)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self._clock = LoopClock(loop)
        self._metrics = Metrics(CollectorRegistry())
        self._disk = ThreadDiskWorker(loop, name="falconq-sync")
        self._background = ThreadDiskWorker(loop, name="falconq-flush")
        self._transport: PeerTransport | None = None
        self._node = Node(self._node_settings(), self._node_parts())
        self._service = BrokerService(self._node.broker, loop)
        NodeObserver(self._node, self._service, self._metrics)
        self._gateway = Gateway(
            service=self._service,
            node=NodeReport(self._node, self._raft_addresses),
            clock=self._clock,
            metrics=self._metrics,
            limits=self._gateway_limits(),
        )
        self._damage.is_serving = True
        if self._transport is not None:
            await self._transport.start()
        self._node.start()
        address = await self._gateway.start(settings.http_address)
        log.info("node_started", version=__version__, http=str(address), data_dir=str(settings.data_dir))
        await stop.wait()
        await self._stop()

    async def _stop(self) -> None:
        """Leadership first, so that the others go on before this node's clients are sent away."""
        log.info("node_stopping")
        self._node.raft.is_draining = True
        await self._hand_over()
        await self._gateway.drain(self._settings.drain_ms)
        self._node.stop()
        if self._transport is not None:
            await self._transport.stop()
        self._disk.stop()
        self._background.stop()
        log.info("node_stopped")

    async def _hand_over(self) -> None:
        moved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def done(value: bool) -> None:  # noqa: FBT001  # the seam's shape
            if not moved.done():
                moved.set_result(value)

        self._node.raft.transfer_leadership(done)
        try:
            async with asyncio.timeout(TRANSFER_TIMEOUT_S):
                is_moved = await moved
        except TimeoutError:
            is_moved = False
        if is_moved:
            log.info("leadership_moved", leader=self._node.raft.leader)

    def _node_settings(self) -> NodeSettings:
        settings = self._settings
        return NodeSettings(
            node_id=settings.node_id,
            members=tuple(sorted(settings.peers)) or (settings.node_id,),
            data_dir=str(settings.data_dir),
            times=RaftTimes(
                heartbeat_ms=settings.heartbeat_ms,
                election_timeout_min_ms=settings.election_timeout_min_ms,
                election_timeout_max_ms=settings.election_timeout_max_ms,
                leader_fallback_ms=settings.leader_fallback_ms,
                sync_stall_ms=settings.sync_stall_ms,
                flush_entries=settings.flush_entries,
                journal_bytes_max=settings.journal_bytes_max,
                journal_keep_entries=settings.journal_keep_entries,
                snapshot_chunk_bytes=settings.snapshot_chunk_bytes,
            ),
            broker=BrokerLimits(
                command_bytes_max=settings.command_bytes_max,
                command_operations_max=settings.command_operations_max,
                outstanding_commands_max=settings.outstanding_commands_max,
                outstanding_bytes_max=settings.outstanding_bytes_max,
                waiting_operations_max=settings.waiting_operations_max,
                waiting_bytes_max=settings.waiting_bytes_max,
                pull_bytes_max=settings.pull_bytes_max,
                merge_count_max=settings.merge_count_max,
                merge_bytes_max=settings.merge_bytes_max,
                polls_max=settings.polls_max,
                index_waits_max=settings.index_waits_max,
                fresh_wait_ms=settings.fresh_wait_ms,
                expiry_allowance_ms=settings.expiry_allowance_ms,
                resend_ms=settings.resend_ms,
                open_retry_ms=settings.open_retry_ms,
                trim_interval_ms=settings.trim_interval_ms,
                stream_heartbeat_ms=settings.stream_heartbeat_ms,
                no_leader_wait_ms=settings.no_leader_wait_ms,
                auto_create=settings.auto_create,
                capacity=capacity_from(settings),
            ),
            journal_segment_bytes=settings.journal_segment_bytes,
            journal_cache_bytes=settings.journal_cache_bytes,
            http_address=str(settings.advertised_http),
        )

    def _node_parts(self) -> NodeParts:
        return NodeParts(
            clock=self._clock,
            files=RealFileSystem(),
            disk=TimedDiskWorker(self._disk, self._metrics.journal_sync_latency.observe),
            background=self._background,
            open_store=partial(LevelStore.open, on_damage=self._damage.met),
            chance=random.SystemRandom(),
            make_network=self._make_network(),
            on_fatal=_end_process,
            log=log.info,
        )

    def _make_network(self) -> MakeNetwork:
        settings = self._settings

        def make(events: PeerEvents, hello: Callable[[], Hello], judge: Callable[[Hello], str | None]) -> PeerTransport:
            others = {name: address for name, address in self._raft_addresses.items() if name != settings.node_id}
            transport = PeerTransport(
                node_id=settings.node_id,
                bind_address=str(settings.raft_bind),
                peers=others,
                secret=settings.cluster_secret.get_secret_value().encode(),
                hello=hello,
                judge=judge,
                events=events,
                limits=TransportLimits(
                    frame_bytes_max=settings.frame_bytes_max,
                    outbound_bytes_max=settings.outbound_bytes_max,
                    handshake_timeout_ms=settings.handshake_timeout_ms,
                    connect_timeout_ms=settings.connect_timeout_ms,
                    idle_timeout_ms=settings.peer_idle_timeout_ms,
                ),
            )
            if others:
                self._transport = transport
            return transport

        return make

    def _gateway_limits(self) -> GatewayLimits:
        settings = self._settings
        return GatewayLimits(
            body_bytes_max=settings.body_bytes_max,
            batch_bytes_max=settings.batch_bytes_max,
            json_depth_max=settings.json_depth_max,
            request_line_bytes_max=settings.request_line_bytes_max,
            header_bytes_max=settings.header_bytes_max,
            request_timeout_ms=settings.request_timeout_ms,
            long_poll_ms_max=settings.long_poll_ms_max,
            connections_max=settings.connections_max,
            requests_max=settings.requests_max,
            keepalive_ms=settings.keepalive_ms,
        )


def capacity_from(settings: Settings) -> Capacity:
    """What the node's commands say of its limits."""
    return capacity_of({name: getattr(settings, name) for name in Capacity.__struct_fields__}, MachineLimits())


def _loop_failed(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What no task or callback caught: a reason to stop ends the process, the rest is logged."""
    error = context.get("exception")
    if isinstance(error, StopProcess):
        _end_process(error)
    log.error("loop_failed", reason=str(context.get("message")), error=repr(error))


def _end_process(reason: StopProcess) -> None:
    """Nothing of this process may leave it any more: no drain, no flush, no answer."""
    log.error("process_ended", reason=reason.reason, exit_code=reason.exit_code)
    sys.stderr.flush()
    os._exit(reason.exit_code)
