"""`python -m optimizer`."""

import os

from optimizer.cli.app import main

if __name__ == "__main__":
    # The wheels of ONNX Runtime report use to their maker unless told not to before the first session.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    main()
