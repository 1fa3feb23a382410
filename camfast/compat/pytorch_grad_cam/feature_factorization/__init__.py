"""What a layer tells apart, as in ``pytorch_grad_cam.feature_factorization``."""
