"""How faithful heatmaps are, as in ``pytorch_grad_cam.metrics``."""
