"""An untrained YOLOv8n, for tests that need a checkpoint but no sensible detections."""

import os
from pathlib import Path

# ultralytics reads these on import. They turn off pip, network access, usage reports and console output.
os.environ.update(YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false", YOLO_OFFLINE="1")


def save_random_checkpoint(path: Path) -> Path:
    """Write a YOLOv8n whose random weights give different scores at different places; return the path."""
    import torch
    from ultralytics import YOLO

    torch.manual_seed(1)
    model = YOLO("yolov8n.yaml", task="detect")
    network = model.model
    network.names = {index: f"class {index}" for index in range(80)} | {0: "person"}
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.rand(4, 3, 320, 320))
        network.eval()
        for branch in network.model[-1].cv3:
            branch[-1].weight.mul_(60)
            branch[-1].bias.fill_(-4)
            branch[-1].bias[0] = -1
    model.save(str(path))
    return path
