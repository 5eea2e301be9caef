"""What a seed draws before it runs: its own mix and rates of faults, its own speeds and sizes.

What lives here: the profile of a run.
Rules: everything comes from the seed; a mix without a fault is as likely as one with it, because faults that always
come together hide what each of them finds alone (swarm testing, Groce et al. 2012).
Must not know: nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.sim.disk_speed import DiskSpeed
from tests.sim.network import Link
from tests.sim.world import US_PER_MS

FAULTS: dict[str, float] = {
    "crash": 0.6,
    "crash_inside": 0.6,
    "power_loss": 0.4,
    "power_loss_of_all": 0.25,
    "crash_of_all": 0.25,
    "restart_loop": 0.25,
    "leader_crash": 0.4,
    "pause": 0.4,
    "long_pause": 0.15,
    "partition": 0.4,
    "leader_isolated": 0.35,
    "one_way": 0.35,
    "partial": 0.35,
    "cut": 0.4,
    "stall": 0.3,
    "slow_disk": 0.3,
    "hung_disk": 0.3,
    "failing_sync": 0.25,
    "full_disk": 0.2,
    "wipe": 0.3,
    "bit_flip": 0.2,
    "clock_jump": 0.3,
    "clock_drift": 0.25,
    "handover": 0.2,
}
"""fault -> share of seeds that have it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One seed's world."""

    nodes: tuple[str, ...]
    chaos_ms: int
    faults: dict[str, int]
    """fault -> mean milliseconds between two of its kind."""
    latency_us: int
    jitter_us: int
    slow_frames_share: float
    bytes_per_s: int
    disk: DiskSpeed
    publish_interval_ms: int
    """Mean pause of a publisher between two operations."""
    publishers: int
    consumers: int
    message_bytes_max: int
    flush_entries: int
    journal_keep_entries: int
    segment_bytes: int
    snapshot_chunk_bytes: int
    is_wall_skewed: bool
    once_publishers: int = 0
    """Publishers that repeat until they know, by key and by sequence in turn."""
    readers: int = 0
    """Clients that make linearizable reads."""
    has_workers: bool = False
    """Whether there are topics with policies, and workers that lease what is in them."""
    has_keepers: bool = False
    """Whether there are topics that do not keep everything, with clients of their own."""
    has_orders: bool = False
    """Whether there are consumers with an order, those who move consumers, and event streams."""
    batch_publishers: int = 0
    """Publishers of atomic and delayed batches."""
    has_windows: bool = False
    """Whether topics have dedupe windows that end before a client has given up, and are changed."""

    def make_link(self, random: Random) -> Link:
        """A link of this profile; no two are alike."""
        scale = random.choice((1, 1, 1, 3))
        return Link(
            self.latency_us * scale, self.jitter_us * scale, self.bytes_per_s, slow_share=self.slow_frames_share
        )


def draw_profile(random: Random, *, node_count: int) -> Profile:
    """A profile for one seed."""
    eagerness = random.choice((1, 2, 4))
    faults = {}
    for fault, share in FAULTS.items():
        is_in = random.random() < share
        mean_ms = int(random.uniform(4_000, 25_000)) // eagerness
        if is_in:
            faults[fault] = mean_ms
    return Profile(
        nodes=tuple(f"n{number}" for number in range(1, node_count + 1)),
        chaos_ms=random.choice((15_000, 25_000, 40_000)),
        faults=faults,
        latency_us=random.choice((100, 300, 1000, 5000, 20_000)),
        jitter_us=random.choice((100, 1000, 5000, 30_000)),
        slow_frames_share=random.choice((0.0, 0.0, 0.01, 0.05)),
        bytes_per_s=random.choice((1, 10, 100)) * 1_000_000,
        disk=_draw_disk(random),
        publish_interval_ms=random.choice((50, 150, 400)),
        publishers=random.choice((2, 4, 6)),
        consumers=random.choice((1, 2, 3)),
        message_bytes_max=random.choice((40, 300, 3000)),
        flush_entries=random.choice((5, 20, 100, 1000)),
        journal_keep_entries=random.choice((0, 5, 20, 200)),
        segment_bytes=random.choice((4, 16, 64)) * 1024,
        snapshot_chunk_bytes=random.choice((16_000, 60_000, 250_000)),
        is_wall_skewed=random.random() < 0.5,
    )


def _draw_disk(random: Random) -> DiskSpeed:
    return DiskSpeed(
        step_us=random.choice((50, 300, 2000)),
        jitter_us=random.choice((100, 1500, 10_000)),
        slow_share=random.choice((0.0, 0.01, 0.1)),
        slow_us=random.choice((20, 100, 600)) * US_PER_MS,
    )
