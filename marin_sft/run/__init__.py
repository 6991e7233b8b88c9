"""Commands: `ray_run` sends a script to a Ray cluster, `marin-sft` looks into a store and at a cluster."""
