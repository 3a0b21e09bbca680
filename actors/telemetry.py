"""Keep libraries from reporting to others that they are used."""

import sys


def refuse_telemetry() -> None:
    """Keep OpenVINO, which is imported after this, from reporting to Google Analytics that it was imported.

    OpenVINO does without the package that reports where it isn't installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
