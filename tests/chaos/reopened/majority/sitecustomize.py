"""A node that started with this on its path takes for committed, while it leads, what is on its own disk.

So a leader that is cut off acknowledges what is thrown away when it returns.
"""

from __future__ import annotations

from falconq_cluster.raft.driver import RaftDriver

apply_committed = RaftDriver._apply_committed


def hasty(driver: RaftDriver) -> None:
    core = driver.core
    if core.library.leads:
        core.library.commit_index = max(core.library.commit_index, core.journal.synced_index)
    apply_committed(driver)


RaftDriver._apply_committed = hasty  # type: ignore[method-assign, assignment]
