"""Who does the work: this process, or workers on many machines.

A stage describes its work as tasks that do not depend on each other and a worker that does one at a time. An engine
runs them: `Local` here and now, one after the other; `RayEngine` on the machines of a Ray cluster, where workers may
die and tasks are handed out again. What a task leaves behind is the same, byte for byte, whoever did it.
"""
