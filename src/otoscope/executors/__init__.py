"""Executors: where tasks run.

- `find_executor`: an executor by name: `local`, `ray`, `ray://HOST:PORT`
- `LocalExecutor`: this process, one task after the other
- `otoscope.executors.ray.RayExecutor`: actors on a Ray cluster (extra `ray`)
- `Executor`: the protocol; its events are `TaskProgress`, `Done` and `WorkerLost`
- `run_tasks`: one result per task, retried if a worker dies
"""

from otoscope.executors.base import Done, Executor, LocalExecutor, TaskProgress, WorkerLost, find_executor, run_tasks

__all__ = ["Done", "Executor", "LocalExecutor", "TaskProgress", "WorkerLost", "find_executor", "run_tasks"]
