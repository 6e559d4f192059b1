"""The hub process with a file for a cloud: `python -m tests.integration.file_hub --home H --run R`."""

from __future__ import annotations

import sys

from runtime.hub import main
from tests.fakes.file_cloud import file_cloud

if __name__ == "__main__":
    sys.exit(main(make_connections=file_cloud))
