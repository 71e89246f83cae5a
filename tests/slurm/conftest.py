"""These tests start a cluster, so they run where they are asked for: make test-slurm."""

import os

collect_ignore_glob = [] if os.environ.get("NARAE_TEST_SLURM") else ["test_*.py"]
