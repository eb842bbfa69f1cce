"""Ray: session, machines, tasks, signals, faults and job submission."""
