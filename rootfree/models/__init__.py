"""Models: functions of (num_classes, image_size) that return a `torch.nn.Module`."""
