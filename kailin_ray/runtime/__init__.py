"""Ray: session, machines, tasks, signals, faults, job submission."""
