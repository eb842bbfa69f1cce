"""Train agents and downstream models by SFT and DPO, with TRL and PEFT on Ray Train."""
