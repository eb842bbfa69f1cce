"""Group agents into stages, plan the stages' replicas, and place replicas on machines. Arithmetic only."""
