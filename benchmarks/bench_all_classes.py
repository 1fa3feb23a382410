"""Every class of an image at once, ``targets="all"``, against the plain forward; equal to one class at a time first."""

from __future__ import annotations

import argparse

import torch
from harness import HostTimer, measure

import camfast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet50"], help="torchvision classifiers (%(default)s)")
    parser.add_argument("--methods", nargs="+", default=["grad_cam", "cam"], help="methods (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads (%(default)s)")
    parser.add_argument("--device", default="cpu", help="device (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="of measurement a model (%(default)s)")
    options = parser.parse_args()
    from torchvision.models import get_model

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    for name in options.models:
        model = get_model(name, weights=None).eval().to(options.device)
        x = torch.randn(options.batch, 3, 224, 224, device=options.device)
        wait = torch.cuda.synchronize if x.is_cuda else None

        def forward(model=model, x=x):
            with torch.inference_mode():
                return model(x)

        timers = {"forward": HostTimer(forward, wait)}
        for method in options.methods:
            explainer = camfast.METHODS[method](model)
            found = explainer(x, "all").heatmap
            for c in (0, 499, 999):
                one = explainer(x, c, size="map").heatmap
                torch.testing.assert_close(found[:, c], one, rtol=0, atol=2e-5)
            timers[method] = HostTimer(lambda explainer=explainer, x=x: explainer(x, "all"), wait)
        results = measure(timers, seconds=options.seconds)
        base = results["forward"]
        print(f"{name}, batch {options.batch}, forward {base.median * 1000:.1f} ms")
        for method in options.methods:
            own = results[method]
            print(
                f"  {method}, {found.shape[1]} maps: {own.ratio(base):.3f}x ({own.minimum / base.minimum:.3f}x of minima)"
            )


if __name__ == "__main__":
    main()
