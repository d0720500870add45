"""Many scenes: found, paired, run each in its own process, and gone on with where it was stopped."""

from hsi_fuse.batch.events import Event
from hsi_fuse.batch.plan import BatchPlan, plan_batch
from hsi_fuse.batch.schedule import BatchResult, run_batch

__all__ = ["BatchPlan", "BatchResult", "Event", "plan_batch", "run_batch"]
