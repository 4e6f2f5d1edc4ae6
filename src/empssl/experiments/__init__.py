"""Many runs: grids, and the paper."""
